# SPDX-License-Identifier: Apache-2.0
"""The command line without the wait for its imports: processes forked from one that has made them.

Two thirds of what most commands take is Python's start and imports, the same each time. A process forked here is
else what a new one is: a child of the test's, with its own signals, folder, variables, streams and exit code. What it
cannot show is start-up itself: those tests start `cli.RUNNER` or a script.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import inspect
import json
import os
import pkgutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

_READ_AT_START = ("LC_", "LANG", "LD_", "MALLOC", "MPL", "PYTHON", "RUST", "TQDM")
"""Variables that Python, its libraries and the loader read once."""
_FOR_OTHERS = ("__main__", "_startup", "in_kernel", "probe_cuda", "probe_imports", "pytest_plugin")
"""Modules that kernels, probes and pytest import."""
_PR_SET_CHILD_SUBREAPER = 36
_CHUNK_BYTES = 1 << 20


class Process(subprocess.Popen[str]):
    """A command, forked; its arguments are those of the command line."""

    def _execute_child(self, *given: Any) -> None:  # what the base class calls to start the process
        asked = inspect.signature(subprocess.Popen._execute_child).bind(self, *given).arguments
        ends = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if end == -1 else end for number, end in enumerate(ends)]
        self.pid = _zygote(os.getpid()).fork(list(asked["args"]), asked["cwd"], asked["env"], streams)
        self._child_created = True
        for end in set(ends) - {-1}:
            os.close(end)


def fits(environment: Mapping[str, str]) -> bool:
    """Return False where a variable is wanted that only a new process reads."""
    own = {key: value for key, value in os.environ.items() if key.startswith(_READ_AT_START)}
    return own == {key: value for key, value in environment.items() if key.startswith(_READ_AT_START)}


class _Zygote:
    """The process that forks, as the tests see it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )

    def fork(self, arguments: list[str], cwd: Any, environment: Mapping[str, str], streams: list[int]) -> int:
        """Fork a process and return its pid; it is our child, as orphans go to a subreaper."""
        request = json.dumps([arguments, str(cwd or Path.cwd()), dict(environment)]).encode()
        with self._lock:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._socket, [request], streams)
                pid = int(self._socket.recv(_CHUNK_BYTES))
                self._socket.recv(_CHUNK_BYTES)  # it is an orphan now, so it is ours
                return pid
            finally:
                ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@functools.cache
def _zygote(_pid: int) -> _Zygote:
    """Return that of this process."""
    return _Zygote()


def _serve(connection: socket.socket) -> list[str] | None:
    """Fork a process for each request; return its arguments in the process, None at the end of the server."""
    while True:
        try:
            request, streams, _, _ = socket.recv_fds(connection, _CHUNK_BYTES, 3)
        except KeyboardInterrupt:  # a terminal's Ctrl-C reaches us too
            return None
        if not request:
            return None
        middle = os.fork()
        if not middle:
            middle = os.getpid()
            if pid := os.fork():
                connection.send(str(pid).encode())
                os._exit(0)
            connection.close()
            while os.getppid() == middle:
                time.sleep(0.0005)
            return _settled(*json.loads(request), streams)
        os.waitpid(middle, 0)
        connection.send(b"an orphan")
        for stream in streams:
            os.close(stream)


def _settled(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> list[str]:
    """Make of a forked process what a new one would be; return its arguments."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    sys.path.insert(0, folder)
    return arguments


def _import() -> None:
    """Import the package, and what its pages need; nothing of it starts a thread."""
    from runner.core.papermill_import import import_papermill

    import_papermill()  # first: it imports our engine by its entry point
    import runner

    for module in pkgutil.walk_packages(runner.__path__, "runner."):
        if not module.name.endswith(_FOR_OTHERS):
            import_module(module.name)

    from runner.stages.convert.page import preload

    preload([{"cell_type": "markdown"}])
    gc.freeze()  # its pages stay shared with the processes


def main() -> None:
    """Serve, or in a process that was forked run the command."""
    del sys.path[0]  # our folder, whose modules have names of others
    connection = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(KeyboardInterrupt):
        _import()
    arguments = _serve(connection)
    if arguments is not None:
        import runner
        from runner.cli import main as run

        sys.argv = [f"{runner.__path__[0]}/__main__.py", *arguments]
        try:
            run()
        except SystemExit as ended:
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)  # taking all modules apart costs more than most commands


if __name__ == "__main__":
    main()
