# SPDX-License-Identifier: Apache-2.0
"""Serves staged datasets to the notebook over HTTP on this machine, for the duration of its run.

The notebook downloads as usual, with Python or wget, and continues as after any download. Only declared
files are served, under an unguessable path, on the loopback interface. Offline, the same server acts as the
kernel's proxy and refuses everything else by name, so that a forgotten download fails immediately with its
URL.

Programs disagree on the variable for hosts without a proxy: some read only ``no_proxy``, some only
``NO_PROXY``, and most prefer lower case if both are set. So both are set to the union of their values and our
additions.
"""

from __future__ import annotations

import http.server
import os
import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from runner.core import log
from runner.data.locate import file_name, shown

if TYPE_CHECKING:
    from runner.data.cache import Staged

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_OFFLINE_HINT = "declare it under `datasets` in the plan and fetch it, or run without --offline"
LOCAL = ("127.0.0.1", "localhost")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class Mirror:
    """Context manager that serves staged datasets.

    Parameters
    ----------
    staged
        Datasets to serve.
    offline
        Refuse all other HTTP requests of the kernel.
    environment
        The kernel's environment so far; its ``no_proxy`` is extended.
    """

    def __init__(
        self, staged: Iterable[Staged], *, offline: bool = False, environment: Mapping[str, str] | None = None
    ) -> None:
        self._staged = tuple(staged)
        self._offline = offline
        self._environment = os.environ if environment is None else environment
        self._token = secrets.token_urlsafe(16)
        self._httpd = _Server((LOCAL[0], 0), _Handler)
        self._httpd.files = {self._path(item): item for item in self._staged}
        self._thread = threading.Thread(
            target=self._httpd.serve_forever, args=(0.1,), name="dataset-mirror", daemon=True
        )

    @property
    def urls(self) -> dict[str, str]:
        """Return the local URL for each dataset's URL."""
        return {item.url: self._origin + self._path(item) for item in self._staged}

    @property
    def env(self) -> dict[str, str]:
        """Return the variables the kernel needs to reach the mirror, and offline only the mirror."""
        variables = proxy_exceptions({} if self._offline else self._environment)
        if self._offline:
            names = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
            variables |= {name: self._origin for lower in names for name in (lower, lower.upper())}
            variables["HF_HUB_OFFLINE"] = "1"
        return variables

    @property
    def served(self) -> dict[str, int]:
        """Return the number of requests for each dataset."""
        return {item.name: self._httpd.counts.get(item.name, 0) for item in self._staged}

    @property
    def refused(self) -> tuple[str, ...]:
        """Return the requests refused while offline."""
        return tuple(self._httpd.refused)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()

    @property
    def _origin(self) -> str:
        return f"http://{LOCAL[0]}:{self._httpd.server_address[1]}"

    def _path(self, item: Staged) -> str:
        return f"/{self._token}/{item.name}/{file_name(item.url)}"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    files: dict[str, Staged]

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.counts: dict[str, int] = {}
        self.refused: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors: a client may disconnect."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "dataset-mirror"
    server: _Server

    def log_message(self, *_args: object) -> None:
        """Log nothing here; relevant events have their own log lines."""

    def do_GET(self) -> None:
        """Serve a dataset or a range of it."""
        item = self.server.files.get(self.path.partition("?")[0])
        if item is None:
            self._refuse()
            return
        try:
            stream = item.path.open("rb")
        except OSError as error:
            self._answer(500, f"{item.path.name}: {error.strerror}")
            return
        with stream:
            size = os.fstat(stream.fileno()).st_size
            if size != item.bytes:
                self._answer(500, f"{item.path.name} changed: {item.bytes} bytes when verified, {size} now")
                return
            span = self._span(size)
            if span is None:
                self._empty(416, {"Content-Range": f"bytes */{size}"})
                return
            start, end = span
            self._head(item, start, end, size)
            if self.command == "GET":
                self.server.counts[item.name] = self.server.counts.get(item.name, 0) + 1
                self.wfile.flush()
                if end > start:
                    self.connection.sendfile(stream, start, end - start)

    def do_HEAD(self) -> None:
        """Answer like GET, without the content."""
        self.do_GET()

    def do_CONNECT(self) -> None:
        """Refuse a tunnel, requested because this is the configured proxy while offline."""
        self._refuse()

    def do_POST(self) -> None:
        """Refuse uploads."""
        self._refuse()

    def _head(self, item: Staged, start: int, end: int, size: int) -> None:
        partial = "Range" in self.headers and (start, end) != (0, size)
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{item.sha256}"')
        # No Last-Modified: wget would set it on the file, which would then seem older than the run.
        self.end_headers()

    def _span(self, size: int) -> tuple[int, int] | None:
        """Return the requested range of bytes, None if it is not satisfiable."""
        match = _RANGE.fullmatch(self.headers.get("Range", "").strip())
        if not match or match.group(0) == "bytes=-":
            return 0, size  # no range, or one that may be ignored (multiple, other unit)
        first, last = match.groups()
        if not first:
            return (max(0, size - int(last)), size) if int(last) and size else None
        start, end = int(first), min(int(last) + 1 if last else size, size)
        return (start, end) if start < end else None

    def _refuse(self) -> None:
        """Refuse a request for a file that is not staged."""
        if self.path.startswith("/"):
            self._answer(404, "not a dataset of this run")
            return
        target = shown(self.path) if "://" in self.path else self.path
        if target not in self.server.refused:
            self.server.refused.append(target)
            log.warning("offline", refused=target, hint=_OFFLINE_HINT)
        self._answer(403, f"offline, {target} is not staged: {_OFFLINE_HINT}")

    def _answer(self, status: int, text: str) -> None:
        reason = "".join(c if c.isprintable() else "?" for c in text).encode("latin-1", "replace").decode("latin-1")
        self.send_response(status, reason[:300])
        body = (text + "\n").encode("utf-8", "replace")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    def _empty(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()


def has_proxy(environment: Mapping[str, str]) -> bool:
    """Return True if an environment defines a proxy."""
    return any(environment.get(spelt) for name in _PROXIES for spelt in (name, name.upper()))


def proxy_exceptions(environment: Mapping[str, str]) -> dict[str, str]:
    """Return both variables with the union of their values and this machine.

    An asterisk means all hosts, but only on its own.
    """
    hosts = (host.strip() for name in _EXCEPTIONS for host in environment.get(name, "").split(","))
    present = [host for host in hosts if host]
    text = "*" if "*" in present else ",".join(dict.fromkeys([*present, *LOCAL]))
    return dict.fromkeys(_EXCEPTIONS, text)
