# SPDX-License-Identifier: Apache-2.0
"""One lock per GPU, so that two runs on a machine do not judge the same free memory free.

A run that has passed the gate may allocate minutes later; until then only its lock tells the
next one. The lock is a `flock` on a file named by the GPU's UUID: the kernel drops it with the
process, however that ends, so nothing is ever stale. Runs that share neither the folder nor the
machine are kept apart by their scheduler.
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
    # Where others may write, `fs.protected_regular` forbids O_CREAT on the file of another user,
    # so the file that is there is tried first and creating insists on a new one.
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_RDWR,
    os.O_RDONLY,
)


def folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of the locks: RUNNER_LOCK_DIR, else one that all users here share."""
    if chosen := environ.get("RUNNER_LOCK_DIR"):
        return Path(chosen)
    shared = Path("/run/lock")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


@dataclass(slots=True)
class Locks:
    """The locks that this run holds; close it, or use it in a ``with`` block, to free them."""

    directory: Path
    _held: dict[str, int] = field(default_factory=dict)

    @property
    def uuids(self) -> tuple[str, ...]:
        """The GPUs that are locked for this run."""
        return tuple(self._held)

    def take(self, uuid: str, owner: str) -> str | None:
        """Lock a GPU without waiting and return None, or who holds it.

        Raises
        ------
        OSError
            The folder cannot be used for locks.
        """
        if uuid in self._held:
            return None
        handle = _open(self._path(uuid))
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
        """Free every lock; the files stay, because removing one could split its next owners."""
        for handle in self._held.values():
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
            # Closing alone would leave it to a child that is between fork and exec just now.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)
        self._held.clear()

    def _path(self, uuid: str) -> Path:
        safe = "".join(c if c.isalnum() or c == "-" else "_" for c in uuid)
        return self.directory / f"rapids-notebook-runner-{safe}.lock"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path) -> int:
    """Open or create a lock file that every user may lock; never through a link."""
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
            os.fchmod(handle, 0o666)  # whatever the umask: the next run may be another user's
        return handle
    raise refused


def _sign(handle: int, owner: str) -> None:
    """Write who holds the lock; a note for messages, never a fact to decide on."""
    note = json.dumps({"pid": os.getpid(), "owner": owner[:200], "since": log.utc_now()})
    with contextlib.suppress(OSError):  # the file of another user may be readable only
        os.ftruncate(handle, 0)
        os.pwrite(handle, note.encode(), 0)


def _holder(handle: int) -> str:
    try:
        note = json.loads(os.pread(handle, 4096, 0))
        return f"{str(note['owner'])[:200]!r} (pid {int(note['pid'])}, since {str(note['since'])[:30]})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another run"
