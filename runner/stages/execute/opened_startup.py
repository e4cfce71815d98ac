# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel: notes which files of the checkout it opens, and which hosts it looks up.

Uses an audit hook, which sees imports, pandas and `open`, but not files opened by C libraries or other programs.
Standard library only; nothing here may raise into the notebook.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

_MOST = 20_000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


class Opened:
    """Files and hosts, with those not yet written to the notes.

    Parameters
    ----------
    path
        File of the notes.
    roots
        Folders whose files are noted, each with a trailing slash.
    """

    def __init__(self, path: str, roots: tuple[str, ...]) -> None:
        self._path = path
        self._roots = roots
        self._pid = os.getpid()
        self._seen: dict[tuple[str, str], None] = {}
        self._written = 0

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an event; called for all audit events, so it returns at once for most."""
        if event not in {"open", "socket.getaddrinfo"} or len(self._seen) >= _MOST:
            return
        with contextlib.suppress(Exception):
            if event == "socket.getaddrinfo":
                host = arguments[0]
                self._seen["host", host.decode() if isinstance(host, bytes) else str(host)] = None
            elif not isinstance(arguments[0], int):
                path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100  (does not resolve symlinks)
                if path.startswith(self._roots):
                    _path, mode, flags = arguments
                    writing = any(c in mode for c in "wax+") if isinstance(mode, str) else bool(flags & _WRITING)
                    self._seen["written" if writing else "read", path] = None

    def write(self, *_: Any) -> None:
        """Append new entries, except in forked children of the kernel."""
        with contextlib.suppress(Exception):
            if os.getpid() != self._pid:
                return
            rows = [json.dumps(list(row)) + "\n" for row in list(self._seen)[self._written :]]
            self._written += len(rows)
            if rows:
                handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                try:
                    os.write(handle, "".join(rows).encode())
                finally:
                    os.close(handle)


def start(folder: str) -> None:
    """Start to note files opened below a folder, by its path and its resolved path."""
    from IPython.core.getipython import get_ipython

    opened = Opened(
        str(Path(os.environ["RUNNER_FAULT_LOG"]).parent / "opened.jsonl"),
        tuple({f"{root.rstrip('/')}/" for root in (folder, os.path.realpath(folder))}),
    )
    sys.addaudithook(opened.hook)
    shell: Any = get_ipython()
    shell.events.register("post_run_cell", opened.write)


with contextlib.suppress(Exception):
    if __name__ == "runner_opened":
        start(globals()["CHECKOUT"])
