# SPDX-License-Identifier: Apache-2.0
"""Moving the bytes: several ranges of one file at once, through libcurl.

Why libcurl (pycurl): it is the one maintained library that comes with `pip install` (its wheels
bring libcurl and TLS along) and does what a download of 43 GB needs: many connections in one
loop, proxies, redirects without leaking credentials, stalled connections, bodies shorter than
announced. aria2 would do more but is no Python package; the segmenting downloaders on the
package index append a second copy of the file from its parts, or cannot resume, or take the
body of a server that ignores ranges for the range. So libcurl owns the connections; this
module only says which range comes next and judges what came of it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner import log
from runner.data.locate import Location, shown
from runner.data.ranges import covered, gaps
from runner.data.stream import Changed, Fault, RangesIgnored, Stream
from runner.errors import NetworkError
from runner.units import format_seconds

if TYPE_CHECKING:
    from runner.data.partial import Partial

_SMALLEST_RANGE = 2 << 20
_LARGEST_RANGE = 64 << 20
_PROGRESS_BYTES = 256 << 10
"""So much between two faults, and the count of faults starts anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to give up."""

    attempts: int = 6
    backoff_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    connect_seconds: float = 30.0
    stall_seconds: float = 30.0


@dataclass(slots=True, kw_only=True)
class Transfer:
    """One download from its first byte to its last.

    Parameters
    ----------
    admit
        Called once with the size (None when the server does not say) before a byte is written;
        raises when the file is too large for the disk or not the one that is wanted.
    progress
        Called often with the bytes that are there and the size.
    """

    location: Location
    identity: str
    partial: Partial
    connections: int
    limits: Limits
    admit: Callable[[int | None], None]
    progress: Callable[[int, int | None], None]
    total: int | None = None
    whole: bool = False
    """The server ignores ranges: one connection, from the start."""
    _streams: dict[int, Stream] = field(default_factory=dict)
    _next: int = 0
    _faults: int = 0
    _bytes_at_fault: int = 0
    _not_before: float = 0.0
    _complete: bool = False

    def run(self) -> int:
        """Download what is missing and return the size of the file.

        Raises
        ------
        NetworkError
            Faults that can pass did not pass.
        BrokenInputError
            The server says that the file is not to be had, or it is not the one that is wanted.
        """
        import pycurl

        multi: Any = pycurl.CurlMulti()
        multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, self.connections)
        try:
            with self.partial.kept():
                while not self._complete:
                    self._start_streams(multi)
                    self._wait(multi)
                    self._collect(multi)
                    self.progress(self.partial.bytes(), self.total)
        finally:
            for stream in self._streams.values():
                multi.remove_handle(stream.curl)
                stream.close()
            multi.close()
        assert self.total is not None
        return self.total

    def _start_streams(self, multi: Any) -> None:
        """Give every free connection a missing range; the first one also asks for the size."""
        while time.monotonic() >= self._not_before and len(self._streams) < self._allowed():
            span = self._next_range()
            if span is None:
                return
            stream = Stream(self, self._next, *span)
            self._streams[self._next] = stream
            self._next += 1
            multi.add_handle(stream.curl)

    def _allowed(self) -> int:
        return 1 if self.total is None or self.whole else self.connections

    def _next_range(self) -> tuple[int, int | None] | None:
        """Return the next range to ask for; its end is None when the size is unknown."""
        if self.whole:
            return (0, None)
        there = self.partial.ranges()
        if self.total is None:
            known = self.partial.identity.get("total")
            first = gaps(there, known)[:1] if known else []
            start = first[0][0] if first else 0
            return (start, start + _SMALLEST_RANGE)
        taken = [*there, *((stream.start, stream.end or self.total) for stream in self._streams.values())]
        missing = gaps(taken, self.total)
        if not missing:
            return None
        left = self.total - covered(taken)
        size = min(max(left // (3 * self.connections), _SMALLEST_RANGE), _LARGEST_RANGE)
        start, end = missing[0]
        return (start, end if end - start < size + _SMALLEST_RANGE else start + size)

    def _wait(self, multi: Any) -> None:
        pause = self._not_before - time.monotonic()
        if not self._streams and pause > 0:
            time.sleep(min(pause, 0.2))
            return
        multi.perform()  # first: a request that was just added has no socket to wait for yet
        multi.select(0.1)
        multi.perform()

    def _collect(self, multi: Any) -> None:
        """Judge the streams that ended."""
        import pycurl

        _queued, done, failed = multi.info_read()
        ended = [(curl, pycurl.E_OK, "") for curl in done] + list(failed)
        for curl, code, message in ended:
            number = next(key for key, stream in self._streams.items() if stream.curl is curl)
            stream = self._streams.pop(number)
            multi.remove_handle(curl)
            self._judge(stream, code, message)
        if not self._streams and self.total is not None and not gaps(self.partial.ranges(), self.total):
            self._complete = True

    def _judge(self, stream: Stream, code: int, message: str) -> None:
        try:
            stream.verdict(code, message)
        except Fault as fault:
            self._fault(fault)
        except (Changed, RangesIgnored) as reason:
            self._restart(reason)
        finally:
            self.partial.close_stream(stream.number)
            if self.whole and self.total != covered(self.partial.ranges()):
                self.partial.forget()  # without ranges there is nothing to continue from
            stream.close()

    def _restart(self, reason: Changed | RangesIgnored) -> None:
        """Begin at the first byte: what is there belongs to another file, or cannot be continued."""
        log.warning("fetch-restart", url=shown(self.location.url), reason=reason, thrown_away=self.partial.bytes())
        self.whole = self.whole or isinstance(reason, RangesIgnored)
        self.total = None
        self.partial.forget()
        for other in self._streams.values():
            other.outdated = True

    def _fault(self, fault: Fault) -> None:
        """Wait longer after each fault in a row, as long as the server asks, and give up at last."""
        there = self.partial.bytes()
        self._faults = 1 if abs(there - self._bytes_at_fault) >= _PROGRESS_BYTES else self._faults + 1
        self._bytes_at_fault = there
        if self._faults >= self.limits.attempts:
            raise NetworkError(
                f"{shown(self.location.url)}: {fault}, {self._faults} times in a row",
                hint="run the same command again later; it continues where it stopped",
            )
        pause = self.limits.backoff_seconds * 2 ** (self._faults - 1) * random.uniform(0.8, 1.2)  # noqa: S311
        pause = min(max(pause, fault.retry_after or 0.0), self.limits.longest_wait_seconds)
        if fault.too_many and self.connections > 1:
            self.connections = max(1, self.connections // 2)
        self._not_before = max(self._not_before, time.monotonic() + pause)
        log.warning("fetch-retry", url=shown(self.location.url), reason=fault, again_in=format_seconds(pause))
