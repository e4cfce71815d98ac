# SPDX-License-Identifier: Apache-2.0
"""A download under way: the file, the record of what of it is there, and its hash so far.

A thread writes the record four times a second while bytes arrive. It claims only bytes that were handed to the system,
so a kill at any moment leaves it true; after a crash of the machine it may claim too much, and
is believed only where a checksum will tell (syncing each second would slow the download by a
third). Another thread hashes what is complete from the start while the rest still arrives:
verification then ends with the download and not long after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from runner.core import log
from runner.data.download.ranges import Range, covered, frontier, merged
from runner.data.download.version import Version

_SAVE_EVERY_SECONDS = 0.25
_CHUNK_BYTES = 4 << 20
_SYNC_FILE_RANGE_WRITE = 2


class Partial:
    """The part file with its journal. Ranges are added by one thread and read by any.

    Parameters
    ----------
    will_verify
        A checksum will tell whether what an earlier try left is right.

    Attributes
    ----------
    version
        What the bytes belong to; bytes of another version are thrown away.
    """

    def __init__(self, part: Path, journal: Path, *, with_md5: bool, will_verify: bool) -> None:
        self.part, self._journal, self.will_verify = part, journal, will_verify
        part.parent.mkdir(parents=True, exist_ok=True)
        self.handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self.version: Version | None = None
        self._done: list[Range] = []
        self._active: dict[int, Range] = {}
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._saved: tuple[Version | None, list[Range]] = (None, [])
        self._stopping = threading.Event()
        self._digest = _Digest(self, with_md5=with_md5)
        self._load()

    def _load(self) -> None:
        """Take up what an earlier download left, if its record can be read and what it claims be trusted."""
        try:
            document = json.loads(self._journal.read_text(encoding="utf-8"))
            size = os.fstat(self.handle).st_size
            version = Version(**document["version"])
            if self.will_verify or (version.named and document["boot"] == _boot()):
                self._done = merged((int(start), min(int(end), size)) for start, end in document["done"])
                self.version = version
        except (OSError, ValueError, KeyError, TypeError):
            self._done = []
        if not self._done:
            self.forget()

    @property
    def resumed(self) -> bool:
        """Tell whether there are bytes already."""
        return bool(self._done)

    def ranges(self) -> list[Range]:
        """Return what is there, arriving ranges included."""
        with self._lock:
            return merged([*self._done, *self._active.values()])

    def bytes(self) -> int:
        """Return how many bytes are there."""
        return covered(self.ranges())

    def arrived(self, stream: int, start: int, end: int) -> None:
        """Note how far the range of a stream has come."""
        with self._lock:
            self._active[stream] = (start, end)

    def close_stream(self, stream: int) -> None:
        """Keep what a stream brought."""
        with self._lock:
            if (span := self._active.pop(stream, None)) is not None:
                self._done = merged([*self._done, span])

    def forget(self) -> None:
        """Throw everything away: it is of another file, or cannot be continued."""
        with self._saving:
            with self._lock:
                self._done, self._active, self.version = [], {}, None
            self._saved = (None, [])
            os.ftruncate(self.handle, 0)
            self._journal.unlink(missing_ok=True)
        self._digest.restart()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Save and hash in the background while the block downloads."""
        threads = [
            threading.Thread(target=self._save_often, name="fetch-journal", daemon=True),
            threading.Thread(target=self._digest.follow, name="fetch-digest", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()

    def finish(self) -> tuple[str, str | None]:
        """Return sha256 and md5 of the whole file, hashing what is not hashed yet."""
        return self._digest.finish()

    def close(self) -> None:
        """Close the file; the record stays for the next try."""
        os.close(self.handle)

    def _save_often(self) -> None:
        while not self._stopping.wait(_SAVE_EVERY_SECONDS):
            self._save()
        self._save()

    def _save(self) -> None:
        with self._saving:
            state = (self.version, self.ranges())
            version, done = state
            if version is None or not done or state == self._saved:
                return
            try:
                draft = self._journal.with_name(self._journal.name + ".new")
                document = {"version": asdict(version), "boot": _boot(), "done": done}
                draft.write_text(json.dumps(document), encoding="utf-8")
                draft.replace(self._journal)
                self._saved = state
            except OSError as error:  # the download goes on; only its resuming suffers
                log.warning("fetch-journal", path=self._journal, reason=error)

    @property
    def stopping(self) -> threading.Event:
        """Set when the download has ended, well or not."""
        return self._stopping


def _boot() -> str:
    """Return what is another after each start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _begin_writing(handle: int, start: int, length: int) -> None:
    """Let the system write a range to the disk now, so that the sync at the end has little left."""
    import ctypes

    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        offset = ctypes.c_int64
        function(ctypes.c_int(handle), offset(start), offset(length), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))


class _Digest:
    """Hashes of the part file from its start, following the frontier."""

    def __init__(self, partial: Partial, *, with_md5: bool) -> None:
        self._partial, self._with_md5 = partial, with_md5
        self._lock = threading.Lock()
        self._buffer = memoryview(bytearray(_CHUNK_BYTES))
        self.restart()

    def restart(self) -> None:
        with self._lock:
            self._position = 0
            self._sha256 = hashlib.sha256()
            self._md5 = hashlib.md5(usedforsecurity=False) if self._with_md5 else None

    def follow(self) -> None:
        """Hash behind the download until it stops."""
        while not self._partial.stopping.is_set():
            if not self._advance(lambda: frontier(self._partial.ranges()), whole_chunks=True):
                self._partial.stopping.wait(0.02)

    def finish(self) -> tuple[str, str | None]:
        end = os.fstat(self._partial.handle).st_size
        while self._advance(lambda: end, whole_chunks=False):
            pass
        return self._sha256.hexdigest(), self._md5.hexdigest() if self._md5 else None

    def _advance(self, end: Callable[[], int], *, whole_chunks: bool) -> bool:
        """Hash one chunk before ``end``; return whether there was one.

        The end is asked for under the lock, so that none of a file that was thrown away is used.
        """
        with self._lock:
            wanted = min(end() - self._position, _CHUNK_BYTES)
            if wanted <= 0 or (whole_chunks and wanted < _CHUNK_BYTES):
                return False
            count = os.preadv(self._partial.handle, [self._buffer[:wanted]], self._position)
            self._sha256.update(self._buffer[:count])
            if self._md5:
                self._md5.update(self._buffer[:count])
            _begin_writing(self._partial.handle, self._position, count)
            self._position += count
            return count > 0
