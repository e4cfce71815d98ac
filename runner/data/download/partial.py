# SPDX-License-Identifier: Apache-2.0
"""A download in progress: the file, a journal of the received ranges, and the hash so far.

A thread writes the journal four times a second while data arrives. It lists only bytes already passed to the
system, so it is correct after a kill at any moment; after a crash of the machine it may list too much, and is
used only if a checksum will verify the file (syncing each second would slow the download by a third). Another
thread hashes the contiguous start of the file while the rest arrives, so that verification ends with the
download.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from runner.core import log
from runner.core.procfs import boot_id
from runner.data.locate import fingerprint

Range = tuple[int, int]
"""Half-open; lists of them are sorted and merged."""

_SAVE_EVERY_SECONDS = 0.25
_CHUNK_BYTES = 4 << 20
_SYNC_FILE_RANGE_WRITE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Version of a file according to a response: parts of two versions must not be mixed.

    A server identifies a version by its ETag, its date, or not at all. Ranges are requested without If-Range
    on purpose: its response may omit both, and they are compared here. ``source`` is the fingerprint of the
    URL in the plan, because the journal must not contain a URL's secrets. The weak prefix of an ETag is
    ignored, because proxies add it.
    """

    source: str
    total: int | None
    etag: str = ""
    modified: str = ""

    @classmethod
    def of(cls, url: str, total: int | None, headers: Mapping[str, str]) -> Version:
        """Return the version of a response with these headers."""
        etag = headers.get("ETag", "").removeprefix("W/")
        return cls(source=fingerprint(url), total=total, etag=etag, modified=headers.get("Last-Modified", ""))

    @property
    def named(self) -> bool:
        """True if the server identifies the version, so that others can be distinguished."""
        return bool(self.etag or self.modified)

    def unnamed(self) -> Version:
        """Return URL and size only, for a server with unreliable ETags and dates."""
        return replace(self, etag="", modified="")

    def difference(self, now: Version) -> str:
        """Return how a later response differs, empty if it does not.

        >>> then = Version(source="1", total=5, etag='"a"')
        >>> then.difference(Version(source="1", total=6, etag='"b"'))
        'total was 5 and is 6, etag was "a" and is "b"'
        """
        pairs = [(field.name, getattr(self, field.name), getattr(now, field.name)) for field in fields(self)]
        return ", ".join(f"{name} was {then} and is {new}" for name, then, new in pairs if then != new)


class Partial:
    """The part file with its journal. Ranges are added by one thread and read by any.

    Parameters
    ----------
    will_verify
        A checksum will verify the file, including parts from an earlier try.

    Attributes
    ----------
    version
        Version of the received bytes; those of another version are discarded.
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
        """Resume an earlier download, if its journal is valid and trustworthy."""
        try:
            document = json.loads(self._journal.read_text(encoding="utf-8"))
            size = os.fstat(self.handle).st_size
            version = Version(**document["version"])
            if self.will_verify or (version.named and document["boot"] == boot_id()):
                self._done = merged((int(start), min(int(end), size)) for start, end in document["done"])
                self.version = version
        except (OSError, ValueError, KeyError, TypeError):
            self._done = []
        if not self._done:
            self.forget()

    @property
    def resumed(self) -> bool:
        """True if there are bytes from an earlier try."""
        return bool(self._done)

    def ranges(self) -> list[Range]:
        """Return the received ranges, including active ones."""
        with self._lock:
            return merged([*self._done, *self._active.values()])

    def bytes(self) -> int:
        """Return the number of received bytes."""
        return covered(self.ranges())

    def arrived(self, stream: int, start: int, end: int) -> None:
        """Record the progress of a stream's range."""
        with self._lock:
            self._active[stream] = (start, end)

    def close_stream(self, stream: int) -> None:
        """Keep the received range of a stream."""
        with self._lock:
            if (span := self._active.pop(stream, None)) is not None:
                self._done = merged([*self._done, span])

    def forget(self) -> None:
        """Discard everything: it belongs to another file, or cannot be resumed."""
        with self._saving:
            with self._lock:
                self._done, self._active, self.version = [], {}, None
            self._saved = (None, [])
            os.ftruncate(self.handle, 0)
            self._journal.unlink(missing_ok=True)
        self._digest.restart()

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Write the journal and hash in the background during the block."""
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
        """Hash the rest of the file, and return sha256 and md5."""
        return self._digest.finish()

    def close(self) -> None:
        """Close the file; the journal remains for the next try."""
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
                document = {"version": asdict(version), "boot": boot_id(), "done": done}
                draft.write_text(json.dumps(document), encoding="utf-8")
                draft.replace(self._journal)
                self._saved = state
            except OSError as error:  # the download continues, but may not be resumable
                log.warning("fetch-journal", path=self._journal, reason=error)

    @property
    def stopping(self) -> threading.Event:
        """Set when the download has ended, successfully or not."""
        return self._stopping


def _begin_writing(handle: int, start: int, length: int) -> None:
    """Start writing a range to disk now, to shorten the final sync."""
    import ctypes

    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        offset = ctypes.c_int64
        function(ctypes.c_int(handle), offset(start), offset(length), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))


class _Digest:
    """Hashes of the part file from its start up to the frontier."""

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
        """Hash behind the download until it ends."""
        while not self._partial.stopping.is_set():
            if not self._advance(lambda: frontier(self._partial.ranges()), whole_chunks=True):
                self._partial.stopping.wait(0.02)

    def finish(self) -> tuple[str, str | None]:
        end = os.fstat(self._partial.handle).st_size
        while self._advance(lambda: end, whole_chunks=False):
            pass
        return self._sha256.hexdigest(), self._md5.hexdigest() if self._md5 else None

    def _advance(self, end: Callable[[], int], *, whole_chunks: bool) -> bool:
        """Hash one chunk before ``end``; return True if there was one.

        The end is computed under the lock, so that no data of a discarded file is used.
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


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return the ranges sorted and merged, without empty ones.

    >>> merged([(5, 7), (0, 2), (2, 4), (6, 9), (3, 3)])
    [(0, 4), (5, 9)]
    """
    result: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def gaps(ranges: Iterable[Range], total: int) -> list[Range]:
    """Return the parts of ``[0, total)`` not covered by the ranges.

    >>> gaps([(0, 4), (5, 9)], 10)
    [(4, 5), (9, 10)]
    """
    missing = []
    position = 0
    for start, end in merged(ranges):
        if start > position:
            missing.append((position, min(start, total)))
        position = max(position, end)
    if position < total:
        missing.append((position, total))
    return missing


def covered(ranges: Iterable[Range]) -> int:
    """Return the number of bytes in the ranges."""
    return sum(end - start for start, end in merged(ranges))


def frontier(ranges: Iterable[Range]) -> int:
    """Return the end of the contiguous range from 0."""
    first = next(iter(merged(ranges)), (0, 0))
    return first[1] if first[0] == 0 else 0
