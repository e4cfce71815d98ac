# SPDX-License-Identifier: Apache-2.0
"""``NAME.log``: events and the output of cells, written unbuffered.

Pods vanish with their logs, so everything is in the workspace too. A full disk ends the log, not the notebook. Nor may
a log fill the disk: a client that retries forever prints the same line thousands of times a second. So repeated lines
are folded, and a log that grows too long loses its middle, but never its beginning or its latest lines.
"""

from __future__ import annotations

import os
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Self

from runner.core import files, log
from runner.core.errors import RunnerError
from runner.core.surrogates import without_colours
from runner.core.units import format_bytes, format_count

if TYPE_CHECKING:
    from runner.core.redact import Redactor

HEAD_BYTES = 256_000_000
TAIL_BYTES = 32_000_000
"""A log longer than its head and twice its tail is cut to head and tail."""

_LINE_BYTES = 64_000
KEPT = 10
"""Repetitions of a line that are written; further ones are only counted."""
_LONGEST = 4096
"""Longer lines that arrive in chunks are not compared."""


class RunLog:
    """The log file of one run, which also receives the lines of `runner.core.log`.

    Parameters
    ----------
    path
        ``NAME.log``.
    redactor
        Applied to events, and to the output of cells without its colours.

    Raises
    ------
    RecordError
        The file cannot be created.
    """

    def __init__(self, path: Path, redactor: Redactor) -> None:
        self.path = path
        self._redactor = redactor
        self._printed = redactor.stream()
        self._folder = Folder()
        self._size = 0
        self._head_bytes = self._note_bytes = 0
        self.left_out_bytes = 0
        """Bytes removed from the middle."""
        self._lock = threading.RLock()  # a signal handler may log during a write
        self._fresh_line = True
        self.problem: str | None = None
        """Why writing stopped, if it did."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("ab+", buffering=0)
        except OSError as error:
            raise files.cannot_write(path, error) from error
        # stderr ends up in a file too, the log of a Pod, and needs the same redaction.
        self._remove = (log.add_mask(redactor.text), log.add_sink(self.event))

    def event(self, line: str) -> None:
        """Write one event on a separate line."""
        with self._lock:
            self._write(self._folder.feed(self._printed.flush()))
            start = "" if self._fresh_line else "\n"
            self._write(f"{start}{self._folder.flush()}{self._redactor.text(line)}\n")

    def printed(self, text: str) -> None:
        """Write the output of a cell without colours, which may have split a secret."""
        with self._lock:
            self._write(self._folder.feed(self._printed.feed(without_colours(text))))

    def _write(self, text: str) -> None:
        if not text or self.problem is not None:
            return
        try:
            data = memoryview(text.encode(errors="replace"))
            while data:  # unbuffered: on a disk that fills up, a write may be partial
                written = self._stream.write(data)
                data = data[written:]
                self._size += written
            if self._size > HEAD_BYTES + 2 * TAIL_BYTES:
                self._drop_middle()
        except OSError as error:
            self.problem = f"{error.strerror or error}"
        self._fresh_line = text.endswith("\n")

    def _drop_middle(self) -> None:
        """Keep the head and the tail; a kill in between loses only the tail."""
        handle = self._stream.fileno()
        size = os.fstat(handle).st_size
        tail = os.pread(handle, TAIL_BYTES, size - TAIL_BYTES)
        tail = tail[tail.find(b"\n") + 1 :]
        if self.left_out_bytes == 0:
            near = max(0, HEAD_BYTES - _LINE_BYTES)
            self._head_bytes = near + os.pread(handle, HEAD_BYTES - near, near).rfind(b"\n") + 1 or HEAD_BYTES
        # Bytes lost now, without the previous note, which counted those lost before.
        self.left_out_bytes += size - self._head_bytes - len(tail) - self._note_bytes
        note = f"[{format_bytes(self.left_out_bytes)} of this log omitted here]\n".encode()
        os.ftruncate(handle, self._head_bytes)
        for data in (note, tail):
            left = memoryview(data)
            while left:
                left = left[self._stream.write(left) :]
        self._note_bytes = len(note)
        self._size = self._head_bytes + len(note) + len(tail)

    @property
    def bounds(self) -> str | None:
        """Description of the folded and omitted parts, None if the log is complete."""
        parts = []
        if self._folder.folded_lines:
            parts.append(f"{format_count(self._folder.folded_lines, 'repeated line')} folded")
        if self.left_out_bytes:
            parts.append(f"{format_bytes(self.left_out_bytes)} omitted from the middle")
        return " and ".join(parts) or None

    def close(self) -> None:
        """Write the rest and close the file."""
        for remove in self._remove:
            remove()
        with self._lock:
            self._write(self._folder.feed(self._printed.flush()))
            start = "" if self._fresh_line else "\n"
            note = self._folder.flush()
            self._write(f"{start}{note}" if note else "")
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Close the log, after writing the traceback of an internal error."""
        if isinstance(error, Exception) and not isinstance(error, RunnerError):
            self.event("--- internal error in runner ---")
            self.printed("".join(traceback.format_exception(error)))
        self.close()


class Folder:
    """Folds repeated lines of text that arrives in chunks."""

    def __init__(self) -> None:
        self.folded_lines = 0
        """Lines counted but not written."""
        self._last: str | None = None
        self._same = 0
        self._open = ""
        """The part of an incomplete line that has been written."""

    def feed(self, text: str) -> str:
        """Return the text to write now; text without a newline is written at once."""
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
        """Return the note on lines folded so far, before a line from elsewhere is written."""
        self._open = ""
        return self._note()

    def _note(self) -> str:
        count, self._same = self._same - KEPT, min(self._same, KEPT)
        if count <= 0:
            return ""
        self.folded_lines += count
        return f"[the same line {count:,} more times]\n"
