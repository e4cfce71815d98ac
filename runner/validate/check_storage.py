# SPDX-License-Identifier: Apache-2.0
"""Checks of a folder: writable, enough space, atomic renames, speed, clock.

Everything is tested with small files, because permission bits mean little on network file systems and volumes do not
always behave as specified.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from runner.core.records import Check
from runner.core.units import format_bytes

_CHUNK = b"\0" * (1 << 20)
_MOST_BYTES = 64 << 20
_MOST_SECONDS = 1.0
_SYNCS = 5
_SLOW_BYTES_PER_SECOND = 20e6
_SLOW_SYNC_SECONDS = 0.2
_FEW_INODES = 10_000
_LITTLE_BYTES = 1_000_000_000
_CLOCK_SECONDS = 5.0


def checks(label: str, folder: Path, *, must_write: bool) -> tuple[Check, ...]:
    """Return the checks of a folder, which need not exist yet.

    Parameters
    ----------
    label
        Purpose of the folder.
    must_write
        Whether an unwritable folder is a failure, or only a warning.
    """
    try:
        missing = [part for part in (folder, *folder.parents) if not part.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        probe = Path(tempfile.mkdtemp(prefix=".validate-", dir=folder))
    except OSError as error:
        return (_not_writable(label, folder, error, must_write=must_write),)
    try:
        return (
            Check(name=f"{label} writable", status="pass", seen=f"{folder} by uid {os.getuid()}"),
            _space(label, probe),
            *_trials(label, probe),
        )
    finally:
        shutil.rmtree(probe, ignore_errors=True)
        for parent in missing:  # remove the folders created for the checks
            with contextlib.suppress(OSError):
                parent.rmdir()


def _not_writable(label: str, folder: Path, error: OSError, *, must_write: bool) -> Check:
    uid, gid = os.getuid(), os.getgid()
    owner = next((part for part in (folder, *folder.parents) if part.exists()), folder)
    try:
        status = owner.stat()
        whose = f"{owner} belongs to uid {status.st_uid}, gid {status.st_gid}, {stat.filemode(status.st_mode)}"
    except OSError:
        whose = f"{owner} cannot be accessed"
    hint = (
        f'docker: --user {uid} must own the mount, or use --user "$(id -u)"; '
        f"Kubernetes: set podTemplate.securityContext.fsGroup (e.g. {gid})"
    )
    seen = f"{folder}: {error.strerror} as uid {uid}, gid {gid}; {whose}"
    return Check(
        name=f"{label} writable", status="fail" if must_write else "warn", seen=seen, needed="to write", hint=hint
    )


def _space(label: str, folder: Path) -> Check:
    name = f"{label} space"
    figures = os.statvfs(folder)
    free = figures.f_bavail * figures.f_frsize
    inodes = figures.f_favail if figures.f_files else None  # some file systems have no fixed number
    seen = f"{format_bytes(free)} free" + ("" if inodes is None else f", {inodes} inodes")
    if inodes is not None and inodes < _FEW_INODES:
        hint = "zarr stores and caches consist of many files: delete some, or use another volume"
        return Check(name=name, status="warn", seen=seen, needed=f"{_FEW_INODES} inodes", hint=hint)
    if free < _LITTLE_BYTES:
        hint = "free some space, or use a larger volume"
        return Check(name=name, status="warn", seen=seen, needed=format_bytes(_LITTLE_BYTES), hint=hint)
    return Check(name=name, status="pass", seen=seen)


def _trials(label: str, folder: Path) -> list[Check]:
    try:
        return [_speed(label, folder), _rename(label, folder), _clock(label, folder)]
    except OSError as error:
        hint = "folders can be created but not written to: check quota and free space"
        return [Check(name=f"{label} write", status="fail", seen=f"{error.strerror or error}", hint=hint)]


def _speed(label: str, folder: Path) -> Check:
    """Measure writes for at most a second, then small synced writes as for each save of a notebook."""
    room = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    most = min(_MOST_BYTES, room // 10)
    written, started = 0, time.perf_counter()
    with (folder / "data").open("wb") as stream:
        while written < most and time.perf_counter() - started < _MOST_SECONDS:
            written += stream.write(_CHUNK)
        stream.flush()
        os.fsync(stream.fileno())
        speed = written / max(time.perf_counter() - started, 1e-9)
        began = time.perf_counter()
        for _ in range(_SYNCS):
            stream.write(b"x")
            stream.flush()
            os.fsync(stream.fileno())
        sync = (time.perf_counter() - began) / _SYNCS
    seen = f"{format_bytes(speed)}/s, fsync {sync * 1000:.1f} ms"
    if speed < _SLOW_BYTES_PER_SECOND or sync > _SLOW_SYNC_SECONDS:
        hint = "runs will save less often, and large datasets take long: use a faster storage class"
        return Check(name=f"{label} speed", status="warn", seen=seen, needed="20 MB/s, fsync 200 ms", hint=hint)
    return Check(name=f"{label} speed", status="pass", seen=seen)


def _rename(label: str, folder: Path) -> Check:
    """Replace an open file by renaming, as for every document written."""
    name, old, new = f"{label} rename", folder / "old", folder / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    with old.open("rb") as reader:
        new.replace(old)
        kept = reader.read() == b"old"
    replaced = old.read_bytes() == b"new" and not new.exists()
    if replaced and kept:
        return Check(name=name, status="pass", seen="renames replace files atomically")
    hint = "readers may see partial files: put the output folder on a POSIX file system"
    return Check(name=name, status="fail", seen="a rename does not replace a file atomically", hint=hint)


def _clock(label: str, folder: Path) -> Check:
    """Compare the clock of the file system, possibly a server's, with ours."""
    stamp = folder / "stamp"
    stamp.write_bytes(b"")
    skew = stamp.stat().st_mtime - time.time()
    seen = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} ours" if abs(skew) >= 1 else "agrees with ours"
    if abs(skew) > _CLOCK_SECONDS:
        hint = "synchronise the clocks of node and file server with NTP"
        return Check(name=f"{label} clock", status="warn", seen=seen, needed="within 5 s", hint=hint)
    return Check(name=f"{label} clock", status="pass", seen=seen)
