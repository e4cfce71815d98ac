# SPDX-License-Identifier: Apache-2.0
"""Asking a run to end early: one request wins, whoever makes it.

Deadlines, signals and the memory guard all end a run in the same way. The first of them in
time is the reason that is recorded; later ones change nothing.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType

from runner import log

_LOOK_SECONDS = 0.1


class StopKind(StrEnum):
    """Who asked the run to end."""

    CELL_TIMEOUT = "cell-timeout"
    NOTEBOOK_TIMEOUT = "notebook-timeout"
    MEMORY_GUARD = "memory-guard"
    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"


@dataclass(frozen=True, slots=True)
class Stop:
    """One request to end the run."""

    kind: StopKind
    detail: str
    monotonic: float = field(default_factory=time.monotonic)

    @property
    def by_signal(self) -> bool:
        """Whether somebody outside asked, so that the time left is short."""
        return self.kind in {StopKind.SIGTERM, StopKind.SIGINT}


class StoppedError(Exception):
    """The run was asked to end before or between its stages."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.detail)
        self.stop = stop


class Stopper:
    """Holds the first request and tells those who listen. Safe from any thread and from signal handlers.

    A handler runs in the middle of whatever the main thread does. So nothing here takes a lock:
    the handler would wait for ever for one that the main thread holds.
    """

    def __init__(self) -> None:
        self._requests: list[Stop] = []
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

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Turn SIGTERM and SIGINT into requests for the length of the block."""

        def handle(number: int, _frame: FrameType | None) -> None:
            name = signal.Signals(number).name
            if self.stop is None:
                log.warning("signal", name=name, action="saving and ending")
            self.request(StopKind(name), f"received {name}")

        previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
