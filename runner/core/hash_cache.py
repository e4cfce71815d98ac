# SPDX-License-Identifier: Apache-2.0
"""Cached SHA-256 of files and folders, so that gigabytes are read only once.

A file counts as unchanged while its inode, size, mtime and ctime are the same. A write within the granularity of the
file system's clock after hashing would leave all of them unchanged. So a file that changed less than
`SETTLED_SECONDS` before it was hashed, by whatever clock, is not cached.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from runner.core import files
from runner.core.errors import RecordError

SETTLED_SECONDS = 2.0
_VERSION = 1
_MOST = 200_000
"""Entries kept; other files are hashed again."""
_THREADS = 8


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file, without the cache.

    Raises
    ------
    OSError
        It cannot be read, or is not a regular file.
    """
    with files.reading(path) as stream:
        return hashlib.file_digest(cast("io.BufferedReader", stream), "sha256").hexdigest()


class HashCache:
    """Hashes of files, stored in a file.

    Parameters
    ----------
    path
        The cache. If it is missing, damaged or of another version, the cache is empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._new: dict[str, str] = {}

    def digest(self, path: Path) -> str:
        """Return the hash of a file, or of the names and contents of all files in a folder.

        Raises
        ------
        OSError
            Something cannot be read, or is neither a file nor a folder.
        """
        if not path.is_dir():
            return self._file(path)
        inside = sorted(each for each in path.rglob("*") if not each.is_dir())
        with ThreadPoolExecutor(_THREADS) as threads:
            hashes = list(threads.map(self._file, inside))
        whole = hashlib.sha256()
        for file, found in zip(inside, hashes, strict=True):
            whole.update(os.fsencode(file.relative_to(path)) + b"\0" + found.encode())
        return whole.hexdigest()

    def save(self) -> None:
        """Write the cache; if two processes do so at once the later one wins, at the cost of a hash."""
        if not self._new:
            return
        kept = {**_read(self._path), **self._new}
        hashes = dict(list(kept.items())[-_MOST:])
        try:
            files.write(self._path, json.dumps({"version": _VERSION, "sha256": hashes}))
        except RecordError:
            return  # the cache only saves time; a full disk is reported by other writers
        self._known, self._new = hashes, {}

    def _file(self, path: Path) -> str:
        with files.reading(path) as stream:
            status = os.fstat(stream.fileno())
            entry = _entry(status)
            found = self._known.get(entry) or self._new.get(entry)
            if found is None:
                found = hashlib.file_digest(cast("io.BufferedReader", stream), "sha256").hexdigest()
                changed = max(status.st_mtime, status.st_ctime)
                if _entry(os.fstat(stream.fileno())) == entry and time.time() - changed >= SETTLED_SECONDS:
                    self._new[entry] = found
            return found


def _entry(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def _read(path: Path) -> dict[str, str]:
    try:
        document = json.loads(files.read(path))
        hashes = document["sha256"] if document["version"] == _VERSION else {}
        return {str(entry): str(found) for entry, found in hashes.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
