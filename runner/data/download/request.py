# SPDX-License-Identifier: Apache-2.0
"""A request for one range; its headers are checked before any of its body is kept."""

from __future__ import annotations

import contextlib
import email.utils
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core import files
from runner.core.errors import BrokenInputError, NetworkError, RecordError, RunnerError, UsageError
from runner.data.download.partial import Partial, Version
from runner.data.locate import Location, shown

if TYPE_CHECKING:
    import requests

_PIECE_BYTES = 256 << 10
_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)")
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
_WITH_CONTENT = {200, 206}
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of retries and waits."""

    attempts: int = 6
    backoff_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    connect_seconds: float = 30.0
    stall_seconds: float = 30.0


class Fault(Exception):  # noqa: N818  (transient, not yet a failure)
    """A transient fault: the same request may succeed later."""

    def __init__(self, message: str, *, retry_after: float | None = None, too_many: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.too_many = too_many


class Restart(Exception):  # noqa: N818
    """The download cannot be resumed and restarts."""


class Changed(Restart):
    """The file on the server has changed since the start."""


class NotInParts(Restart):
    """The file must be sent in one response: no ranges, or their versions cannot be distinguished."""


@dataclass(slots=True, kw_only=True)
class Upstream:
    """The file on the server: its location and the properties known so far.

    Parameters
    ----------
    source
        The URL in the plan, which stays the same if ``location`` is signed again.
    admit
        Called with the size before anything is written (None if unknown, then again at the end); raises if
        the file is too large for the disk or has the wrong size.
    """

    location: Location
    source: str
    limits: Limits
    admit: Callable[[int | None], None]
    total: int | None = None
    whole: bool = False
    """The file is sent in one response: one connection, from the start."""
    versions_unreliable: bool = False
    """Each response identifies another version; a checksum will verify the file."""
    encoding: str = ""
    """The Content-Encoding that the server applied without a request for it."""


class Request:
    """A request in its own thread.

    Parameters
    ----------
    span
        Start and end of the range; the end is None for the rest of the file.
    made_in
        The round of the retry policy in which it was made.
    ended
        Called in the thread with the request when it ends.
    """

    def __init__(
        self,
        upstream: Upstream,
        partial: Partial,
        span: tuple[int, int | None],
        *,
        made_in: int,
        ended: Callable[[Request], None],
    ) -> None:
        self._upstream, self._partial = upstream, partial
        self.start, self.end = span
        self.position = self.start
        self.made_in = made_in
        self.problem: Exception | None = None
        """Why it failed."""
        self._ended = ended
        self._response: requests.Response | None = None
        self._writing = threading.Lock()
        self._cancelled = False

    def send(self, session: requests.Session) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, args=(session,), name="fetch-range", daemon=True).start()

    def cancel(self) -> None:
        """Stop writing; the thread ends as soon as its socket allows."""
        with self._writing:
            self._cancelled = True
            self._partial.close_stream(id(self))
        if self._response is not None:
            with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has already ended
                self._response.raw.shutdown()

    def _run(self, session: requests.Session) -> None:
        try:
            self._receive(session)
        except (Fault, Restart, RunnerError) as problem:
            self.problem = problem
        except Exception as error:  # noqa: BLE001  (requests and urllib3 have about thirty kinds)
            self.problem = of_library(error, self._upstream.location)
        finally:
            self._ended(self)

    def _receive(self, session: requests.Session) -> None:
        upstream = self._upstream
        headers = {"Accept-Encoding": "identity", "User-Agent": "rapids-notebook-runner", **upstream.location.headers}
        if self.end is not None:
            headers["Range"] = f"bytes={self.start}-{self.end - 1}"
        with session.get(
            upstream.location.url,
            headers=headers,
            # Otherwise an entry in ~/.netrc would replace our header.
            auth=(lambda request: request) if "Authorization" in headers else None,
            stream=True,
            timeout=(upstream.limits.connect_seconds, upstream.limits.stall_seconds),
            verify=os.environ.get("CURL_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True,
        ) as response:
            self._response = response
            if response.status_code in _WITH_CONTENT:
                self._accept(response)
                while piece := response.raw.read1(_PIECE_BYTES, decode_content=False):
                    self._keep(piece)
                self._check_length()
            elif response.status_code == 416:
                self._beyond_the_end(response.headers)
            else:
                raise of_status(response.status_code, response.headers, upstream.location, upstream.source)

    def _keep(self, piece: bytes) -> None:
        """Write a piece of the body at its position."""
        if self.end is not None and self.position + len(piece) > self.end:
            raise Fault("sent more than announced")
        with self._writing:
            if self._cancelled:
                raise Fault("cancelled")
            try:
                written = 0
                while written < len(piece):
                    written += os.pwrite(self._partial.handle, piece[written:], self.position + written)
            except OSError as error:
                raise _cannot_write(self._partial, error) from error
            self.position += len(piece)
            self._partial.arrived(id(self), self.start, self.position)

    def _check_length(self) -> None:
        upstream = self._upstream
        if upstream.whole and upstream.total is None:
            upstream.admit(self.position)
            upstream.total = self.position
        elif self.end is not None and (self.position < self.end or self.position == self.start != upstream.total):
            raise Fault(f"ended after {self.position - self.start} of {self.end - self.start} bytes")

    def _accept(self, response: requests.Response) -> None:
        """Check the headers of a response with content."""
        upstream = self._upstream
        length = response.headers.get("Content-Length", "")
        total: int | None
        if response.status_code == 206 or "Content-Range" in response.headers:  # some servers send 200 with a range
            self.end, total = self._range(response.headers)
        elif upstream.whole or (self._is_first() and length != str(self.end)):
            upstream.whole = True
            total = self.end = int(length) if length.isdigit() else None
        else:
            raise NotInParts("answered a range without Content-Range")
        self._identify(total, response.headers)

    def _range(self, headers: Mapping[str, str]) -> tuple[int, int]:
        """Return the end of the response's range, and the size of the file."""
        text = headers.get("Content-Range")
        match = _CONTENT_RANGE.fullmatch(text or "")
        if match and match[1] is not None and match[3] != "*":
            start, end, total = int(match[1]), int(match[2]) + 1, int(match[3])
            if self._upstream.whole:
                if (start, end) == (0, total):
                    return end, total
            elif self.start == start < end <= total:
                return min(end, self.end or end), total
        raise NotInParts(f"answered with the range {text!r}")

    def _is_first(self) -> bool:
        """Return True if nothing was received yet, so that a response with the whole file is fine."""
        return self.start == 0 and self._upstream.total is None and not self._partial.resumed

    def _identify(self, total: int | None, headers: Mapping[str, str]) -> None:
        """Compare the version with that of the received bytes, or record it."""
        upstream, partial = self._upstream, self._partial
        now = Version.of(upstream.source, total, headers)
        then, compared = partial.version, now
        if then and upstream.versions_unreliable:
            then, compared = then.unnamed(), now.unnamed()
        if then and (difference := then.difference(compared)):
            raise Changed(f"the file changed on the server: {difference}")
        one_answer = upstream.whole or (self.start, self.end) == (0, total)
        if not (one_answer or now.named or partial.will_verify):
            raise NotInParts("sent no version, and the plan has no checksum: parts of two files could be mixed")
        if upstream.total is None:
            _check_kind(upstream.source, headers)
            encoding = headers.get("Content-Encoding", "").strip().lower()
            upstream.encoding = "" if encoding == "identity" else encoding
            upstream.admit(total)
            partial.version = now
            upstream.total = total

    def _beyond_the_end(self, headers: Mapping[str, str]) -> None:
        """Interpret status 416: an empty file has no first byte, and a changed file may be shorter."""
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if match and match[3] == "0" and self._is_first():
            self._upstream.admit(0)
            self._upstream.total = 0
        elif self._partial.version:
            raise Changed("the server has fewer bytes than at the start")
        else:
            raise NotInParts("refused the range")


