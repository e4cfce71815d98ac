# SPDX-License-Identifier: Apache-2.0
"""Data and preparation: fetching against curl, preparing a notebook against nbconvert.

The server is a process of its own that sends from the page cache, so that it takes as little as
possible of what is measured. Fetching includes verification: the hash of every byte is taken.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import BIN, Benchmark, run

CONNECTIONS = 8
LIMIT_BYTES_PER_SECOND = 20_000_000
SERVER = """\
import http.server, os, re, sys, time

path, limit = sys.argv[1], float(sys.argv[2])


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start, end = 0, size
            asked = re.fullmatch(r"bytes=(\\d+)-(\\d+)", self.headers.get("Range", ""))
            if asked:
                start, end = int(asked[1]), min(int(asked[2]) + 1, size)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            self.wfile.flush()
            if not limit:
                self.connection.sendfile(stream, start, end - start)
                return
            began = time.monotonic()
            for at in range(start, end, 1 << 18):
                ahead = (at - start) / limit - (time.monotonic() - began)
                if ahead > 0:
                    time.sleep(ahead)
                self.connection.sendfile(stream, at, min(1 << 18, end - at))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args):
        pass


server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
FETCH = """\
import sys
from collections.abc import Callable
from pathlib import Path

from runner.data.fetch import fetch
from runner.plan.model import load

fetch(load(Path(sys.argv[1])), cache=Path(sys.argv[2]), connections=int(sys.argv[3]))
"""


class Download:
    """One file from one server, by us, by curl and by aria2c.

    Parameters
    ----------
    limit
        Bytes a second that the server gives to one connection, 0 for all it has.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size, self.limit = size, limit
        self.url = self.digest = ""

    def serve(self, folder: Path) -> None:
        """Write the file and start its server, which ends with this process."""
        path = folder / "data.bin"
        block, digest = random.Random(0).randbytes(10_000_000), hashlib.sha256()
        with path.open("wb") as stream:
            for _ in range(self.size // len(block)):
                stream.write(block)
                digest.update(block)
        self.digest = digest.hexdigest()
        command = [sys.executable, "-c", SERVER, str(path), str(self.limit)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        atexit.register(server.kill)
        assert server.stdout is not None
        self.url = f"http://127.0.0.1:{int(server.stdout.readline())}/data.bin"

    def our_seconds(self, folder: Path) -> float:
        """Return the wall time of a fetch with verification."""
        dataset = {"url": self.url, "path": "data.bin", "sha256": self.digest, "bytes": self.size}
        entry = {"name": "n", "path": "n.ipynb", "datasets": ["data"]}
        plan = {"version": 1, "name": "p", "notebooks": [entry], "datasets": {"data": dataset}}
        (folder / "plan.yaml").write_text(json.dumps(plan))
        command = [sys.executable, "-c", FETCH, folder / "plan.yaml", folder / "cache", str(CONNECTIONS)]
        return run(command, folder, {"PYTHONPATH": os.pathsep.join(sys.path)}).wall_seconds

    def their_seconds(self, folder: Path) -> float:
        """Return the wall time of curl, which verifies nothing."""
        return run(["curl", "--silent", "--fail", "--output", folder / "data.bin", self.url], folder).wall_seconds

    def aria2_seconds(self, folder: Path) -> float:
        """Return the wall time of aria2c with as many connections, which verifies too."""
        parts = [f"--split={CONNECTIONS}", f"--max-connection-per-server={CONNECTIONS}", "--min-split-size=2M"]
        checks = ["--no-conf", "--quiet", "--file-allocation=none", f"--checksum=sha-256={self.digest}"]
        command = ["aria2c", *checks, *parts, "--dir", folder, "--out", "data.bin", self.url]
        return run(command, folder).wall_seconds


def write_notebook(folder: Path) -> Path:
    """Write a notebook of 4 MB with figures in its saved outputs, as the single-cell ones have."""
    source, cells = random.Random(0), []
    for number in range(40):
        figure = base64.b64encode(source.randbytes(75_000)).decode()
        output = {"output_type": "display_data", "metadata": {}, "data": {"image/png": figure}}
        lines = [f"n_{number} = {number}\n", "%time\n", f"print(n_{number})"]
        cell = {"cell_type": "code", "id": f"c{number}", "metadata": {}, "execution_count": 1}
        cells.append({**cell, "outputs": [output], "source": lines})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "work.ipynb"
    document = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document))
    return path


PREPARE = """\
import sys, time
from pathlib import Path

import nbformat
from runner.core import files
from runner.core.notebook_document import read_notebook
from runner.stages.prepare.prepare import prepare
from runner.plan.model import Rule

started = time.perf_counter()
rule = Rule(replace={"find": "print(n_7)", "with": "print(n_7 + 1)"})
prepared = prepare(read_notebook(Path(sys.argv[1])), rules=[rule], parameters={"n_3": 30})
files.write(Path(sys.argv[2]), nbformat.writes(prepared.notebook))
Path(sys.argv[3]).write_text(str(time.perf_counter() - started))
"""


def our_preparation(folder: Path) -> float:
    """Return the time from the file to the prepared file, with a rule and a parameter.

    Start-up is left out, as it is in a run, where the runner is there already.
    """
    source, target, figure = write_notebook(folder), folder / "prepared.ipynb", folder / "seconds"
    run([sys.executable, "-c", PREPARE, source, target, figure], folder, {"PYTHONPATH": os.pathsep.join(sys.path)})
    return float(figure.read_text())


def their_preparation(folder: Path) -> float:
    """Return the wall time of the command that reads and writes a notebook."""
    source = write_notebook(folder)
    command = [BIN / "jupyter", "nbconvert", "--to", "notebook", "--output", "prepared.ipynb", source]
    return run(command, folder).wall_seconds


def without(program: str) -> Callable[[], str | None]:
    """Return a function that says that there is nothing to compare with, or None."""
    return lambda: None if shutil.which(program) else f"there is no {program} on PATH"


_throttled = Download(400_000_000, LIMIT_BYTES_PER_SECOND)
_loopback = Download(2_000_000_000, 0)

BENCHMARKS = [
    Benchmark(
        name="fetch-throttled",
        work=f"400 MB, {CONNECTIONS} connections, verified; the server gives each connection 20 MB/s",
        against="curl's single connection",
        unit="s",
        at_most=0.25,
        ours=_throttled.our_seconds,
        theirs=_throttled.their_seconds,
        prepare=_throttled.serve,
        missing=without("curl"),
    ),
    Benchmark(
        name="fetch-aria2",
        work=f"400 MB, {CONNECTIONS} connections, verified; the server gives each connection 20 MB/s",
        against=f"aria2c with {CONNECTIONS} connections, verified",
        unit="s",
        at_most=1.25,
        ours=_throttled.our_seconds,
        theirs=_throttled.aria2_seconds,
        prepare=_throttled.serve,
        missing=without("aria2c"),
    ),
    Benchmark(
        name="fetch-loopback",
        work=f"2 GB from this machine, {CONNECTIONS} connections, verified",
        against="curl's single connection, not verified",
        unit="s",
        at_most=1 / 0.6,
        ours=_loopback.our_seconds,
        theirs=_loopback.their_seconds,
        prepare=_loopback.serve,
        missing=without("curl"),
    ),
    Benchmark(
        name="prepare",
        work="a notebook of 4 MB: read, one rule, one parameter, write",
        against="jupyter nbconvert --to notebook",
        unit="s",
        at_most=0.15,
        ours=our_preparation,
        theirs=their_preparation,
    ),
]
