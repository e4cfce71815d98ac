# SPDX-License-Identifier: Apache-2.0
"""Asking a run to end early: one request wins, whoever makes it.

Deadlines, signals and the memory guard all end a run in the same way. The first of them in
time is the reason that is recorded; later ones change nothing.
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
    """Who asked the run to end."""

    CELL_TIMEOUT = "cell-timeout"
    NOTEBOOK_TIMEOUT = "notebook-timeout"
    MEMORY_GUARD = "memory-guard"
    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    SIGHUP = "SIGHUP"


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What others end us by: an orchestrator, a person at the keyboard, a terminal that was closed."""
_BY_SIGNAL = frozenset(StopKind(number.name) for number in SIGNALS)


def exit_code(number: int) -> int:
    """Return the exit code after one of `SIGNALS`; a closed terminal ends us as SIGTERM does."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Stop:
    """One request to end the run."""

    kind: StopKind
    detail: str
    monotonic: float = field(default_factory=time.monotonic)

    @property
    def by_signal(self) -> bool:
        """Whether somebody outside asked, so that the time left is short."""
        return self.kind in _BY_SIGNAL

    @property
    def exit_code(self) -> int:
        """Exit code of a run that ends by this signal."""
        return exit_code(signal.SIGINT if self.kind is StopKind.SIGINT else signal.SIGTERM)


class StoppedError(RunnerError):
    """The run was asked to end before or between its stages."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.detail)
        self.stop = stop
        self.exit_code = stop.exit_code


class Stopper:
    """Holds the first request and tells those who listen. Safe from any thread and from signal handlers.

    A handler runs in the middle of whatever the main thread does. So nothing here takes a lock:
    the handler would wait for ever for one that the main thread holds.
    """

    def __init__(self) -> None:
        self._requests: list[Stop] = []
        self.over = False
        """The record is final: a signal that comes now changes nothing."""
        self._listener: Callable[[Stop], None] | None = None

    @property
    def stop(self) -> Stop | None:
        """The first request, or None."""
        return self._requests[0] if self._requests else None

    def request(self, kind: StopKind, detail: str) -> None:
        """Ask the run to end; only the first request counts."""
        request = Stop(kind, detail)
        self._requests.append(request)  # atomic: of two threads one is first
        if self._requests[0] is request and self._listener is not None:
            self._listener(request)

    def listen(self, listener: Callable[[Stop], None]) -> None:
        """Call ``listener`` at the request, at once if it was made already."""
        self._listener = listener
        if self.stop is not None:
            listener(self.stop)

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond a request.

        Raises
        ------
        StoppedError
            The run was asked to end.
        """
        deadline = time.monotonic() + seconds
        self.check()
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
            self.check()

    def check(self) -> None:
        """Raise `StoppedError` when the run was asked to end."""
        if self.stop is not None:
            raise StoppedError(self.stop)

    def seconds_left(self, seconds: float) -> float:
        """Return what is left of so many seconds after a signal; without one, as much as is wanted."""
        if self.stop is None or not self.stop.by_signal:
            return math.inf
        return max(0.0, seconds - (time.monotonic() - self.stop.monotonic))

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Turn `SIGNALS` into requests for the length of the block."""
        with handling(self._receive):
            yield

    def hear(self) -> None:
        """Turn `SIGNALS` into requests from now on; `answering` follows."""
        _handle(self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.stop is None and not self.over:
            log.warning("signal", name=name, action="saving and ending")
        self.request(StopKind(name), f"received {name}")


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Have the first of `SIGNALS` end the block with its exit code: files are left whole, none is left half written.

    For commands that leave no record of their own. Without it the first process of a container does not even
    hear a signal.
    """
    heard: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        if not heard:  # a second one must not break off what the first one began to clean up
            heard.append(number)
            log.warning("signal", name=signal.Signals(number).name, action="ending")
            raise SystemExit(exit_code(number))

    with handling(end):
        yield


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have `SIGNALS` handled for the length of the block; a hang-up that `nohup` has us ignore stays ignored."""
    previous = _handle(handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def answering(code: int) -> Iterator[None]:
    """Answer with an outcome that is recorded, and end with its exit code whatever signal comes.

    A signal ends a block that does not get rid of its answer. After the block signals are ignored: the
    process has nothing left to do but to exit.
    """
    _handle(lambda _number, _frame: os._exit(code))
    try:
        yield
    finally:
        _handle(signal.SIG_IGN)


def _handle(handler: Any) -> dict[signal.Signals, Any]:
    """Set the handler of `SIGNALS` and return those of before; only the main thread may."""
    ours = [n for n in SIGNALS if n is not signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in ours}
