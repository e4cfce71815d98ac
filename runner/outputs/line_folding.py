# SPDX-License-Identifier: Apache-2.0
"""Repeated lines of a log, folded into one note.

A client that retries for ever prints the same line thousands of times a second, and a shared volume
fills up with it.
"""

from __future__ import annotations

KEPT = 10
"""So many repetitions of a line are written before the rest is counted only."""
_LONGEST = 4096
"""Longer lines that arrive in parts are not compared."""


class Folder:
    """Text in pieces in; the same text without long runs of one line out."""

    def __init__(self) -> None:
        self.folded_lines = 0
        """Lines that were counted and not written."""
        self._last: str | None = None
        self._same = 0
        self._open = ""
        """The beginning of a line whose end has not come; it has been written."""

    def feed(self, text: str) -> str:
        """Return what is to be written now; text without a newline is written at once."""
        *lines, rest = text.split("\n")
        out = []
        if lines and self._open:
            end, line = lines[0], self._open + lines[0]
            del lines[0]
            out.append(f"{end}\n")
            if line != self._last or len(line) > _LONGEST:
                self._last, self._same = line, 0
            self._open = ""
        for line in lines:
            if line == self._last:
                self._same += 1
                if self._same <= KEPT:
                    out.append(f"{line}\n")
            else:
                out.append(f"{self._note()}{line}\n")
                self._last, self._same = line, 0
        if rest:
            out.append(f"{self._note()}{rest}")
            self._open = (self._open + rest)[: _LONGEST + 1]
        return "".join(out)

    def flush(self) -> str:
        """Return the note on what has been folded so far; a line of somebody else comes next."""
        self._open = ""
        return self._note()

    def _note(self) -> str:
        count, self._same = self._same - KEPT, min(self._same, KEPT)
        if count <= 0:
            return ""
        self.folded_lines += count
        return f"[the same line {count:,} more times]\n"
