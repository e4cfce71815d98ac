# SPDX-License-Identifier: Apache-2.0
"""Transfers a file in several concurrent ranges, each requested by `requests` in a thread.

requests provides the HTTP features needed for a download of 43 GB: proxies, redirects without leaking
credentials, .netrc, persistent connections. This module selects the next range, handles its outcome, and
decides when to retry and when to give up. aria2 and libcurl were measured and are no faster; see
docs/adr/0005.

Faults are counted in rounds: all requests in progress when one of them fails belong to one round. Eight
connections to a dead server are thus one fault, not eight, and the server has the pauses between rounds to
recover.
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.errors import NetworkError
from runner.core.units import format_seconds
from runner.data.download.partial import covered, gaps
from runner.data.download.request import Changed, Fault, Limits, NotInParts, Request, Restart, Upstream
from runner.data.locate import shown

if TYPE_CHECKING:
    import requests

    from runner.data.download.partial import Partial

_SMALLEST_RANGE = 2 << 20
_LARGEST_RANGE = 64 << 20
_CHANGES_BELIEVED = 2
"""More changes mean that versions are unreliable: the nodes behind a load balancer identify the file differently."""
_PROGRESS_BYTES = 256 << 10
"""Progress that resets the count of faults."""


class Transfer:
    """A download of one file.

    Parameters
    ----------
    progress
        Called often with the received bytes and the size.
    """

    def __init__(
        self, upstream: Upstream, partial: Partial, *, connections: int, progress: Callable[[int, int | None], None]
    ) -> None:
        self._upstream, self._partial = upstream, partial
        self._connections, self._progress = connections, progress
        self._patience = Patience(upstream.limits)
        self._requests: set[Request] = set()
        self._ended: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._changes = 0

    def run(self) -> int:
        """Download the missing ranges and return the size of the file.

        Raises
        ------
        NetworkError
            Transient faults persisted.
        BrokenInputError
            The file is unavailable, or has the wrong size.
        """
        from requests import Session
        from requests.adapters import HTTPAdapter

        with self._partial.kept(), Session() as session:
            session.max_redirects = 10
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(pool_maxsize=self._connections))
            try:
                while (size := self._complete()) is None:
                    self._send_requests(session)
                    self._collect()
                    self._progress(self._partial.bytes(), self._upstream.total)
            finally:
                self._drop_requests()  # before the final journal, which includes their ranges
        return size

    def _complete(self) -> int | None:
        """Return the size of the file if it is complete, else None."""
        total = self._upstream.total
        return None if self._requests or total is None or gaps(self._partial.ranges(), total) else total

    def _send_requests(self, session: requests.Session) -> None:
        """Request a missing range on every free connection; the first request also determines the size."""
        allowed = 1 if self._upstream.total is None or self._upstream.whole else self._connections
        while not self._patience.pause_seconds and len(self._requests) < allowed:
            span = self._next_range()
            if span is None:
                return
            request = Request(self._upstream, self._partial, span, made_in=self._patience.round, ended=self._ended.put)
            self._requests.add(request)
            request.send(session)

    def _drop_requests(self) -> None:
        """Cancel all requests, keeping the received data."""
        while self._requests:
            self._requests.pop().cancel()

    def _next_range(self) -> tuple[int, int | None] | None:
        """Return the next range to request; its end is None if the size is unknown."""
        total = self._upstream.total
        if self._upstream.whole:
            return (0, None)
        present = self._partial.ranges()
        if total is None:
            known = self._partial.version.total if self._partial.version else None
            first = gaps(present, known)[:1] if known else []
            start = first[0][0] if first else 0
            return (start, start + _SMALLEST_RANGE)
        taken = [*present, *((request.start, request.end or total) for request in self._requests)]
        missing = gaps(taken, total)
        if not missing:
            return None
        size = min(max((total - covered(taken)) // (3 * self._connections), _SMALLEST_RANGE), _LARGEST_RANGE)
        start, end = missing[0]
        return (start, end if end - start < size + _SMALLEST_RANGE else start + size)

    def _collect(self) -> None:
        """Handle a finished request; wait at most 0.1 s for one."""
        if not self._requests:
            time.sleep(min(self._patience.pause_seconds, 0.1))
            return
        try:
            request = self._ended.get(timeout=0.1)
        except queue.Empty:
            return
        if request in self._requests:  # else it was dropped by a restart
            self._requests.remove(request)
            self._handle(request)

    def _handle(self, request: Request) -> None:
        try:
            if isinstance(request.problem, Fault):
                self._fault(request, request.problem)
            elif isinstance(request.problem, Restart):
                self._restart(request.problem)
            elif request.problem is not None:
                raise request.problem
        finally:
            self._partial.close_stream(id(request))
            if self._upstream.whole and self._upstream.total != self._partial.bytes():
                self._forget()  # cannot be resumed without ranges

    def _forget(self) -> None:
        """Discard all data and the size: the next response may be for another version."""
        self._upstream.total = None
        self._partial.forget()

    def _restart(self, reason: Restart) -> None:
        """Restart from the first byte: the data belongs to another file, or cannot be resumed.

        If versions cannot be distinguished, neither by the server nor by a checksum, the file is requested in
        one response.
        """
        self._drop_requests()
        self._changes += isinstance(reason, Changed)
        unsettled = self._changes >= _CHANGES_BELIEVED
        self._upstream.versions_unreliable = unsettled and self._partial.will_verify
        if isinstance(reason, NotInParts) or (unsettled and not self._partial.will_verify):
            self._upstream.whole = True
        discarded = self._partial.bytes()
        self._forget()
        self._patience.restart()
        self._give_up_if_exhausted(f"{reason}, restarted {self._patience.restarts} times")
        log.warning("fetch-restart", url=shown(self._upstream.location.url), reason=reason, discarded_bytes=discarded)

    def _fault(self, request: Request, fault: Fault) -> None:
        """Back off after a round of faults, at least as long as the server requests, or give up.

        Too many connections reduce their number, and do not count as a fault.
        """
        concurrent = min(len(self._requests) + 1, self._connections)
        crowded = fault.too_many and concurrent > 1
        first = self._patience.fault(
            request.made_in, self._partial.bytes(), retry_after=fault.retry_after, counts=not crowded
        )
        if not first:
            return
        if crowded:
            self._connections = concurrent // 2
        self._give_up_if_exhausted(f"{fault}, {self._patience.faults} times in a row")
        pause = format_seconds(self._patience.pause_seconds)
        log.warning("fetch-retry", url=shown(self._upstream.location.url), reason=fault, again_in=pause)

    def _give_up_if_exhausted(self, what: str) -> None:
        if self._patience.exhausted:
            raise NetworkError(
                f"{shown(self._upstream.location.url)}: {what}",
                hint="run the same command again later; it resumes where it stopped",
            )


class Patience:
    """Retry policy of one download.

    Attributes
    ----------
    round
        Number of pauses so far; a request belongs to the round in which it was made.
    faults
        Consecutive failed rounds without progress.
    restarts
        Number of restarts; progress does not reset it, or a server that never sends the same file twice
        would be retried forever.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self.round = self.faults = self.restarts = 0
        self._furthest_bytes = 0
        self._not_before = clock()

    @property
    def pause_seconds(self) -> float:
        """Remaining time until the next request."""
        return max(0.0, self._not_before - self._clock())

    @property
    def exhausted(self) -> bool:
        """Return True if it is time to give up."""
        return max(self.faults, self.restarts) >= self._limits.attempts

    def fault(self, made_in: int, received: int, *, retry_after: float | None, counts: bool = True) -> bool:
        """Record a failed request; return True if it is the first one of its round.

        Parameters
        ----------
        made_in
            The round of the request.
        received
            Number of bytes received so far.
        retry_after
            Delay requested by the server.
        counts
            False if the fault is handled other than by waiting.
        """
        first = made_in == self.round
        if first:
            self.round += 1
            if received >= self._furthest_bytes + _PROGRESS_BYTES:
                self.faults, self._furthest_bytes = 0, received
            self.faults += counts
        self._wait(self._backoff(self.faults) if first else 0.0, retry_after)
        return first

    def restart(self) -> None:
        """Record a restart."""
        self.round += 1
        self.restarts += 1
        self.faults = self._furthest_bytes = 0
        self._wait(self._backoff(self.restarts), None)

    def _backoff(self, times: int) -> float:
        doubled = float(2 ** max(0, times - 1))
        return self._limits.backoff_seconds * doubled * random.uniform(0.8, 1.2)  # noqa: S311

    def _wait(self, seconds: float, retry_after: float | None) -> None:
        seconds = min(max(seconds, retry_after or 0.0), self._limits.longest_wait_seconds)
        self._not_before = max(self._not_before, self._clock() + seconds)
