# SPDX-License-Identifier: Apache-2.0
"""A file is written whole: its content is on the disk before it takes the place of the old one."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from runner.core import files
from runner.core.errors import RecordError


def test_the_content_is_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash of the machine a name without fsync may lead to an empty file: it is synced whole, and before."""
    path = tmp_path / "n.metrics.json"
    path.write_text("old")
    synced: list[tuple[int, int, str]] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def sync(handle: int) -> None:
            real(handle)
            status = os.fstat(handle)
            synced.append((status.st_ino, status.st_size, path.read_text()))

        monkeypatch.setattr(os, name, sync)

    watch("fsync")
    watch("fdatasync")
    content = "new" * 100_000
    files.write(path, content)

    assert path.read_text() == content
    assert (path.stat().st_ino, len(content), "old") in synced


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_fault_on_the_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Storage that fails at the last moment: the error has the reason, and no partial file remains."""
    path = tmp_path / "n.metrics.json"
    path.write_text("old")

    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, name, refuse)
    with pytest.raises(RecordError, match="No space left") as caught:
        files.write(path, "new")
    assert "the volume is full" in caught.value.hint
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_volume_without_room_says_how_much_there_is(tmp_path: Path) -> None:
    """A real full file system: no byte left, and the hint is not about permissions."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a small file system needs root: {done.stderr.strip()}")
    try:
        with pytest.raises(RecordError, match="No space left") as caught:
            files.write(tmp_path / "new" / "file", bytes(100_000))
        assert "of 65,536 bytes are free" in caught.value.hint
        assert "fsGroup" not in caught.value.hint
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_read(tmp_path: Path, make) -> None:
    """A pipe would block, a device would be read forever."""
    make(tmp_path / "x")
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        files.read(tmp_path / "x")


def test_more_than_what_is_asked_for_is_refused(tmp_path: Path) -> None:
    """A file of exactly the limit is read, one byte more is not."""
    (tmp_path / "x").write_bytes(b"12345")
    assert files.read(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        files.read(tmp_path / "x", 4)
