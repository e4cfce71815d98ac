# SPDX-License-Identifier: Apache-2.0
"""``NAME.log``: what happened and what cells printed, on the disk as it happens.

Pods vanish with their logs, so everything is on the workspace too. A full disk ends the log,
not the notebook.
"""

from __future__ import annotations

import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Self

from runner import files, log
from runner.errors import RunnerError
from runner.notebook.characters import without_colours

if TYPE_CHECKING:
    from runner.redact import Redactor


class RunLog:
    """The log file of one run; also takes the lines of `runner.log`.

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
        self._lock = threading.RLock()  # a signal handler may log in the middle of a line
        self._fresh_line = True
        self.problem: str | None = None
        """Why writing stopped, if it did."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("ab", buffering=0)
        except OSError as error:
            raise files.cannot_write(path, error) from error
        # stderr is a file too, the log of a Pod: what is kept out of ours must not stand there.
        self._remove = (log.add_mask(redactor.text), log.add_sink(self.event))

    def event(self, line: str) -> None:
        """Write one event on a line of its own."""
        with self._lock:
            self._write(self._printed.flush())
            start = "" if self._fresh_line else "\n"
            self._write(f"{start}{self._redactor.text(line)}\n")

    def printed(self, text: str) -> None:
        """Write what a cell printed, without colours; what they stood between comes together only here."""
        with self._lock:
            self._write(self._printed.feed(without_colours(text)))

    def _write(self, text: str) -> None:
        if not text or self.problem is not None:
            return
        try:
            data = memoryview(text.encode(errors="replace"))
            while data:  # unbuffered: on a disk that fills up, a write may take a part only
                written = self._stream.write(data)
                data = data[written:]
        except OSError as error:
            self.problem = f"{error.strerror or error}"
        self._fresh_line = text.endswith("\n")

    def close(self) -> None:
        """Stop taking lines."""
        for remove in self._remove:
            remove()
        with self._lock:
            self._write(self._printed.flush())
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Close; a fault of our own leaves its traceback first."""
        if isinstance(error, Exception) and not isinstance(error, RunnerError):
            self.event("--- fault of runner itself ---")
            self.printed("".join(traceback.format_exception(error)))
        self.close()
