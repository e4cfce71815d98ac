# SPDX-License-Identifier: Apache-2.0
"""One request for one range: its headers are judged before a byte of its body is kept."""

from __future__ import annotations

import email.utils
import os
import re
import time
from typing import TYPE_CHECKING, Any

from runner.data.locate import shown
from runner.errors import BrokenInputError, NetworkError, RunnerError

if TYPE_CHECKING:
    from runner.data.transfer import Transfer

_BUFFER_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)")
_PASSING = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524, 529}
_USER_AGENT = "rapids-notebook-runner"


class Fault(Exception):  # noqa: N818  (no failure yet: it may pass)
    """Something that can pass: the same request may succeed later."""

    def __init__(self, message: str, *, retry_after: float | None = None, too_many: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.too_many = too_many


class Changed(Exception):  # noqa: N818
    """The server has another file now than the one that was begun."""


class RangesIgnored(Exception):  # noqa: N818
    """The server answers a range with the whole file."""


class Stream:
    """A running request. ``end`` is None when everything to the end is asked for."""

    def __init__(self, transfer: Transfer, number: int, start: int, end: int | None) -> None:
        self._transfer = transfer
        self.number, self.start, self.end = number, start, end
        self.position = start
        self.outdated = False
        self._status = 0
        self._headers: dict[str, str] = {}
        self._accepted = False
        self._problem: Exception | None = None
        self._held = memoryview(bytearray(_BUFFER_BYTES))
        self._filled = 0
        self.curl = self._request()

    def close(self) -> None:
        """Give the request's memory back; the connection stays with the others."""
        self.curl.close()

    def _request(self) -> Any:
        import pycurl

        transfer, location = self._transfer, self._transfer.location
        curl = pycurl.Curl()
        options: dict[int, Any] = {
            pycurl.URL: location.url,
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.REDIR_PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.FOLLOWLOCATION: True,
            pycurl.MAXREDIRS: 10,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,  # HTTP/2 would share one connection
            pycurl.NETRC: pycurl.NETRC_OPTIONAL,
            pycurl.NOSIGNAL: True,
            pycurl.USERAGENT: _USER_AGENT,
            pycurl.BUFFERSIZE: _BUFFER_BYTES,
            pycurl.CONNECTTIMEOUT_MS: int(transfer.limits.connect_seconds * 1000),
            pycurl.LOW_SPEED_LIMIT: 1,
            pycurl.LOW_SPEED_TIME: max(1, int(transfer.limits.stall_seconds)),
            pycurl.HTTPHEADER: [f"{key}: {value}" for key, value in location.headers.items()],
            pycurl.HEADERFUNCTION: self._header,
            pycurl.WRITEFUNCTION: self._body,
            pycurl.CAINFO: _authorities(),
        }
        if self.end is not None:
            options[pycurl.RANGE] = f"{self.start}-{self.end - 1}"
        proxy = os.environ.get("HTTP_PROXY")
        if proxy and location.url.startswith("http:") and "http_proxy" not in os.environ:
            options[pycurl.PROXY] = proxy  # libcurl reads the lower-case name only, Python both
        for option, value in options.items():
            curl.setopt(option, value)
        return curl

    def _header(self, line: bytes) -> int | None:
        text = line.decode("latin-1").strip()
        if text.startswith("HTTP/"):
            self._status, self._headers = int(text.split()[1]), {}
        elif ":" in text:
            name, _colon, value = text.partition(":")
            self._headers[name.strip().lower()] = value.strip()
        elif not text and self._status in {200, 206}:
            try:
                self._accept()
            except (RunnerError, Fault, Changed, RangesIgnored) as problem:
                self._problem = problem
                return 0
        return None

    def _body(self, data: bytes) -> int | None:
        if not self._accepted:
            return None  # the text of an error
        if self.outdated:
            return 0
        if self.end is not None and self.position + len(data) > self.end:
            self._problem = Fault("sends more than it announced")
            return 0
        if self._filled + len(data) > len(self._held) and not self._write():
            return 0
        self._held[self._filled : self._filled + len(data)] = data
        self._filled += len(data)
        self.position += len(data)
        return None

    def _write(self) -> bool:
        """Write what is held; libcurl hands over 16 KiB at a time, too little for a write each."""
        if not self._filled:
            return True
        at, written = self.position - self._filled, 0
        try:
            while written < self._filled:
                part = self._held[written : self._filled]
                written += os.pwrite(self._transfer.partial.handle, part, at + written)
        except OSError as error:
            self._problem = _cannot_write(self._transfer, error)
            return False
        self._filled = 0
        self._transfer.partial.arrived(self.number, self.start, self.position)
        return True

    def _accept(self) -> None:
        """Judge the headers of an answer that brings bytes."""
        transfer = self._transfer
        length = self._headers.get("content-length", "")
        if self._status == 206 or "content-range" in self._headers:  # some servers say 200 with a range
            match = _CONTENT_RANGE.fullmatch(self._headers.get("content-range", ""))
            if not match or match[1] is None or int(match[1]) != self.start or match[3] == "*":
                raise RangesIgnored(f"answers with the range {self._headers.get('content-range')!r}")
            total: int | None = int(match[3])
            self.end = min(int(match[2]) + 1, self.end or int(match[2]) + 1)
        elif transfer.whole or (self._is_first() and length != str(self.end)):
            transfer.whole = True
            total = self.end = int(length) if length.isdigit() else None
        else:
            raise RangesIgnored("answers a range without saying which")
        self._identify(total)
        self._accepted = True

    def _is_first(self) -> bool:
        """Tell whether nothing is there yet, so that the whole file may as well come at once."""
        return self.start == 0 and self._transfer.total is None and not self._transfer.partial.resumed

    def _identify(self, total: int | None) -> None:
        """Compare size and ETag with what was begun, or begin."""
        transfer, partial = self._transfer, self._transfer.partial
        etag = self._headers.get("etag", "")
        identity = {"url": transfer.identity, "total": total, "etag": "" if etag.startswith("W/") else etag}
        if partial.identity and partial.identity != identity:
            raise Changed(f"the file changed on the server: {partial.identity} then, {identity} now")
        if transfer.total is None:
            _check_kind(transfer, self._headers)
            transfer.admit(total)
            partial.identity = identity
            transfer.total = total

    def verdict(self, code: int, message: str) -> None:
        """Say by an exception what came of the request, if it was not what was asked for.

        Raises
        ------
        Fault, Changed, RangesIgnored
            Worth another try.
        BrokenInputError, NetworkError
            Not worth one.
        """
        if self.outdated:
            return
        self._write()
        if self._problem is not None:
            raise self._problem
        if code != 0:
            raise _curl_fault(code, message, self._transfer)
        if self._status == 416:
            self._beyond_the_end()
        elif self._status not in {200, 206}:
            raise _status_fault(self._status, self._headers, self._transfer)
        elif self._transfer.whole and self._transfer.total is None:
            self._transfer.total = self.position
        elif self.end is not None and self.position < self.end:
            raise Fault(f"ended after {self.position - self.start} of {self.end - self.start} bytes")

    def _beyond_the_end(self) -> None:
        """Take a refused range: an empty file has no first byte, another file may be shorter."""
        match = _CONTENT_RANGE.fullmatch(self._headers.get("content-range", ""))
        if match and match[3] == "0" and not self._transfer.partial.resumed:
            self._transfer.admit(0)
            self._transfer.total = 0
        elif self._transfer.partial.identity:
            raise Changed("the server has fewer bytes than were begun")
        else:
            raise RangesIgnored("refuses the range")


def _authorities() -> str:
    """Return the file of certificate authorities: the user's, else the one that Python packages share."""
    import certifi

    names = ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return next((os.environ[name] for name in names if os.environ.get(name)), certifi.where())


def _check_kind(transfer: Transfer, headers: dict[str, str]) -> None:
    kind = headers.get("content-type", "")
    path = transfer.identity.partition("?")[0]
    if kind.startswith("text/html") and not path.endswith((".html", ".htm")):
        raise BrokenInputError(
            f"{shown(transfer.identity)} is a web page ({kind}), not a file", hint="give the URL of the file itself"
        )


def _cannot_write(transfer: Transfer, error: OSError) -> RunnerError:
    from runner.errors import RecordError

    return RecordError(
        f"cannot write {transfer.partial.part}: {error.strerror}",
        hint="free space and run the same command again; it continues where it stopped",
    )


def _status_fault(status: int, headers: dict[str, str], transfer: Transfer) -> Exception:
    where = shown(transfer.location.url)
    if status in _PASSING:
        retry_after = _retry_after(headers.get("retry-after", ""))
        return Fault(f"answered {status}", retry_after=retry_after, too_many=status in {429, 503})
    if status in {202, 204}:
        return Fault(f"answered {status} with nothing")
    unsigned = not transfer.location.has_credential and transfer.identity.startswith("s3:")
    if status in {401, 403} or (status == 400 and unsigned):
        credential = transfer.location.credential
        done = "is set and was refused" if transfer.location.has_credential else "is not set"
        return BrokenInputError(
            f"{where} answered {status}: access needs {credential}, which {done}",
            hint=f"set {credential}, and accept the data's terms on its page if it has any",
        )
    return BrokenInputError(f"{where} answered {status}", hint="correct the URL in the plan")


def _retry_after(text: str) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date."""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _curl_fault(code: int, message: str, transfer: Transfer) -> Exception:
    import pycurl

    where = shown(transfer.location.url)
    untrusted = {
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_ISSUER_ERROR,
    }
    if code in untrusted:
        return NetworkError(f"{where}: {message}", hint="SSL_CERT_FILE names the authorities to trust")
    if code in {pycurl.E_TOO_MANY_REDIRECTS, pycurl.E_URL_MALFORMAT, pycurl.E_UNSUPPORTED_PROTOCOL}:
        return BrokenInputError(f"{where}: {message}", hint="correct the URL in the plan")
    return Fault(message or f"libcurl error {code}")
