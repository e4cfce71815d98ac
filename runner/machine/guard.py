# SPDX-License-Identifier: Apache-2.0
"""The memory guard: ends the kernel before the system ends the whole container.

On Kubernetes an out-of-memory kill takes every process of the container, us included, without
a signal before it. So a thread of its own looks at the memory that cannot be reclaimed and acts
first, while notebook and metrics can still be written. File cache does not count: the kernel
drops it when it needs room, and a notebook that reads a large file twice is in no danger.
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
"""How far a growth is carried on: four looks, about what a kill needs to free memory again."""
NEAR = 0.75
"""Share of the limit below which no growth is carried on, however steep."""
QUIET = 0.5
"""Share of the limit below which, file cache included, only the one cheap number is read."""
FASTEST_BYTES_PER_SECOND = 16e9
"""How fast memory is assumed to grow at most while it is far from the limit."""
_STEPS = 3
_MEASURE_SECONDS = 0.5
_SLOWEST = 5
"""Far from the limit a look may come this many intervals after the last."""


class Trend:
    """The last few readings, and where they will be in a moment.

    The slope is the median of the last three steps, and never more than the last one. So a
    single step counts for nothing, however high, nor does a burst that is over; growth that
    has gone on for two steps (100 ms) counts in full.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[float, int]] = deque(maxlen=_STEPS + 1)

    def add(self, seconds: float, size_bytes: int) -> None:
        """Add a reading at a time of a monotonic clock."""
        self._readings.append((seconds, size_bytes))

    def ahead_bytes(self, seconds: float) -> float:
        """Return where the readings will be this many seconds after the last one; 0 without any."""
        if not self._readings:
            return 0.0
        slopes = [(now - size) / max(when - then, 1e-6) for (then, size), (when, now) in pairwise(self._readings)]
        slope = min(slopes[-1], statistics.median(slopes)) if len(slopes) >= _STEPS else 0.0
        return self._readings[-1][1] + max(0.0, slope) * seconds


def must_act(unreclaimable_bytes: int, ahead_bytes: float, limit_bytes: int, fraction: float) -> bool:
    """Decide: the memory has passed the fraction of the limit, or will at the present slope.

    What is still below three quarters of the limit is left alone: with so much room a steep
    growth is more often a large array than a disaster.
    """
    threshold = fraction * limit_bytes
    if unreclaimable_bytes >= threshold:
        return True
    return ahead_bytes >= threshold and unreclaimable_bytes >= min(NEAR, fraction) * limit_bytes


class MemoryGuard:
    """A thread that looks 20 times a second, less often far from the limit, and calls back when it must.

    Parameters
    ----------
    container
        Whose memory is watched.
    fraction
        Share of the limit at which to act; 0 is off.
    on_breach
        Called in the guard's thread with the bytes that could not be reclaimed, and again at each
        look for as long as they stay above the fraction. It kills what the run has started and must
        not wait for anything.
    interval
        Seconds between two looks.
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
        """Why a guard that was on ended before the run, if it did."""

    def start(self) -> None:
        """Begin to watch, unless the guard is off; `record` says why it is."""
        if self._off is None and self._thread is None:
            self._thread = threading.Thread(target=self._guarded, name="memory-guard", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the watch; after it returns there is no call back any more."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def record(self) -> machine_records.Guard:
        """Return what was seen and done."""
        unavailable = {}
        if self._off is not None:
            unavailable = dict.fromkeys(("peak_unreclaimable_bytes", "cpu_seconds"), self._off)
        elif self._peak is None:
            unavailable = {"peak_unreclaimable_bytes": "the guard did not come to look"}
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
        """Watch; a thread has nobody to raise to, so its end is noted and logged."""
        try:
            self._watch()
        except Exception as error:  # noqa: BLE001  (whatever it is, the run goes on without a guard and says so)
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
            room = self._room_bytes(limit)
            # What is charged in all is never less than what cannot be reclaimed: far from the
            # limit this one number is enough, and the figure for the record is read at 2 Hz.
            if room <= 0 or now - measured_at >= _MEASURE_SECONDS:
                measured_at = now
                size = self._container.unreclaimable_bytes()
                if size is None:
                    self._give_up(f"{self._container.source} could not be read any more")
                    return
                self._peak = max(size, self._peak or 0)
                self._trend.add(now, size)
                # Once it has acted only the size counts: what was growing is gone or going.
                ahead = self._trend.ahead_bytes(AHEAD_SECONDS) if self._acted_at is None else 0.0
                if must_act(size, ahead, limit, self._fraction):
                    self._act(size)
            self._cpu_seconds = time.thread_time()
            pause = min(max(1.0, room / FASTEST_BYTES_PER_SECOND / self._interval), _SLOWEST)
            self._stop.wait(self._interval * pause)

    def _room_bytes(self, limit: int) -> float:
        """Return how far all memory that is charged is from where a close watch begins."""
        used = self._container.used_bytes()
        return 0.0 if used is None else max(0.0, min(QUIET, self._fraction) * limit - used)

    def _act(self, size: int) -> None:
        self._acted_at = self._acted_at or size
        self._cpu_seconds = time.thread_time()
        try:
            self._on_breach(size)
        except Exception as error:  # noqa: BLE001  (a thread has nobody to raise to; the log has)
            with contextlib.suppress(Exception):
                log.error("memory-guard", problem=f"could not end the kernel: {error!r}")
