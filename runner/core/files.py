# SPDX-License-Identifier: Apache-2.0
"""Atomic writes, safe file names, and cleanup of temporary files of killed processes.

The name of a temporary file identifies the process that made it. A killed process cannot clean up, and no other may do
so while it lives. So the next run removes files of dead processes of the same boot and pid namespace; pids of others
cannot be compared.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from runner.core import procfs
from runner.core.errors import RecordError, UsageError

_OWNER = re.compile(r"(?:^|[.-])([0-9a-f]{8})-([0-9a-f]{1,8})-([0-9a-f]{1,16})[.-]\w{8}(?:\.part)?$", re.ASCII)
_LONGEST_NAME = 255


def check_name(name: str) -> str:
    """Return a notebook name after checking that it is one plain file name.

    Blanks and letters of any script are allowed; names that could leave a folder, hide, or break a log line are not.

    Raises
    ------
    UsageError
        The name is empty, too long, or contains a separator, a control or a direction character.
    """
    if not name or name.startswith((".", "-")) or name != name.strip():
        raise UsageError(
            f"{name!r} is not a valid notebook name",
            hint="a name must not be empty, start with '.' or '-', or have blanks at its ends",
        )
    bad = sorted({repr(c) for c in name if c in "/\\" or unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}})
    if bad:
        raise UsageError(
            f"{name!r} is not a valid notebook name: it contains {', '.join(bad)}",
            hint="use one plain file name, without a path and without control characters",
        )
    if len(name.encode()) > 200:
        raise UsageError(f"the name has {len(name.encode())} bytes, the limit is 200", hint="shorten it")
    return name


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` if the block succeeds.

    The content is on the disk (fsync) before the rename, so that after a crash either the old or the new file is
    there, complete.

    Raises
    ------
    RecordError
        The folder cannot be written or the disk is full; the old file is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:80]}.{mark()}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


def reading(path: Path) -> BinaryIO:
    """Open a regular file for reading; a notebook may have put a pipe there, which would block forever.

    Raises
    ------
    OSError
        It cannot be opened, or is not a regular file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read(path: Path, most_bytes: int = -1) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    OSError
        It cannot be read, is not a regular file, or is larger than ``most_bytes`` (-1: no limit).
    """
    with reading(path) as stream:
        content = stream.read(most_bytes + 1 if most_bytes >= 0 else -1)
    if 0 <= most_bytes < len(content):
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
    return content


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises
    ------
    RecordError
        It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write(path: Path, content: str | bytes) -> int:
    """Write a file atomically, see `replacing`, and return its size in bytes."""
    # A message may contain a path that is not UTF-8; escaped like this it is valid in JSON as well.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with replacing(path) as stream:
        stream.write(data)
    return len(data)


def ignores_case(folder: Path) -> bool:
    """Return True if the file system ignores letter case in a folder.

    Tested with a temporary file, since on some file systems it is a property of the folder. A folder that does not
    exist yet is like its parent.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(prefix=".Case-", dir=folder) as probe:
            return (folder / Path(probe.name).name.swapcase()).exists()
    except OSError:
        return False  # the writer reports the error


def folded(name: str) -> str:
    """Return the form in which names are equal that a case-insensitive folder treats as one."""
    return unicodedata.normalize("NFC", name).casefold()


def _umask() -> int:
    """Return the umask from `/proc`: `os.umask` can only read it by setting it, which is a race."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("Umask:")[1].split()[0], 8)
    except (OSError, IndexError, ValueError):
        return 0o022


def cannot_write(path: Path, error: OSError) -> RecordError:
    """Return the error for a file that could not be written, with a remedy."""
    return RecordError(f"cannot write {path}: {error.strerror or error}", hint=remedy(path, error.errno))


def remedy(path: Path, number: int | None) -> str:
    """Return the remedy for a file that cannot be written, by errno."""
    if number == errno.ENOSPC:
        return f"the volume is full{_free(path)}: free space on it, enlarge it, or use another folder"
    if number == errno.EDQUOT:
        return "the disk quota is used up: free space, raise the quota, or use another folder"
    if number == errno.EROFS:
        return "the volume is mounted read-only: mount it for writing, or use another folder"
    if number in {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}:
        return "something else has the name of the file, or of a folder above it: remove it, or use another folder"
    if number == errno.ENAMETOOLONG:
        return "the name is too long for the file system: use a shorter one"
    return (
        f"the folder must exist and be writable by uid {os.getuid()}; "
        "on Kubernetes set podTemplate.securityContext.fsGroup"
    )


def _free(path: Path) -> str:
    """Return the free space of the volume of a path; a volume may also run out of inodes."""
    place = next((folder for folder in path.parents if folder.is_dir()), path.parent)
    with contextlib.suppress(OSError):
        volume = os.statvfs(place)
        if volume.f_files and not volume.f_favail:
            return " (no inodes are left)"
        return f" ({volume.f_bavail * volume.f_frsize:,} of {volume.f_blocks * volume.f_frsize:,} bytes are free)"
    return ""


def mark() -> str:
    """Return the identity of this process as used in names of temporary files; append a dash or a dot."""
    return _mark(os.getpid())


@functools.lru_cache(maxsize=1)
def _mark(pid: int) -> str:
    return f"{_short(procfs.namespace())}-{pid:x}-{procfs.started(pid) or 0:x}"


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8] if name else "0" * 8


def private_folder(kind: str) -> Path:
    """Return a new folder that only this user can access, with a path short enough for sockets."""
    for parent in (os.environ.get("RUNNER_SOCKET_DIR"), tempfile.gettempdir(), "/tmp", "/dev/shm"):
        if parent and len(parent) < 60:
            with contextlib.suppress(OSError):
                remove_left_over(Path(parent), f"{kind}-*")
                return Path(tempfile.mkdtemp(prefix=f"{kind}-{mark()}-", dir=parent))
    return Path(tempfile.mkdtemp(prefix=f"{kind}-{mark()}-"))


def is_left_over(name: str) -> bool:
    """Return True if a temporary file of this name belongs to a dead process of this namespace."""
    match = _OWNER.search(name) if len(name) <= _LONGEST_NAME else None
    here = procfs.namespace()
    if match is None or not here or match[1] != _short(here):
        return False
    return procfs.started(int(match[2], 16)) != int(match[3], 16)


def remove_left_over(folder: Path, pattern: str) -> None:
    """Remove temporary files and folders of dead processes that match a pattern; errors are ignored."""
    with contextlib.suppress(OSError):
        for path in [path for path in folder.glob(pattern) if is_left_over(path.name)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()