def of_status(status: int, headers: Mapping[str, str], location: Location, source: str) -> Exception:
    """Return the exception for a status without content; ``source`` is the plan's URL."""
    where = shown(location.url)
    if status in _TRANSIENT:
        retry_after = _retry_after(headers.get("Retry-After", ""))
        return Fault(f"answered {status}", retry_after=retry_after, too_many=status in {429, 503})
    if status in {202, 204}:
        return Fault(f"answered {status} without content")
    if status == 407:
        return _proxy_refused(where, status)
    unsigned = not location.has_credential and source.startswith("s3:")
    if status in {401, 403} or (status == 400 and unsigned):
        credential = location.credential
        done = "is set but was rejected" if location.has_credential else "is not set"
        return BrokenInputError(
            f"{where} answered {status}: access needs {credential}, which {done}",
            hint=f"set {credential}, and accept the data's terms on its page, if any",
        )
    return BrokenInputError(f"{where} answered {status}", hint="correct the URL in the plan")


def of_library(error: Exception, location: Location) -> Exception:
    """Return our exception for one of requests or urllib3, whose texts contain the URL's query."""
    import requests

    where = shown(location.url)
    chain = list(_chain(error))
    tunnel = next((int(match[1]) for one in chain if (match := _TUNNEL.search(str(one)))), 0)
    if tunnel and tunnel not in _TRANSIENT:
        return _proxy_refused(where, tunnel)
    system = next((one for one in chain if isinstance(one, OSError) and one.strerror), None)
    if isinstance(system, ssl.SSLCertVerificationError) or "CA certificate" in str(error):
        return NetworkError(
            f"{where}: {system.strerror if system else error}", hint="set SSL_CERT_FILE to the CA bundle to trust"
        )
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
        return UsageError(f"{where}: the proxy is a SOCKS proxy", hint="pip install pysocks")
    final = {
        requests.TooManyRedirects: "too many redirects",
        requests.exceptions.InvalidSchema: "redirects to a protocol other than http and https",
        ValueError: "not a valid URL, or redirects to an invalid one",  # all URL errors are ValueErrors
    }
    for kind, what in final.items():
        if isinstance(error, kind):
            return BrokenInputError(f"{where}: {what}", hint="correct the URL in the plan")
    if any(isinstance(one, TimeoutError | requests.Timeout) for one in chain):
        return Fault("timed out")
    return Fault((system.strerror if system else None) or f"connection lost ({type(chain[-1]).__name__})")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those wrapped in it."""
    found = [error]
    for one in found:  # grows during the iteration
        yield one
        inside = (getattr(one, "reason", None), one.__cause__, one.__context__, *one.args)
        found += [inner for inner in inside if isinstance(inner, BaseException) and inner not in found]


def _proxy_refused(where: str, status: int) -> NetworkError:
    hint = (
        "set user and password: https_proxy=http://USER:PASSWORD@HOST:PORT"
        if status == 407
        else "allow this host in the proxy, or add it to no_proxy"
    )
    return NetworkError(f"{where}: the proxy answered {status}", hint=hint)


def _retry_after(text: str) -> float | None:
    """Return the seconds of a Retry-After header, given as a number or a date."""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _check_kind(source: str, headers: Mapping[str, str]) -> None:
    kind = headers.get("Content-Type", "")
    if kind.startswith("text/html") and not source.partition("?")[0].endswith((".html", ".htm")):
        raise BrokenInputError(
            f"{shown(source)} is a web page ({kind}), not a file", hint="give the URL of the file itself"
        )


def _cannot_write(partial: Partial, error: OSError) -> RecordError:
    return RecordError(
        f"cannot write {partial.part}: {error.strerror}",
        hint=f"{files.remedy(partial.part, error.errno)}; then run the same command again to resume",
    )
