# SPDX-License-Identifier: Apache-2.0
"""One lock per GPU, so that two runs on a machine do not claim the same free memory.

A run that passed the gate may allocate memory only minutes later; until then its lock reserves the
GPU. The lock is a `flock` on a file named after the GPU's UUID: the kernel releases it when the
process ends, for whatever reason, so locks are never stale. Runs that share neither the folder nor
the machine are kept apart by their scheduler.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from runner.core import log

_WAYS_TO_OPEN = (
    os.O_RDWR,
    # In a world-writable folder `fs.protected_regular` forbids O_CREAT on another user's file, so
    # try to open an existing file first, and create with O_EXCL.
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_RDWR,
    os.O_RDONLY,
)


def folder(environ: Mapping[str, str]) -> Path:
    """Return the lock folder: RUNNER_LOCK_DIR, else a folder shared by all users of this machine."""
    if chosen := environ.get("RUNNER_LOCK_DIR"):
        return Path(chosen)
    shared = Path("/run/lock")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


@dataclass(slots=True)
class Locks:
    """The locks that this run holds; close it, or use it in a ``with`` block, to release them."""

    directory: Path
    _held: dict[str, int] = field(default_factory=dict)

    @property
    def uuids(self) -> tuple[str, ...]:
        """The GPUs locked for this run."""
        return tuple(self._held)

    def take(self, uuid: str, owner: str) -> str | None:
        """Lock a GPU without waiting; return None on success, else the lock's holder.

        Raises
        ------
        OSError
            The folder cannot be used for locks.
        """
        if uuid in self._held:
            return None
        safe = "".join(c if c.isalnum() or c == "-" else "_" for c in uuid)
        handle = _open(self.directory / f"rapids-notebook-runner-{safe}.lock")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(handle)
            os.close(handle)
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                return holder
            raise
        self._held[uuid] = handle
        _sign(handle, owner)
        return None

    def close(self) -> None:
        """Release every lock. The files stay: after a removal two runs could lock different files."""
        for handle in self._held.values():
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
            # After a mere close, a child between fork and exec would still hold the lock.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)
        self._held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> int:
    """Open or create a lock file that every user may lock; never follow a symlink."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    for flags in _WAYS_TO_OPEN:
        try:
            handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except (FileNotFoundError, FileExistsError, PermissionError) as error:
            refused: OSError = error
            continue
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if flags & os.O_CREAT:
            os.fchmod(handle, 0o666)  # despite the umask: the next run may be another user's
        return handle
    raise refused


def _sign(handle: int, owner: str) -> None:
    """Write the lock's holder into the file, for messages only."""
    note = json.dumps({"pid": os.getpid(), "owner": owner[:200], "since": log.utc_now()})
    with contextlib.suppress(OSError):  # another user's file may be read-only
        os.ftruncate(handle, 0)
        os.pwrite(handle, note.encode(), 0)


def _holder(handle: int) -> str:
    try:
        note = json.loads(os.pread(handle, 4096, 0))
        return f"{str(note['owner'])[:200]!r} (pid {int(note['pid'])}, since {str(note['since'])[:30]})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another run"
