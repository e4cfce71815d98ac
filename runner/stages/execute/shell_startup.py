# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel: notes commands that failed, and work interrupted by its end.

IPython lets a cell succeed even if its ``!command`` failed, and a kernel may be busy when it is shut
down. Both are written to a file that the runner reads afterwards. Uses only the standard library
and IPython's dependencies; nothing here may raise into the notebook.
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

_MOST_ROWS = 500
_PYTHON = re.compile(r"(?:^|[;&|(])\s{0,20}(python3?|pip3?)(?=\s|$)")


class Notes:
    """Rows of JSON in a file, except from forked children of the kernel."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.pid = os.getpid()
        self.rows = 0
        self.programs: set[str] = set()
        self.threads = set(threading.enumerate())

    def write(self, **row: Any) -> None:
        """Append a row if possible."""
        with contextlib.suppress(Exception):
            if os.getpid() != self.pid or self.rows >= _MOST_ROWS:
                return
            self.rows += 1
            data = (json.dumps({**row, "now": time.monotonic()}) + "\n").encode()
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, data)
            finally:
                os.close(handle)

    def command(self, command: Any, code: Any) -> None:
        """Note a failed command, and each program of another environment once."""
        with contextlib.suppress(Exception):
            text = command.decode(errors="replace") if isinstance(command, bytes) else str(command)
            for name in set(_PYTHON.findall(text[:10_000])) - self.programs:
                self.programs.add(name)
                path = shutil.which(name)
                own = {os.path.realpath(folder) for folder in (Path(sys.prefix) / "bin", Path(sys.executable).parent)}
                if path and os.path.realpath(Path(path).parent) not in own:
                    self.write(event="program", name=name, path=path, prefix=sys.prefix)
            if isinstance(code, int) and code:
                self.write(event="command", command=text[:500], code=code)

    def ending(self) -> None:
        """Note that the interpreter is shutting down, and the threads that it waits for."""
        with contextlib.suppress(Exception):
            waits = [t.name for t in threading.enumerate() if not t.daemon and t not in self.threads and t.is_alive()]
            me = threading.current_thread().name
            self.write(event="ending", threads=[name[:100] for name in waits if name != me][:5])


def start() -> None:
    """Start to note."""
    notes = Notes(str(Path(os.environ["RUNNER_FAULT_LOG"]).parent / "shell.jsonl"))
    # The first registered handler is called last, after all handlers of the notebook.
    atexit.register(lambda: notes.write(event="ended"))
    with contextlib.suppress(AttributeError):
        threading._register_atexit(notes.ending)  # type: ignore[attr-defined]  # noqa: SLF001  (no public hook runs before the wait for threads)
    _watch_commands(notes)


def _watch_commands(notes: Notes) -> None:
    """Wrap the functions where IPython drops exit statuses, below those that expand variables by frame depth."""
    from ipykernel import zmqshell
    from IPython.core import interactiveshell
    from IPython.utils import _process_common

    common: Any = _process_common
    handle = common.process_handler

    def watched_by(system: Any) -> Any:
        def watched_system(command: Any) -> Any:
            code = system(command)
            notes.command(command, code)
            return code

        return watched_system

    def watched_handler(command: Any, callback: Any, *args: Any, **kwargs: Any) -> Any:
        def watched(process: Any) -> Any:
            result = callback(process)
            notes.command(command, getattr(process, "returncode", None))
            return result

        return handle(command, watched, *args, **kwargs)

    common.process_handler = watched_handler
    modules: tuple[Any, ...] = (interactiveshell, zmqshell)
    for module in modules:
        if hasattr(module, "system"):
            module.system = watched_by(module.system)


with contextlib.suppress(Exception):
    if __name__ == "runner_shell":
        start()
