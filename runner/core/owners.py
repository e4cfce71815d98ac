# SPDX-License-Identifier: Apache-2.0
"""Whose temporary files these are: their names carry the process that made them.

A killed process cannot clean up, and nobody else may do so while it lives. So the next run removes
what a dead process of this very boot and pid namespace left; elsewhere pids mean nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from runner.core import procfs

_OWNER = re.compile(r"(?:^|[.-])([0-9a-f]{8})-([0-9a-f]{1,8})-([0-9a-f]{1,16})[.-]\w{8}(?:\.part)?$", re.ASCII)
_LONGEST_NAME = 255


def namespace() -> str:
    """Return boot and pid namespace, within which pids can be compared; empty where they are not known."""
    try:
        return f"{procfs.boot_id()}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def started(pid: int) -> int | None:
    """Return the start time of a live process in clock ticks; a zombie is not alive."""
    stat = procfs.read_stat(pid)
    return stat.started if stat and not stat.dead else None


def mark() -> str:
    """Return what the name of a temporary file says of this process, with a dash or a dot to follow."""
    return _mark(os.getpid())


@functools.lru_cache(maxsize=1)
def _mark(pid: int) -> str:
    return f"{_short(namespace())}-{pid:x}-{started(pid) or 0:x}"


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8] if name else "0" * 8


def private_folder(kind: str) -> Path:
    """Return a new folder for this user alone whose path is short enough for sockets."""
    for parent in (os.environ.get("RUNNER_SOCKET_DIR"), tempfile.gettempdir(), "/tmp", "/dev/shm"):
        if parent and len(parent) < 60:
            with contextlib.suppress(OSError):
                remove_left_over(Path(parent), f"{kind}-*")
                return Path(tempfile.mkdtemp(prefix=f"{kind}-{mark()}-", dir=parent))
    return Path(tempfile.mkdtemp(prefix=f"{kind}-{mark()}-"))


def is_left_over(name: str) -> bool:
    """Return True if a file of this name was made by a process of this namespace that has ended."""
    match = _OWNER.search(name) if len(name) <= _LONGEST_NAME else None
    here = namespace()
    if match is None or not here or match[1] != _short(here):
        return False
    return started(int(match[2], 16)) != int(match[3], 16)


def remove_left_over(folder: Path, pattern: str) -> None:
    """Remove the temporary files and folders of dead processes that match a pattern; none is worth an error."""
    with contextlib.suppress(OSError):
        for path in [path for path in folder.glob(pattern) if is_left_over(path.name)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()
