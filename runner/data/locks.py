# SPDX-License-Identifier: Apache-2.0
"""File locks that are released when their holder dies.

`flock` instead of a pid file: a killed process leaves no stale lock, and no pid of another host has to be
checked. On a file system without locks (some network mounts) only a warning is logged.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.core import log

_POLL_SECONDS = 0.1
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    shared: bool = False,
    waiting: Callable[[], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold a lock on ``path`` for the block, waiting until it is free.

    The lock is polled: a blocking call would continue after a signal regardless of its handler, and the lock
    may be held for hours.

    Parameters
    ----------
    shared
        Take a shared lock.
    waiting
        Called once if the lock is taken.
    sleep
        Waits between two polls; an exception ends the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            if not _taken(handle, kind):
                if waiting:
                    waiting()
                while not _taken(handle, kind):
                    sleep(_POLL_SECONDS)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            log.warning("lock-unsupported", path=path, reason=error.strerror)
        yield
    finally:
        os.close(handle)


def _taken(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
