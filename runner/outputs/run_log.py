# SPDX-License-Identifier: Apache-2.0
"""``NAME.log``: what happened and what cells printed, on the disk as it happens.

Pods vanish with their logs, so everything is on the workspace too. A full disk ends the log,
not the notebook. Nor may a log fill the disk: a client that retries for ever prints the same line
thousands of times a second. So runs of one line are folded, and of a log that grows too long the
middle is cut out, so that its beginning and its latest lines are there at any time.
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
"""A log is as long as its head and twice its tail at most; then its middle is cut out."""

_LINE_BYTES = 64_000
KEPT = 10
"""So many repetitions of a line are written before the rest is counted only."""
_LONGEST = 4096
"""Longer lines that arrive in parts are not compared."""


class RunLog:
    """The log file of one run; also takes the lines of `runner.core.log`.

    Parameters
    ----------
    path
        ``NAME.log``.
    redactor
        Applied to events; and, once its colours are gone, to what cells print.

    Raises
    ------
    RecordError
        The file cannot be made.
    """

    def __init__(self, path: Path, redactor: Redactor) -> None:
        self.path = path
        self._redactor = redactor
        self._printed = redactor.stream()
        self._folder = Folder()
        self._size = 0
        self._head_bytes = self._note_bytes = 0
        self.left_out_bytes = 0
        """What was cut out of the middle."""
        self._lock = threading.RLock()  # a signal handler may log in the middle of a line
        self._fresh_line = True
        self.problem: str | None = None
        """Why writing stopped, if it did."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("ab+", buffering=0)
        except OSError as error:
            raise files.cannot_write(path, error) from error
        # stderr is a file too, the log of a Pod: what is kept out of ours must not stand there.
        self._remove = (log.add_mask(redactor.text), log.add_sink(self.event))

    def event(self, line: str) -> None:
        """Write one event on a line of its own."""
        with self._lock:
            self._write(self._folder.feed(self._printed.flush()))
            start = "" if self._fresh_line else "\n"
            self._write(f"{start}{self._folder.flush()}{self._redactor.text(line)}\n")

    def printed(self, text: str) -> None:
        """Write what a cell printed, without colours; what they separated comes together only here."""
        with self._lock:
            self._write(self._folder.feed(self._printed.feed(without_colours(text))))

    def _write(self, text: str) -> None:
        if not text or self.problem is not None:
            return
        try:
            data = memoryview(text.encode(errors="replace"))
            while data:  # unbuffered: on a disk that fills up, a write may take a part only
                written = self._stream.write(data)
                data = data[written:]
                self._size += written
            if self._size > HEAD_BYTES + 2 * TAIL_BYTES:
                self._cut_out_the_middle()
        except OSError as error:
            self.problem = f"{error.strerror or error}"
        self._fresh_line = text.endswith("\n")

    def _cut_out_the_middle(self) -> None:
        """Leave the head and the tail; who is killed in between loses the tail and nothing else."""
        handle = self._stream.fileno()
        size = os.fstat(handle).st_size
        tail = os.pread(handle, TAIL_BYTES, size - TAIL_BYTES)
        tail = tail[tail.find(b"\n") + 1 :]
        if self.left_out_bytes == 0:
            near = max(0, HEAD_BYTES - _LINE_BYTES)
            self._head_bytes = near + os.pread(handle, HEAD_BYTES - near, near).rfind(b"\n") + 1 or HEAD_BYTES
        # What is lost now, and the last note, which counted what was lost before.
        self.left_out_bytes += size - self._head_bytes - len(tail) - self._note_bytes
        note = f"[{format_bytes(self.left_out_bytes)} of this log are left out here]\n".encode()
        os.ftruncate(handle, self._head_bytes)
        for data in (note, tail):
            left = memoryview(data)
            while left:
                left = left[self._stream.write(left) :]
        self._note_bytes = len(note)
        self._size = self._head_bytes + len(note) + len(tail)

    @property
    def bounds(self) -> str | None:
        """What the log does not hold because of its bounds, in words."""
        parts = []
        if self._folder.folded_lines:
            parts.append(f"{format_count(self._folder.folded_lines, 'repeated line')} folded")
        if self.left_out_bytes:
            parts.append(f"{format_bytes(self.left_out_bytes)} left out of its middle")
        return " and ".join(parts) or None

    def close(self) -> None:
        """Stop taking lines."""
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
        """Close; a fault of our own leaves its traceback first."""
        if isinstance(error, Exception) and not isinstance(error, RunnerError):
            self.event("--- internal error in runner ---")
            self.printed("".join(traceback.format_exception(error)))
        self.close()


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
