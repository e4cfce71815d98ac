# SPDX-License-Identifier: Apache-2.0
"""Fork commands, kernels and fork servers from a process that has already imported their modules.

Start-up and imports take most of the time of a small command or kernel, and are the same every time. A forked process
otherwise behaves like a new one: it is a child of the process that started it, with its own signals, working directory,
environment, streams and exit code. It cannot show start-up itself, or the first import of a module; tests of these use
`cli.RUNNER`, a script, or the fixture `new_kernels`.

A process can only be reparented to an ancestor. Each command that starts kernels therefore forks a server of its own
before it begins, and the tests' process has one too, for runs that a test makes without the command line.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import gc
import inspect
import json
import os
import pkgutil
import random
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

_READ_AT_START = ("LC_", "LANG", "LD_", "MALLOC", "PYTHON", "RUST", "TQDM")
"""Prefixes of variables that Python, its libraries and the loader read only once."""
_SEARCH_PATHS = ("LD_LIBRARY_PATH", "PYTHONPATH")
"""Exceptions: directories can be added to these later."""
_NOT_NEEDED = ("__main__", "_startup", "in_kernel", "probe_cuda", "probe_imports", "pytest_plugin")
"""Modules that run in kernels, probes and pytest."""
_COMPARISONS = ("runner.compare.",)
"""Modules that import pandas, SciPy and AnnData; forking a larger process takes longer."""
_IMPORTED_LATER = (
    "IPython.core.completerlib", "IPython.core.debugger", "IPython.core.logger", "IPython.core.oinspect",
    "IPython.extensions.storemagic", "ipykernel.debugger", "ipykernel.ipkernel", "ipykernel.kernelapp",
    "ipykernel.kernelspec", "ipykernel.zmqshell", "prometheus_client.openmetrics.exposition", "psutil",
    "pydantic.dataclasses", "requests", "rocrate.rocrate", "sqlite3", "tornado.platform.asyncio",
)  # fmt: skip
"""Modules that kernels and commands import lazily."""
_STARTERS = {"run", "run-all", "rerun", "fit", "forecast", "demo"}
"""Commands that start kernels."""
_PROGRAMS = {"ipykernel_launcher", "runner.fork_server"}
"""Modules that commands start with `python -m`."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GET_CHILD_SUBREAPER, _SET_CHILD_SUBREAPER = 37, 36
_CHUNK_BYTES = 1 << 20
_HIGH = 200
"""First file descriptor that is never passed to a process."""

_execute_child = subprocess.Popen._execute_child  # type: ignore[attr-defined]
forked_kernels = True
"""Whether commands fork their kernels and fork servers."""


class Process(subprocess.Popen[str]):
    """A forked command; its arguments are those of the command line."""

    def _execute_child(self, *given: Any) -> None:  # called by the base class to start the process
        asked = inspect.signature(_execute_child).bind(self, *given).arguments
        arguments = list(asked["args"])
        kind = "comparisons" if "compare" in arguments or "--baseline" in arguments else "commands"
        _fork(_server(os.getpid(), kind), self, "runner" if forked_kernels else "", arguments, asked)


def fits(environment: Mapping[str, str]) -> bool:
    """Return True unless a variable differs that only a new process reads."""

    def read_once(variables: Mapping[str, str]) -> dict[str, str]:
        kept = variables.keys() - set(_SEARCH_PATHS)
        return {name: variables[name] for name in kept if name.startswith(_READ_AT_START)}

    added = [_added(name, environment) for name in _SEARCH_PATHS]
    if None in added or any(Path(one, "sitecustomize.py").exists() for folders in added for one in folders or ()):
        return False
    return read_once(environment) == read_once(os.environ)


def _added(name: str, environment: Mapping[str, str]) -> list[str] | None:
    """Return the directories prepended to our search path, None if it differs otherwise."""
    wanted, own = (list(filter(None, one.get(name, "").split(os.pathsep))) for one in (environment, os.environ))
    new = len(wanted) - len(own)
    return wanted[:new] if new >= 0 and wanted[new:] == own else None


def _fork(server: _Server, process: Any, program: str, arguments: list[str], asked: Mapping[str, Any]) -> None:
    """Start the process of a `Popen` object in place of its `_execute_child`."""
    ends = [asked[name] for name in ("p2cread", "c2pwrite", "errwrite")]
    files = {number: number if end == -1 else end for number, end in enumerate(ends)}
    request = {
        "program": program,
        "arguments": arguments,
        "folder": str(asked["cwd"] or Path.cwd()),
        "environment": dict(os.environ if asked["env"] is None else asked["env"]),
        "files": [*files, *asked["pass_fds"]],
        "session": bool(asked["start_new_session"]),
        "group": asked["process_group"],
    }
    process.pid = server.fork(request, [*files.values(), *asked["pass_fds"]])
    process._child_created = True
    pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
    process._close_pipe_fds(*(asked[name] for name in pipes))


