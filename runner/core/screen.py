# SPDX-License-Identifier: Apache-2.0
"""A live display at the bottom of a terminal, redrawn in place below scrolling output.

One thread draws; other threads and signal handlers only append lines to a queue, so that a paused (Ctrl-S) or closed
terminal blocks nothing. Terminal modes are not changed and the cursor is never hidden: a stopped or killed process
leaves nothing to restore.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Self

_EVERY_SECONDS = 0.25
_LAST_SECONDS = 2.0
"""How long the exit waits for a paused terminal."""
_MOST_LINES = 2_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_screen() -> bool:
    """Return True if stderr is a terminal that can move its cursor."""
    return (
        sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in {None, "", "dumb", "unknown"}
    )


def plain(text: str) -> str:
    """Return a text without terminal control characters."""
    return _CONTROL.sub("�", text)


class Screen:
    """Shows the lines of a function below the output to stderr.

    Parameters
    ----------
    draw
        Called in a thread with width and height; returns lines of at most this width, which may be coloured.
    """

    def __init__(self, draw: Callable[[int, int], list[str]]) -> None:
        self._draw = draw
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)
        self._drawn: list[str] = []
        self._width = 0
        self._stopped = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._restore = contextlib.ExitStack()

    def print(self, text: str) -> None:
        """Print above the live display; safe in signal handlers."""
        self._lines.append(plain(text.rstrip("\n")))

    def __enter__(self) -> Self:
        self._fd = os.dup(sys.stderr.fileno())  # the thread's own: it may outlive the current stderr
        self._draw(80, 24)  # import what drawing needs before processes are forked beside the thread
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._stop)
            self._restore.callback(signal.signal, signal.SIGTSTP, signal.SIG_DFL)
        self._restore.enter_context(contextlib.redirect_stderr(_Lines(self.print)))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(_LAST_SECONDS)
        self._restore.close()

    def _stop(self, *_: object) -> None:
        """Suspend on Ctrl-Z, and continue below the output of the shell."""
        self._stopped = True
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._stop)
        self._drawn, self._stopped = [], False

    def _run(self) -> None:
        with os.fdopen(self._fd, "wb"), contextlib.suppress(OSError):  # the terminal is gone
            while not self._over.wait(_EVERY_SECONDS):
                if not self._stopped:
                    self._write(wanted=True)
            self._write(wanted=False)

    def _write(self, *, wanted: bool) -> None:
        size = os.get_terminal_size(self._fd)
        alone = self._in_foreground()
        if not alone or size.columns != self._width:  # another process writes here, or drawn lines may be wrapped now
            self._width = size.columns
            self._drawn = []
        width, height = size.columns or 80, size.lines or 24
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        below = self._draw(width - 1, height - 2) if wanted and alone else []
        if lines or below != self._drawn:
            up = f"\r\x1b[{len(self._drawn)}A\x1b[J" if self._drawn else ""
            self._drawn = below
            data = (up + "".join(f"{line}\n" for line in lines + below)).encode(errors="replace")
            while data:
                data = data[os.write(self._fd, data) :]

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:  # not our controlling terminal: no shell shares it
            return True


class _Lines(io.TextIOBase):
    """A text stream that passes on complete lines."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)
