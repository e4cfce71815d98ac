# SPDX-License-Identifier: Apache-2.0
"""One request for one range: its headers are judged before a byte of its body is kept."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

from runner.core import files
from runner.core.errors import BrokenInputError, RecordError, RunnerError
from runner.data.download import request_errors
from runner.data.download.request_errors import Changed, Fault, NotInParts, Restart
from runner.data.download.version import Version
from runner.data.locate import shown

if TYPE_CHECKING:
    from runner.data.download.transfer import Transfer

_BUFFER_BYTES = 1 << 20
_LONGEST_HELD_SECONDS = 0.25
_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)")
_WITH_CONTENT = {200, 206}
_USER_AGENT = "rapids-notebook-runner"


class Stream:
    """A running request. ``end`` is None when everything to the end is asked for."""

    def __init__(self, transfer: Transfer, number: int, start: int, end: int | None) -> None:
        self._transfer = transfer
        self.number, self.start, self.end = number, start, end
        self.position = start
        self.round = transfer.patience.round
        self._status = 0
        self._headers: dict[str, str] = {}
        self._accepted = False
        self._problem: Exception | None = None
        self._held = memoryview(bytearray(_BUFFER_BYTES))
        self._filled = 0
        self._held_since = 0.0
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

    def _header(self, line: bytes) -> None:
        """Keep the headers of the latest answer: a redirect's come before it, and those of a proxy's tunnel."""
        text = line.decode("latin-1").strip()
        if text.startswith("HTTP/"):
            self._status, self._headers = int(text.split()[1]), {}
        elif ":" in text:
            name, _colon, value = text.partition(":")
            self._headers[name.strip().lower()] = value.strip()

    def _body(self, data: bytes) -> int | None:
        if self._problem is not None:
            return 0
        if not self._accepted:
            if self._status not in _WITH_CONTENT:
                return None  # the text of an error
            try:
                self._accept()
            except (RunnerError, Fault, Restart) as problem:
                self._problem = problem
                return 0
        if self.end is not None and self.position + len(data) > self.end:
            self._problem = Fault("sends more than it announced")
            return 0
        if self._filled + len(data) > len(self._held) and not self.flush():
            return 0
        if not self._filled:
            self._held_since = time.monotonic()
        self._held[self._filled : self._filled + len(data)] = data
        self._filled += len(data)
        self.position += len(data)
        return None

    def flush_in_time(self) -> None:
        """Write what is held for long: on a slow link a kill would cost what took minutes to come."""
        if self._filled and time.monotonic() - self._held_since >= _LONGEST_HELD_SECONDS:
            self.flush()

    def flush(self) -> bool:
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
        total: int | None
        if self._status == 206 or "content-range" in self._headers:  # some servers say 200 with a range
            self.end, total = self._range()
        elif transfer.whole or (self._is_first() and length != str(self.end)):
            transfer.whole = True
            total = self.end = int(length) if length.isdigit() else None
        else:
            raise NotInParts("answers a range without saying which")
        self._identify(total)
        self._accepted = True

    def _range(self) -> tuple[int, int]:
        """Return the end of the range that comes, and the size of the file."""
        text = self._headers.get("content-range")
        match = _CONTENT_RANGE.fullmatch(text or "")
        if match and match[1] is not None and match[3] != "*":
            start, end, total = int(match[1]), int(match[2]) + 1, int(match[3])
            if self._transfer.whole:
                if (start, end) == (0, total):
                    return end, total
            elif self.start == start < end <= total:
                return min(end, self.end or end), total
        raise NotInParts(f"answers with the range {text!r}")

    def _is_first(self) -> bool:
        """Tell whether nothing is there yet, so that the whole file may as well come at once."""
        return self.start == 0 and self._transfer.total is None and not self._transfer.partial.resumed

    def _identify(self, total: int | None) -> None:
        """Compare the version with the one that was begun, or begin."""
        transfer, partial = self._transfer, self._transfer.partial
        now = Version.of(transfer.source, total, self._headers)
        if partial.version and (difference := transfer.difference(partial.version, now)):
            raise Changed(f"the file changed on the server: {difference}")
        one_answer = transfer.whole or (self.start, self.end) == (0, total)
        if not (one_answer or now.named or partial.will_verify):
            raise NotInParts("names no version, and the plan has no checksum: parts of two files could be mixed")
        if transfer.total is None:
            _check_kind(transfer, self._headers)
            transfer.encoding = _encoding(self._headers)
            transfer.admit(total)
            partial.version = now
            transfer.total = total

    def verdict(self, code: int, message: str) -> None:
        """Say by an exception what came of the request, if it was not what was asked for.

        Raises
        ------
        Fault, Restart
            Worth another try.
        BrokenInputError, NetworkError
            Not worth one.
        """
        transfer = self._transfer
        self.flush()
        if self._problem is not None:
            raise self._problem
        if code != 0:
            raise request_errors.of_libcurl(code, message, transfer.location, self._tunnel())
        if self._status in _WITH_CONTENT and not self._accepted:
            self._accept()  # nothing came behind the headers
        if self._status == 416:
            self._beyond_the_end()
        elif self._status not in _WITH_CONTENT:
            raise request_errors.of_status(self._status, self._headers, transfer.location, transfer.source)
        elif transfer.whole and transfer.total is None:
            transfer.admit(self.position)
            transfer.total = self.position
        elif self.end is not None and (self.position < self.end or self.position == self.start != transfer.total):
            raise Fault(f"ended after {self.position - self.start} of {self.end - self.start} bytes")

    def _tunnel(self) -> int:
        """Return what a proxy answered to the wish for a tunnel, 0 when none was asked."""
        import pycurl

        return int(self.curl.getinfo(pycurl.HTTP_CONNECTCODE))

    def _beyond_the_end(self) -> None:
        """Take a refused range: an empty file has no first byte, another file may be shorter."""
        match = _CONTENT_RANGE.fullmatch(self._headers.get("content-range", ""))
        if match and match[3] == "0" and self._is_first():
            self._transfer.admit(0)
            self._transfer.total = 0
        elif self._transfer.partial.version:
            raise Changed("the server has fewer bytes than were begun")
        else:
            raise NotInParts("refuses the range")


def _authorities() -> str:
    """Return the file of certificate authorities: the user's, else the one that Python packages share."""
    import certifi

    names = ("CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return next((os.environ[name] for name in names if os.environ.get(name)), certifi.where())


def _encoding(headers: dict[str, str]) -> str:
    """Return how the bytes of an answer are encoded, although nothing was asked for; empty when they are not."""
    encoding = headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _check_kind(transfer: Transfer, headers: dict[str, str]) -> None:
    kind = headers.get("content-type", "")
    path = transfer.source.partition("?")[0]
    if kind.startswith("text/html") and not path.endswith((".html", ".htm")):
        raise BrokenInputError(
            f"{shown(transfer.source)} is a web page ({kind}), not a file", hint="give the URL of the file itself"
        )


def _cannot_write(transfer: Transfer, error: OSError) -> RunnerError:
    return RecordError(
        f"cannot write {transfer.partial.part}: {error.strerror}",
        hint=f"{files.remedy(transfer.partial.part, error.errno)}; "
        "the same command then continues where this one stopped",
    )