class _Server:
    """Client of a forking process."""

    def __init__(self, connection: socket.socket) -> None:
        self._lock = threading.Lock()
        self._socket = connection

    def fork(self, request: Mapping[str, Any], files: Sequence[int]) -> int:
        """Fork a process and return its pid; as an orphan it is reparented to us, the nearest subreaper."""
        prctl = ctypes.CDLL(None).prctl
        with self._lock:
            before = ctypes.c_int()
            prctl(_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
            prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], files)
                pid = int(self._socket.recv(_CHUNK_BYTES))
                self._socket.recv(_CHUNK_BYTES)  # reparented, and in its process group
                return pid
            finally:
                prctl(_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


@functools.cache
def _server(_pid: int, kind: str) -> _Server:
    """Start a server for this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, __file__, kind, str(theirs.fileno())]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    return _Server(ours)


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each request; return the request in the child, and None when the client is gone."""
    connection = socket.socket(fileno=fcntl.fcntl(connection.detach(), fcntl.F_DUPFD_CLOEXEC, _HIGH))
    usual = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}  # sent to the whole group
    while True:
        message, received, _, _ = socket.recv_fds(connection, _CHUNK_BYTES, 16)
        if not message:
            return None
        middle = os.fork()
        if not middle:
            middle = os.getpid()
            if pid := os.fork():
                connection.send(str(pid).encode())
                os._exit(0)
            for number, handler in usual.items():
                signal.signal(number, handler)
            while os.getppid() == middle:
                time.sleep(0.0005)
            request: dict[str, Any] = json.loads(message)
            with connection:
                _settle(request, received)
                connection.send(b"settled")
            return request
        os.waitpid(middle, 0)
        for number in received:
            os.close(number)


def _settle(request: Mapping[str, Any], received: Sequence[int]) -> None:
    """Give a forked process what a new one would have."""
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _HIGH) for number in received]
    for number in received:
        os.close(number)
    for number, file in zip(request["files"], high, strict=True):
        os.dup2(file, number)
        os.close(file)
    if request["session"]:
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    elif request["group"] not in {None, -1}:
        os.setpgid(0, request["group"])
    libraries, modules = (_added(name, request["environment"]) or [] for name in _SEARCH_PATHS)
    for folder in libraries:
        for library in Path(folder).glob("*.so*"):
            ctypes.CDLL(str(library))  # found by its soname later
    sys.path[:0] = modules
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def _become_starter(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Start a server for this command; return the request in its children, None in the command itself."""
    if not _STARTERS.intersection(arguments):
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        ours.close()
        request = _serve(theirs)
        if request is None:
            os._exit(0)
        return request
    theirs.close()

    from runner.core import procfs

    pids = procfs.pids
    procfs.pids = lambda: pids() - {pid}  # a new process has no children whose orphans it could adopt
    server = _Server(ours)
    _divert(lambda: server)
    return None


def fork_programs() -> None:
    """Fork the kernels and fork servers that this process starts."""
    _divert(lambda: _server(os.getpid(), "commands"))


def _divert(server: Callable[[], _Server]) -> None:
    def execute_child(self: Any, *given: Any) -> None:
        asked = inspect.signature(_execute_child).bind(self, *given).arguments
        command = list(map(os.fspath, asked["args"])) if isinstance(asked["args"], list | tuple) else []
        place = command.index("-m") if "-m" in command[1:4] else 0
        own = place and command[0] == sys.executable and command[place + 1] in _PROGRAMS
        if forked_kernels and own and asked["env"] is not None and fits(asked["env"]):
            _fork(server(), self, command[place + 1], command[place + 2 :], asked)
        else:
            _execute_child(self, *given)

    subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]


def _run(request: dict[str, Any]) -> None:
    """Run the requested program."""
    program, arguments = request["program"], request["arguments"]
    sys.argv = [program, *arguments]
    if program == "ipykernel_launcher":
        for name in [name for name in sys.modules if name.split(".")[0] == "runner"]:
            del sys.modules[name]
        from ipykernel.kernelapp import launch_new_instance

        # The module read the parent's pid when it was imported.
        launch_new_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
        return
    if program == "runner.fork_server":
        from runner.fork_server import Server

        arguments = Server(socket.socket(fileno=int(arguments[0]))).serve()
        if arguments is None:
            return
        sys.argv = ["runner", *arguments]
    else:
        import runner

        sys.path.insert(0, request["folder"])
        sys.argv = [f"{runner.__path__[0]}/__main__.py", *arguments]
    if program and (other := _become_starter(arguments)) is not None:
        _run(other)
        return
    from runner.cli import main

    main()


def _import(kind: str) -> None:
    """Import the package and IPython's kernel, and compile the templates; none of this starts a thread."""
    import runner
    from runner.fork_server import preload
    from runner.report.html.render import environment

    preload()

    left_out = () if kind == "comparisons" else _COMPARISONS
    for module in pkgutil.walk_packages(runner.__path__, "runner."):
        if not module.name.endswith(_NOT_NEEDED) and not module.name.startswith(left_out):
            import_module(module.name)

    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # the debugger warns on stderr otherwise
    for name in _IMPORTED_LATER:
        import_module(name)

    for name in environment().list_templates(["html"]):
        if name == "report.html" or name.startswith("partials/"):
            environment().get_template(name)
    gc.freeze()  # keep memory pages shared with the children


def main() -> None:
    """Serve, and run the program in a forked child."""
    del sys.path[0]  # our directory: its modules would shadow others
    connection = socket.socket(fileno=int(sys.argv[2]))
    _import(sys.argv[1])
    request = _serve(connection)
    if request is None:
        return
    code: Any = 0
    try:
        _run(request)
    except SystemExit as ended:
        code = ended.code
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)  # finalizing all modules takes longer than most commands


if __name__ == "__main__":
    main()
