# SPDX-License-Identifier: Apache-2.0
"""The memory guard: ends the kernel before the OOM killer ends the whole container.

On Kubernetes an out-of-memory kill ends every process of the container, including us, without a prior
signal. So a thread monitors the unreclaimable memory and acts first, while notebook and metrics can
still be written. File cache does not count: the system drops it when memory is needed, so a notebook
that reads a large file twice is not in danger.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from runner.core import log, machine_records

if TYPE_CHECKING:
    from runner.machine.host import Container

AHEAD_SECONDS = 0.2
"""How far growth is extrapolated: four polls, about the time a kill takes to free memory."""
NEAR = 0.75
"""Share of the limit below which growth is not extrapolated, however steep."""
QUIET = 0.5
"""Share of the limit below which, file cache included, only the cheap total is read."""
FASTEST_BYTES_PER_SECOND = 16e9
"""Assumed maximum growth rate far from the limit."""
_STEPS = 3
_MEASURE_SECONDS = 0.5
_SLOWEST = 5
"""Maximum number of intervals between two polls far from the limit."""


class Trend:
    """The last few readings, with a short extrapolation.

    The slope is the median of the last three steps, and at most that of the last one. So a single
    step has no effect, however high, nor does a finished burst; growth over two steps (100 ms) counts
    in full.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque(maxlen=_STEPS + 1)

    def add(self, seconds: float, size_bytes: int) -> None:
        """Add a reading at a time of a monotonic clock."""
        self._readings.append((seconds, size_bytes))

    def ahead_bytes(self, seconds: float) -> float:
        """Return the extrapolated reading this many seconds after the last one; 0 without readings."""
        if not self._readings:
            return 0.0
        slopes = [(now - size) / max(when - then, 1e-6) for (then, size), (when, now) in pairwise(self._readings)]
        slope = min(slopes[-1], statistics.median(slopes)) if len(slopes) >= _STEPS else 0.0
        return self._readings[-1][1] + max(0.0, slope) * seconds


def must_act(unreclaimable_bytes: int, ahead_bytes: float, limit_bytes: int, fraction: float) -> bool:
    """Return True if memory exceeds the fraction of the limit, or soon will at the current slope.

    Below three quarters of the limit the slope is ignored: there, steep growth is more often a large
    array than a runaway.
    """
    threshold = fraction * limit_bytes
    if unreclaimable_bytes >= threshold:
        return True
    return ahead_bytes >= threshold and unreclaimable_bytes >= min(NEAR, fraction) * limit_bytes


class MemoryGuard:
    """A thread that polls 20 times a second, less often far from the limit, and calls back on a breach.

    Parameters
    ----------
    container
        Container whose memory is watched.
    fraction
        Share of the limit at which to act; 0 disables the guard.
    on_breach
        Called in the guard's thread with the unreclaimable bytes, and again at each poll while they stay
        above the fraction. It kills the run's processes and must not block.
    interval
        Seconds between two polls.
    """

    def __init__(
        self, container: Container, fraction: float, on_breach: Callable[[int], None], interval: float = 0.05
    ) -> None:
        self._container = container
        self._fraction = fraction
        self._on_breach = on_breach
        self._interval = interval
        self._trend = Trend()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._peak: int | None = None
        self._acted_at: int | None = None
        self._cpu_seconds: float | None = None
        self._off = self._why_off()
        self.problem: str | None = None
        """Why the guard stopped before the end of the run, if it did."""

    def start(self) -> None:
        """Start watching, unless the guard is off; `record` has the reason."""
        if self._off is None and self._thread is None:
            self._thread = threading.Thread(target=self._guarded, name="memory-guard", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop watching; no callback happens after this returns."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def record(self) -> machine_records.Guard:
        """Return the measured peak and whether the guard acted."""
        unavailable = {}
        if self._off is not None:
            unavailable = dict.fromkeys(("peak_unreclaimable_bytes", "cpu_seconds"), self._off)
        elif self._peak is None:
            unavailable = {"peak_unreclaimable_bytes": "the guard took no sample"}
        return machine_records.Guard(
            fraction=self._fraction,
            limit_bytes=self._container.limit_bytes,
            peak_unreclaimable_bytes=self._peak,
            acted_at_bytes=self._acted_at,
            cpu_seconds=self._cpu_seconds,
            unavailable=unavailable,
        )

    def _why_off(self) -> str | None:
        if self._fraction <= 0:
            return "the memory guard was switched off"
        if self._container.limit_bytes is None:
            return f"no memory guard: {self._container.unavailable['limit_bytes']}"
        return self._container.unavailable.get("unreclaimable_bytes")

    def _guarded(self) -> None:
        """Watch; an exception in the thread is recorded and logged."""
        try:
            self._watch()
        except Exception as error:  # noqa: BLE001  (the run continues without a guard, and reports it)
            self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, problem: str) -> None:
        self._off = self.problem = problem
        with contextlib.suppress(Exception):
            log.error("memory-guard", problem=f"the container's memory is no longer watched: {problem}")

    def _watch(self) -> None:
        limit = (self._container.limit_bytes or 0) + self._container.swap_bytes
        measured_at = -math.inf
        while not self._stop.is_set():
            now = time.monotonic()
            used = self._container.used_bytes()
            room = 0.0 if used is None else max(0.0, min(QUIET, self._fraction) * limit - used)
            # Total charged memory is never less than unreclaimable memory: far from the limit it is
            # sufficient, and the value for the record is read at 2 Hz.
            if room <= 0 or now - measured_at >= _MEASURE_SECONDS:
                measured_at = now
                size = self._container.unreclaimable_bytes()
                if size is None:
                    self._give_up(f"{self._container.source} can no longer be read")
                    return
                self._peak = max(size, self._peak or 0)
                self._trend.add(now, size)
                # After it has acted only the size counts: the growing process is being killed.
                ahead = self._trend.ahead_bytes(AHEAD_SECONDS) if self._acted_at is None else 0.0
                if must_act(size, ahead, limit, self._fraction):
                    self._act(size)
            self._cpu_seconds = time.thread_time()
            pause = min(max(1.0, room / FASTEST_BYTES_PER_SECOND / self._interval), _SLOWEST)
            self._stop.wait(self._interval * pause)

    def _act(self, size: int) -> None:
        self._acted_at = self._acted_at or size
        self._cpu_seconds = time.thread_time()
        try:
            self._on_breach(size)
        except Exception as error:  # noqa: BLE001  (logged, since nothing can catch it)
            with contextlib.suppress(Exception):
                log.error("memory-guard", problem=f"could not end the kernel: {error!r}")
