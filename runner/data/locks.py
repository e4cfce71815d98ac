# SPDX-License-Identifier: Apache-2.0
"""One process at a time, by a lock that dies with its holder.

`flock` rather than a file with a pid: a killed process leaves nothing to clean up, and nobody
has to guess whether a pid of another host is alive. A file system without locks (some network
mounts) is worth a warning and not a failure.
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
    """Hold a lock on ``path`` for the block, waiting for whoever has it.

    The lock is asked for again and again: a call that blocks goes on after a signal, whatever the
    signal's handler decided, and whoever has the lock may keep it for hours.

    Parameters
    ----------
    shared
        Let others in that ask for a shared lock as well.
    waiting
        Called once when somebody else has the lock.
    sleep
        Waits between two looks; whatever it raises ends the wait.
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
