# SPDX-License-Identifier: Apache-2.0
"""A real HTTP proxy for https: it opens tunnels with CONNECT, and leads every host to this machine."""

from __future__ import annotations

import contextlib
import http.server
import select
import socket
import threading
from collections.abc import Iterator


class Proxy(http.server.ThreadingHTTPServer):
    """Remembers the tunnels it opened; answers ``statuses`` first, and 407 to whoever lacks ``authorization``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tunnels: list[str] = []
        self.statuses: list[int] = []
        self.authorization: str | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Log nothing: clients that hang up are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *args):
        """Say nothing."""

    def do_CONNECT(self):
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if self.server.authorization and self.headers.get("Proxy-Authorization") != self.server.authorization:
            status = 407
        if status != 200:
            self.send_response(status)
            self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"<html>")
            return
        self.server.tunnels.append(self.path)
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as there:
            self.send_response(200, "Connection established")
            self.send_header("Via", "1.1 proxy.example")
            self.send_header("Content-Type", "text/html")  # what is said of the tunnel is no answer of the server
            self.send_header("ETag", '"tunnel"')
            self.end_headers()
            self._pass_on(there)
        self.close_connection = True

    def _pass_on(self, there: socket.socket) -> None:
        ends = {self.connection: there, there: self.connection}
        with contextlib.suppress(OSError):
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    ends[end].sendall(data)


@contextlib.contextmanager
def proxying() -> Iterator[Proxy]:
    """Run a proxy for the time of a block."""
    proxy = Proxy()
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
