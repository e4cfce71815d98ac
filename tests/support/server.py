# SPDX-License-Identifier: Apache-2.0
"""A local HTTP server that misbehaves as told: it stalls, cuts, throttles, lies and refuses."""

from __future__ import annotations

import contextlib
import http.server
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Reply:
    """What the server does with requests for one path.

    Each of ``statuses`` answers one request, before the content is served as usual.
    """

    content: bytes = b""
    ranges: bool = True
    range_status: int = 206
    """200 is wrong for a range, and there are servers that say it."""
    says_range: bool = True
    content_range: str | None = None
    """What every answer says, with the whole content."""
    etag: str | None = '"v1"'
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None
    """A Content-Length that is not the body's."""
    chunked: bool = False
    cut_after: list[int] = field(default_factory=list)
    """For one request each: bytes of the body after which the connection is cut."""
    stalls: int = 0
    """So many requests get half of their body and then nothing."""
    bytes_per_second: float | None = None
    token: str | None = None
    """The only Authorization that is let in; others get 401."""
    at_once: int | None = None
    """Only so many requests are answered at a time; others get 429 with ``headers``."""
    before: Callable[[], None] | None = None
    """Called at each request; if it raises ConnectionError, the connection ends without an answer."""
    serving: int = 0


class Server:
    """Serves replies by path and remembers the requests."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.replies: dict[str, Reply] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.open_connections = 0
        self.most_connections = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._httpd = _Httpd(("127.0.0.1", 0), _Handler)
        self._httpd.owner = self
        if tls:
            self._httpd.socket = tls.wrap_socket(self._httpd.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._httpd.server_address[1]}"

    def add(self, path: str, reply: Reply) -> str:
        """Serve a reply and return its URL."""
        self.replies[path] = reply
        return self.url + path

    @property
    def ranges(self) -> list[str]:
        """The Range headers that were asked for, in order."""
        return [headers["range"] for _method, _path, headers in self.requests if "range" in headers]

    def start(self) -> None:
        threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.closing.set()
        self._httpd.shutdown()
        self._httpd.server_close()


class _Httpd(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: Server

    def handle_error(self, request, client_address):
        """Log nothing: clients that hang up are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Httpd

    def log_message(self, *args):
        """Say nothing."""

    def handle(self):
        owner = self.server.owner
        with owner.lock:
            owner.open_connections += 1
            owner.most_connections = max(owner.most_connections, owner.open_connections)
        try:
            super().handle()
        finally:
            with owner.lock:
                owner.open_connections -= 1

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner.requests.append((self.command, self.path, headers))
        reply = owner.replies.get(self.path)
        if reply is None:
            self._empty(404, {})
            return
        if reply.before:
            try:
                reply.before()
            except ConnectionError:
                self.close_connection = True
                return
        if reply.token is not None and headers.get("authorization") != reply.token:
            self._empty(401, {})
            return
        with owner.lock:
            status = reply.statuses.pop(0) if reply.statuses else 0
        if status:
            self._empty(status, reply.headers)
            return
        with owner.lock:
            reply.serving += 1
            crowded = reply.at_once is not None and reply.serving > reply.at_once
        try:
            if crowded:
                self._empty(429, reply.headers)
            else:
                self._serve(reply, headers.get("range"))
        finally:
            with owner.lock:
                reply.serving -= 1

    def _empty(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, reply, wanted):
        total = len(reply.content)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        start, end = 0, total
        if reply.content_range:
            self.send_response(206)
            self.send_header("Content-Range", reply.content_range)
        elif match and reply.ranges:
            start, end = int(match[1]), min(int(match[2] or total) + 1, total)
            if start >= total:
                self._empty(416, {"Content-Range": f"bytes */{total}"})
                return
            self.send_response(reply.range_status)
            if reply.says_range:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
        else:
            self.send_response(200)
        if reply.etag:
            self.send_header("ETag", reply.etag)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(reply.announced if reply.announced is not None else end - start))
        self.end_headers()
        if self.command != "HEAD":
            self._body(reply, memoryview(reply.content)[start:end])

    def _body(self, reply, body):
        with self.server.owner.lock:
            cut = reply.cut_after.pop(0) if reply.cut_after else None
            stall, reply.stalls = reply.stalls > 0, max(0, reply.stalls - 1)
        for piece in self._paced(reply, body[: len(body) // 2] if stall else body[:cut]):
            self.wfile.write(f"{len(piece):x}\r\n".encode() if reply.chunked else b"")
            self.wfile.write(piece)
            self.wfile.write(b"\r\n" if reply.chunked else b"")
        if reply.chunked and cut is None:
            self.wfile.write(b"0\r\n\r\n")
        if stall:
            self.server.owner.closing.wait(60)
        if stall or cut is not None or reply.announced is not None:
            self.close_connection = True

    def _paced(self, reply, body) -> Iterator[memoryview]:
        """Give the body in pieces, not faster than the reply allows to one connection."""
        if reply.bytes_per_second is None:
            yield body
            return
        size = 64 << 10
        began = time.monotonic()
        for at in range(0, len(body), size):
            ahead = at / reply.bytes_per_second - (time.monotonic() - began)
            if ahead > 0 and self.server.owner.closing.wait(ahead):
                return
            yield body[at : at + size]


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server for the time of a block."""
    server = Server(tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()
