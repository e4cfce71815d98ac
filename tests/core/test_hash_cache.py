# SPDX-License-Identifier: Apache-2.0
"""Cached hashes are those of the files, for any kind of change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from runner.core import hash_cache
from runner.core.hash_cache import HashCache


def old(path: Path, content: bytes) -> Path:
    """Write a file and let its times lie an hour back, as far as a process can: ctime is now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let an hour pass after files were written, and count the hashed files."""
    hashed: list[int] = []
    file_digest = hashlib.file_digest

    def counted(stream: object, name: str) -> object:
        hashed.append(1)
        return file_digest(stream, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hash_cache.hashlib, "file_digest", counted)
    real = time.time
    monkeypatch.setattr(hash_cache.time, "time", lambda: real() + 3600)
    return hashed


def test_a_file_is_read_once_and_again_after_each_change(tmp_path: Path, settled: list[int]) -> None:
    path = old(tmp_path / "x.h5ad", b"one")
    first = HashCache(tmp_path / "cache")
    assert first.digest(path) == hashlib.sha256(b"one").hexdigest()
    first.save()

    assert HashCache(tmp_path / "cache").digest(path) == hashlib.sha256(b"one").hexdigest()
    assert len(settled) == 1

    path.write_bytes(b"two")
    assert HashCache(tmp_path / "cache").digest(path) == hashlib.sha256(b"two").hexdigest()
    assert len(settled) == 2


def test_a_file_with_the_size_and_time_of_before_is_seen_as_changed(tmp_path: Path, settled: list[int]) -> None:
    """Whoever sets the time back cannot set back when he did so."""
    path = old(tmp_path / "x.h5ad", b"one")
    status = path.stat()
    cache = HashCache(tmp_path / "cache")
    cache.digest(path)
    time.sleep(0.02)  # longer than a tick of the file system's clock
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert cache.digest(path) == hashlib.sha256(b"two").hexdigest()


def test_nothing_is_remembered_of_a_file_that_has_just_changed_or_will_change(tmp_path: Path) -> None:
    """A second write within one tick of the clock would look the same, and a clock may have been set back."""
    path = old(tmp_path / "x.h5ad", b"one")
    cache = HashCache(tmp_path / "cache")
    cache.digest(path)
    os.utime(path, (time.time() + 3600, time.time() + 3600))
    cache.digest(path)
    cache.save()

    assert not (tmp_path / "cache").exists()


def test_a_file_that_moves_keeps_its_hash(tmp_path: Path, settled: list[int]) -> None:
    """A checkout in another folder costs nothing."""
    old(tmp_path / "here" / "x.h5ad", b"one")
    cache = HashCache(tmp_path / "cache")
    cache.digest(tmp_path / "here" / "x.h5ad")
    (tmp_path / "here").rename(tmp_path / "there")

    assert cache.digest(tmp_path / "there" / "x.h5ad") == hashlib.sha256(b"one").hexdigest()
    assert len(settled) == 1


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    """A store of zarr: a chunk that changes, moves or comes is another content; its place is not."""
    for name in ("a", "b"):
        old(tmp_path / name / "0.0", b"chunk")
        old(tmp_path / name / "deep" / "0.1", b"other")
    cache = HashCache(tmp_path / "cache")
    same = cache.digest(tmp_path / "a")
    assert cache.digest(tmp_path / "b") == same

    for change in ("deep/0.1", "deep/0.2"):
        old(tmp_path / "b" / change, b"changed")
        assert cache.digest(tmp_path / "b") != same
    (tmp_path / "a" / "0.0").rename(tmp_path / "a" / "0.9")
    assert cache.digest(tmp_path / "a") != same


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 9, "sha256": {"a": "b"}}', '{"version": 1, "sha256": 4}'])
def test_a_damaged_cache_holds_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "cache").write_text(text)
    path = old(tmp_path / "x", b"one")

    assert HashCache(tmp_path / "cache").digest(path) == hashlib.sha256(b"one").hexdigest()


def test_two_that_save_at_once_keep_what_both_know(tmp_path: Path, settled: list[int]) -> None:
    one, two = HashCache(tmp_path / "cache"), HashCache(tmp_path / "cache")
    one.digest(old(tmp_path / "x", b"x"))
    two.digest(old(tmp_path / "y", b"y"))
    one.save()
    two.save()

    assert len(json.loads((tmp_path / "cache").read_text())["sha256"]) == 2


def test_what_is_no_file_is_an_error_and_no_wait(tmp_path: Path) -> None:
    """A pipe in place of a product would block."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError):
        HashCache(tmp_path / "cache").digest(tmp_path / "pipe")
    with pytest.raises(OSError):
        HashCache(tmp_path / "cache").digest(tmp_path / "missing")
