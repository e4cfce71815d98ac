# SPDX-License-Identifier: Apache-2.0
"""Requests to end a run early, from deadlines, signals and the memory guard.

The first request is the recorded reason; later ones have no effect.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType
from typing import Any

from runner.core import log
from runner.core.errors import RunnerError

_LOOK_SECONDS = 0.1


class StopKind(StrEnum):
    """Origin of a request to end the run."""

    CELL_TIMEOUT = "cell-timeout"
    NOTEBOOK_TIMEOUT = "notebook-timeout"
    MEMORY_GUARD = "memory-guard"
    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    SIGHUP = "SIGHUP"


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Sent by an orchestrator, by Ctrl-C, and by a closed terminal."""
_BY_SIGNAL = frozenset(StopKind(number.name) for number in SIGNALS)


def exit_code(number: int) -> int:
    """Return the exit code after one of `SIGNALS`; SIGHUP counts as SIGTERM."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Stop:
    """A request to end the run."""

    kind: StopKind
    detail: str
    monotonic: float = field(default_factory=time.monotonic)

    @property
    def by_signal(self) -> bool:
        """Whether it came from outside, so that little time is left."""
        return self.kind in _BY_SIGNAL

    @property
    def exit_code(self) -> int:
        """Exit code of a run that this request ends."""
        return exit_code(signal.SIGINT if self.kind is StopKind.SIGINT else signal.SIGTERM)


class StoppedError(RunnerError):
    """A request to end the run arrived before or between its stages."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.detail)
        self.stop = stop
        self.exit_code = stop.exit_code


class Stopper:
    """Keeps the first request and notifies a listener. Safe in any thread and in signal handlers.

    A signal handler interrupts the main thread, so nothing here takes a lock: the handler would wait forever for one
    that the main thread holds.
    """

    def __init__(self) -> None:
        self._requests: list[Stop] = []
        self.over = False
        """The record is final: later signals have no effect."""
        self._listener: Callable[[Stop], None] | None = None

    @property
    def stop(self) -> Stop | None:
        """The first request, None if there is none."""
        return self._requests[0] if self._requests else None

    def request(self, kind: StopKind, detail: str) -> None:
        """Request the end of the run; only the first request counts."""
        request = Stop(kind, detail)
        self._requests.append(request)  # atomic: one of two threads is first
        if self._requests[0] is request and self._listener is not None:
            self._listener(request)

    def listen(self, listener: Callable[[Stop], None]) -> None:
        """Call ``listener`` with the first request, at once if it was already made."""
        self._listener = listener
        if self.stop is not None:
            listener(self.stop)

    def sleep(self, seconds: float) -> None:
        """Wait until the time is over or the run is to end.

        Raises
        ------
        StoppedError
            The run is to end.
        """
        deadline = time.monotonic() + seconds
        self.check()
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
            self.check()

    def check(self) -> None:
        """Raise `StoppedError` if the run is to end."""
        if self.stop is not None:
            raise StoppedError(self.stop)

    def seconds_left(self, seconds: float) -> float:
        """Return the rest of a period that began with a signal; infinity without a signal."""
        if self.stop is None or not self.stop.by_signal:
            return math.inf
        return max(0.0, seconds - (time.monotonic() - self.stop.monotonic))

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Turn `SIGNALS` into requests within the block."""
        with handling(self._receive):
            yield

    def watch_signals(self) -> None:
        """Turn `SIGNALS` into requests from now on; `answering` follows."""
        _handle(self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.stop is None and not self.over:
            log.warning("signal", name=name, action="saving and ending")
        self.request(StopKind(name), f"received {name}")


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """End the block with an exit code on the first of `SIGNALS`, so that no file is left half written.

    For commands without a record. Without a handler the first process of a container ignores signals.
    """
    heard: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        if not heard:  # a second one must not interrupt the cleanup
            heard.append(number)
            log.warning("signal", name=signal.Signals(number).name, action="ending")
            raise SystemExit(exit_code(number))

    with handling(end):
        yield


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle `SIGNALS` within the block; a SIGHUP ignored because of `nohup` stays ignored."""
    previous = _handle(handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def answering(code: int) -> Iterator[None]:
    """Exit with the code of a recorded outcome on any signal while the block prints it.

    So a signal ends a block that cannot write its output. After the block signals are ignored, since the process only
    has to exit.
    """
    _handle(lambda _number, _frame: os._exit(code))
    try:
        yield
    finally:
        _handle(signal.SIG_IGN)


def _handle(handler: Any) -> dict[signal.Signals, Any]:
    """Set the handler of `SIGNALS` and return the previous ones; only from the main thread."""
    ours = [n for n in SIGNALS if n is not signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in ours}
