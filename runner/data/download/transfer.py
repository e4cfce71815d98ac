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

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.core import log
from runner.core.errors import NetworkError
from runner.core.units import format_seconds
from runner.data.download.ranges import covered, gaps
from runner.data.download.request_errors import Changed, Fault, NotInParts, Restart
from runner.data.download.retry import Limits, Patience
from runner.data.download.stream import Stream
from runner.data.locate import Location, shown

if TYPE_CHECKING:
    from runner.data.download.partial import Partial
    from runner.data.download.version import Version

_SMALLEST_RANGE = 2 << 20
_LARGEST_RANGE = 64 << 20
_CHANGES_BELIEVED = 2
"""A file that changed so often changes with each answer: every node behind a load balancer names it anew."""


@dataclass(slots=True, kw_only=True)
class Transfer:
    """One download from its first byte to its last.

    Parameters
    ----------
    source
        The URL in the plan, which stays the same when ``location`` is signed anew.
    admit
        Called with the size before a byte is written (None when the server does not say, then again
        at the end); raises when the file is too large for the disk or not the one that is wanted.
    progress
        Called often with the bytes that are there and the size.
    """

    location: Location
    source: str
    partial: Partial
    connections: int
    limits: Limits
    admit: Callable[[int | None], None]
    progress: Callable[[int, int | None], None]
    total: int | None = None
    whole: bool = False
    """The file comes in one answer: one connection, from the start."""
    encoding: str = ""
    """The Content-Encoding that the server applied without being asked."""
    patience: Patience = field(init=False)
    _multi: Any = field(init=False)
    _streams: dict[int, Stream] = field(default_factory=dict)
    _next: int = 0
    _changes: int = 0
    _complete: bool = False

    def __post_init__(self) -> None:
        self.patience = Patience(self.limits)

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

        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, self.connections)
        with self.partial.kept():
            try:
                while not self._complete:
                    self._start_streams()
                    self._wait()
                    self._collect()
                    self.progress(self.partial.bytes(), self.total)
            finally:
                self._drop_streams()  # before the last record is written, which counts what they held
                self._multi.close()
        assert self.total is not None
        return self.total

    def difference(self, then: Version, now: Version) -> str:
        """Say how two answers differ that are to be parts of one file.

        Names of versions that change with each answer tell nothing; they are ignored where a
        checksum will tell.
        """
        if self._changes >= _CHANGES_BELIEVED and self.partial.will_verify:
            then, now = then.unnamed(), now.unnamed()
        return then.difference(now)

    def _start_streams(self) -> None:
        """Give every free connection a missing range; the first one also asks for the size."""
        while not self.patience.pause_seconds and len(self._streams) < self._allowed():
            span = self._next_range()
            if span is None:
                return
            stream = Stream(self, self._next, *span)
            self._streams[self._next] = stream
            self._next += 1
            self._multi.add_handle(stream.curl)

    def _drop_streams(self) -> None:
        """End all requests, keeping what came."""
        while self._streams:
            number, stream = self._streams.popitem()
            self._multi.remove_handle(stream.curl)
            stream.flush()
            self.partial.close_stream(number)
            stream.close()

    def _allowed(self) -> int:
        return 1 if self.total is None or self.whole else self.connections

    def _next_range(self) -> tuple[int, int | None] | None:
        """Return the next range to ask for; its end is None when the size is unknown."""
        if self.whole:
            return (0, None)
        there = self.partial.ranges()
        if self.total is None:
            known = self.partial.version.total if self.partial.version else None
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

    def _wait(self) -> None:
        """Let bytes arrive, for a tenth of a second at most."""
        if not self._streams:
            time.sleep(min(self.patience.pause_seconds, 0.1))
            return
        self._multi.perform()  # first: a request that was just added has no socket to wait for yet
        if self._multi.select(0.1) < 0:
            time.sleep(0.01)  # no socket at all while a name is looked up
        self._multi.perform()
        for stream in self._streams.values():
            stream.flush_in_time()

    def _collect(self) -> None:
        """Judge the streams that ended."""
        import pycurl

        _queued, done, failed = self._multi.info_read()
        ended = [(curl, pycurl.E_OK, "") for curl in done] + list(failed)
        for curl, code, message in ended:
            stream = next((stream for stream in self._streams.values() if stream.curl is curl), None)
            if stream is not None:  # not ended together with one that made all begin anew
                del self._streams[stream.number]
                self._multi.remove_handle(curl)
                self._judge(stream, code, message)
        if not self._streams and self.total is not None and not gaps(self.partial.ranges(), self.total):
            self._complete = True

    def _judge(self, stream: Stream, code: int, message: str) -> None:
        try:
            stream.verdict(code, message)
        except Fault as fault:
            self._fault(stream, fault)
        except Restart as reason:
            self._restart(reason)
        finally:
            self.partial.close_stream(stream.number)
            if self.whole and self.total != covered(self.partial.ranges()):
                self._forget()  # without ranges there is nothing to continue from
            stream.close()

    def _forget(self) -> None:
        """Know nothing of the file any more: the next answer may be of another one."""
        self.total = None
        self.partial.forget()

    def _restart(self, reason: Restart) -> None:
        """Begin at the first byte: what is there belongs to another file, or cannot be continued.

        Where versions cannot be told apart, neither by name nor by a checksum, the file comes in
        one answer, which is of one version.
        """
        self._drop_streams()
        self._changes += isinstance(reason, Changed)
        unsettled = self._changes >= _CHANGES_BELIEVED and not self.partial.will_verify
        self.whole = self.whole or isinstance(reason, NotInParts) or unsettled
        thrown_away = self.partial.bytes()
        self._forget()
        self.patience.restart()
        self._give_up_if_exhausted(f"{reason}, begun anew {self.patience.restarts} times")
        log.warning("fetch-restart", url=shown(self.location.url), reason=reason, thrown_away=thrown_away)

    def _fault(self, stream: Stream, fault: Fault) -> None:
        """Wait longer after each round of faults, as long as the server asks, and give up at last.

        A server with too many connections gets fewer; that is no reason to give up.
        """
        together = min(len(self._streams) + 1, self.connections)
        crowded = fault.too_many and together > 1
        first = self.patience.fault(
            stream.round, self.partial.bytes(), retry_after=fault.retry_after, counts=not crowded
        )
        if not first:
            return
        if crowded:
            self.connections = together // 2
        self._give_up_if_exhausted(f"{fault}, {self.patience.faults} times in a row")
        pause = format_seconds(self.patience.pause_seconds)
        log.warning("fetch-retry", url=shown(self.location.url), reason=fault, again_in=pause)

    def _give_up_if_exhausted(self, what: str) -> None:
        if self.patience.exhausted:
            raise NetworkError(
                f"{shown(self.location.url)}: {what}",
                hint="run the same command again later; it continues where it stopped",
            )
