# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel: notes files and hosts that it uses, failed commands, and work interrupted by its end.

An audit hook sees the files of the checkout opened by imports, pandas and `open`, but not those opened by C libraries
or other programs. IPython lets a cell succeed even if its ``!command`` failed, and a kernel may be busy when it is shut
down. The runner reads the notes afterwards. Uses only the standard library and IPython's dependencies; nothing here may
raise into the notebook.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

_MOST_OPENED = 20_000
_MOST_ROWS = 500
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
_PYTHON = re.compile(r"(?:^|[;&|(])\s{0,20}(python3?|pip3?)(?=\s|$)")


class Notes:
    """Rows of JSON in a file, except from forked children of the kernel."""

    def __init__(self, name: str) -> None:
        self.path = str(Path(os.environ["RUNNER_FAULT_LOG"]).with_name(name))
        self.pid = os.getpid()

    def append(self, *rows: Any) -> None:
        """Append rows if possible."""
        with contextlib.suppress(Exception):
            if not rows or os.getpid() != self.pid:
                return
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, "".join(json.dumps(row) + "\n" for row in rows).encode())
            finally:
                os.close(handle)


class Opened:
    """Files and hosts, with those not yet written to the notes.

    Parameters
    ----------
    roots
        Folders whose files are noted, each with a trailing slash.
    """

    def __init__(self, roots: tuple[str, ...]) -> None:
        self.notes = Notes("opened.jsonl")
        self.roots = roots
        self.seen: dict[tuple[str, str], None] = {}
        self.written = 0

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an event; called for all audit events, so it returns at once for most."""
        if event not in {"open", "socket.getaddrinfo"} or len(self.seen) >= _MOST_OPENED:
            return
        with contextlib.suppress(Exception):
            if event == "socket.getaddrinfo":
                host = arguments[0]
                self.seen["host", host.decode() if isinstance(host, bytes) else str(host)] = None
            elif not isinstance(arguments[0], int):
                path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100  (does not resolve symlinks)
                if path.startswith(self.roots):
                    _path, mode, flags = arguments
                    writing = any(c in mode for c in "wax+") if isinstance(mode, str) else bool(flags & _WRITING)
                    self.seen["written" if writing else "read", path] = None

    def write(self, *_: Any) -> None:
        """Append new entries to the notes."""
        rows = list(self.seen)[self.written :]
        self.written += len(rows)
        self.notes.append(*rows)


class Commands:
    """Notes about commands and the kernel's end."""

    def __init__(self) -> None:
        self.notes = Notes("shell.jsonl")
        self.rows = 0
        self.programs: set[str] = set()
        self.threads = set(threading.enumerate())

    def note(self, **row: Any) -> None:
        """Append a row with the time."""
        if self.rows < _MOST_ROWS:
            self.rows += 1
            self.notes.append({**row, "now": time.monotonic()})

    def command(self, command: Any, code: Any) -> None:
        """Note a failed command, and each program of another environment once."""
        with contextlib.suppress(Exception):
            text = command.decode(errors="replace") if isinstance(command, bytes) else str(command)
            for name in set(_PYTHON.findall(text[:10_000])) - self.programs:
                self.programs.add(name)
                path = shutil.which(name)
                own = {os.path.realpath(folder) for folder in (Path(sys.prefix) / "bin", Path(sys.executable).parent)}
                if path and os.path.realpath(Path(path).parent) not in own:
                    self.note(event="program", name=name, path=path, prefix=sys.prefix)
            if isinstance(code, int) and code:
                self.note(event="command", command=text[:500], code=code)

    def ending(self) -> None:
        """Note that the interpreter is shutting down, and the threads that it waits for."""
        with contextlib.suppress(Exception):
            waits = [t.name for t in threading.enumerate() if not t.daemon and t not in self.threads and t.is_alive()]
            me = threading.current_thread().name
            self.note(event="ending", threads=[name[:100] for name in waits if name != me][:5])

    def watch(self) -> None:
        """Wrap the functions where IPython drops exit statuses, below those that expand variables by frame depth."""
        from ipykernel import zmqshell
        from IPython.core import interactiveshell
        from IPython.utils import _process_common

        common: Any = _process_common
        handle = common.process_handler

        def watched_by(system: Any) -> Any:
            def watched_system(command: Any) -> Any:
                code = system(command)
                self.command(command, code)
                return code

            return watched_system

        def watched_handler(command: Any, callback: Any, *args: Any, **kwargs: Any) -> Any:
            def watched(process: Any) -> Any:
                result = callback(process)
                self.command(command, getattr(process, "returncode", None))
                return result

            return handle(command, watched, *args, **kwargs)

        common.process_handler = watched_handler
        modules: tuple[Any, ...] = (interactiveshell, zmqshell)
        for module in modules:
            if hasattr(module, "system"):
                module.system = watched_by(module.system)


def note_commands() -> None:
    """Start to note commands and the kernel's end."""
    commands = Commands()
    # The first registered handler is called last, after all handlers of the notebook.
    atexit.register(lambda: commands.note(event="ended"))
    with contextlib.suppress(AttributeError):
        threading._register_atexit(commands.ending)  # type: ignore[attr-defined]  # noqa: SLF001  (no public hook runs before the wait for threads)
    commands.watch()


def note_opened(folder: str) -> None:
    """Start to note files opened below a folder, by its path and its resolved path."""
    from IPython.core.getipython import get_ipython

    opened = Opened(tuple({f"{root.rstrip('/')}/" for root in (folder, os.path.realpath(folder))}))
    sys.addaudithook(opened.hook)
    shell: Any = get_ipython()
    shell.events.register("post_run_cell", opened.write)


if __name__ == "runner_notes":
    with contextlib.suppress(Exception):
        note_commands()
    with contextlib.suppress(Exception):
        note_opened(globals()["CHECKOUT"])
