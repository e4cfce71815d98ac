# SPDX-License-Identifier: Apache-2.0
"""The cache of staged datasets, with a record for each file.

    CACHE/PATH                     the file, complete and verified
    CACHE/.staged/PATH.json        its size, time and hashes when it was verified
    CACHE/.staged/PATH.part        a download in progress, with .journal and .lock beside it
    CACHE/.staged/PATH.next        the record of a part that is about to replace the file

A file is hashed once; later, its size and time show whether it has changed. File and record cannot be
replaced in one step, so the record that matches the file is used: a kill in between leaves the old file
with its record or the new one with its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runner.core import files
from runner.core.errors import BrokenInputError
from runner.core.units import format_bytes
from runner.data.content import not_data
from runner.data.locate import fingerprint, shown

if TYPE_CHECKING:
    from runner.plan.model import Dataset

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A verified dataset in the cache.

    ``verified_by`` is the plan's checksum that was compared, or None if the plan has none.
    """

    name: str
    url: str
    path: Path
    bytes: int
    sha256: str
    verified_by: str | None
    fetched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Record of a staged file; its URL is without secrets."""

    url: str
    url_sha256: str
    bytes: int
    modified_ns: int
    sha256: str
    md5: str | None = None

    @classmethod
    def of(cls, url: str, size: int, sha256: str, md5: str | None, *, modified_ns: int = 0) -> Known:
        """Return the record of a file from ``url``."""
        return cls(
            url=shown(url),
            url_sha256=fingerprint(url),
            bytes=size,
            modified_ns=modified_ns,
            sha256=sha256,
            md5=md5,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Paths of one dataset in the cache."""

    file: Path
    record: Path
    next_record: Path
    part: Path
    journal: Path
    lock: Path

    @classmethod
    def of(cls, cache: Path, path: str) -> Place:
        """Return the paths for a dataset's path in the plan."""
        beside = cache / ".staged" / path
        ends = (".json", ".next", ".part", ".journal", ".lock")
        return cls(cache / path, *(beside.with_name(beside.name + end) for end in ends))


def lookup(name: str, dataset: Dataset, cache: Path) -> Staged | None:
    """Return the dataset if it is staged; None if it is not, or the plan now specifies another file.

    Raises
    ------
    BrokenInputError
        The file changed since it was verified, or never matched the plan.
    """
    place = Place.of(cache, dataset.path)
    if not place.file.is_file():
        return None
    known = _known(place)
    if known is not None and verified_by(dataset) == "md5" and known.md5 is None:
        known = None  # hashed before the plan had this checksum
    if known is not None and not _same_file(known, place.file):
        known = _verified_again(name, place, known)
    if known is None:
        known = _measured(dataset, place)
        wrong = mismatch(dataset, known, place.file)
        if wrong:
            raise BrokenInputError(
                f"dataset {name!r}: {place.file} does not match the plan: {wrong}",
                hint="delete that file and fetch it",
            )
        remember(place, known)
    elif mismatch(dataset, known, place.file) or (
        verified_by(dataset) is None and known.url_sha256 != fingerprint(dataset.url)
    ):
        return None
    return staged(name, dataset, place, known)


def staged(name: str, dataset: Dataset, place: Place, known: Known, *, fetched: bool = False) -> Staged:
    """Return the record of a staged dataset."""
    return Staged(
        name=name,
        url=dataset.url,
        path=place.file,
        bytes=known.bytes,
        sha256=known.sha256,
        verified_by=verified_by(dataset),
        fetched=fetched,
    )


def verified_by(dataset: Dataset) -> str | None:
    """Return the kind of the plan's checksum."""
    return "sha256" if dataset.sha256 else "md5" if dataset.md5 else None


def mismatch(dataset: Dataset, known: Known, path: Path) -> str | None:
    """Return how a file differs from the plan, or None; without a checksum its first bytes are checked."""
    wrong = None
    if dataset.bytes is not None and dataset.bytes != known.bytes:
        wrong = f"it has {known.bytes} bytes, the plan has {dataset.bytes}"
    elif dataset.sha256 and dataset.sha256.lower() != known.sha256:
        wrong = f"its sha256 is {known.sha256}, the plan has {dataset.sha256.lower()}"
    elif dataset.md5 and known.md5 is not None and dataset.md5.lower() != known.md5:
        wrong = f"its md5 is {known.md5}, the plan has {dataset.md5.lower()}"
    elif verified_by(dataset) is not None:
        return None
    content = not_data(path, dataset.path, urlsplit(dataset.url).path)
    return "; ".join(filter(None, [wrong, f"it is {content}" if content else None])) or None


def remember(place: Place, known: Known) -> None:
    """Write the record of a file."""
    files.write(place.record, _text(known))


def _text(known: Known) -> str:
    return json.dumps(asdict(known), indent=1) + "\n"


def publish(place: Place, known: Known) -> Known:
    """Rename a verified part to its final name, together with its record.

    After a kill at any step, one of the two records describes the file.
    """
    known = replace(known, modified_ns=place.part.stat().st_mtime_ns)
    _settle(place)
    files.write(place.next_record, _text(known))
    place.part.replace(place.file)
    _sync_folder(place.file.parent)
    place.next_record.replace(place.record)
    place.journal.unlink(missing_ok=True)
    return known


def _settle(place: Place) -> None:
    """Complete an interrupted `publish`, before the next one overwrites its record."""
    following = _read(place.next_record)
    if following is not None and place.file.is_file() and _same_file(following, place.file):
        place.next_record.replace(place.record)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable before the next step depends on it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _known(place: Place) -> Known | None:
    """Return the record that matches the file, else the latest one."""
    while True:
        records = _records(place)
        for known in records:
            if _same_file(known, place.file):
                return known
        if records == _records(place):  # else another process is publishing
            return records[0] if records else None


def _records(place: Place) -> list[Known]:
    return [known for path in (place.record, place.next_record) if (known := _read(path)) is not None]


def _read(record: Path) -> Known | None:
    try:
        document = json.loads(record.read_text(encoding="utf-8"))
        return Known(**document)
    except (OSError, ValueError, TypeError):
        return None  # missing or invalid: the file is hashed again


def _same_file(known: Known, path: Path) -> bool:
    status = path.stat()
    return (known.bytes, known.modified_ns) == (status.st_size, status.st_mtime_ns)


def _verified_again(name: str, place: Place, known: Known) -> Known:
    """Hash a file whose size or time changed: it may only have been copied or touched."""
    size = place.file.stat().st_size
    if size != known.bytes:
        raise _changed(name, place.file, f"{format_bytes(known.bytes)} then, {format_bytes(size)} now")
    sha256, md5 = hashes(place.file, with_md5=known.md5 is not None)
    if sha256 != known.sha256:
        raise _changed(name, place.file, f"sha256 {known.sha256[:12]}… then, {sha256[:12]}… now")
    again = replace(known, bytes=size, modified_ns=place.file.stat().st_mtime_ns, sha256=sha256, md5=md5)
    remember(place, again)
    return again


def _changed(name: str, path: Path, how: str) -> BrokenInputError:
    return BrokenInputError(
        f"dataset {name!r}: {path} changed since it was verified: {how}",
        hint="delete that file and fetch it again; nothing else may write to the cache",
    )


def _measured(dataset: Dataset, place: Place) -> Known:
    status = place.file.stat()
    sha256, md5 = hashes(place.file, with_md5=dataset.md5 is not None)
    return Known.of(dataset.url, status.st_size, sha256, md5, modified_ns=status.st_mtime_ns)


def hashes(path: Path, *, with_md5: bool) -> tuple[str, str | None]:
    """Return the sha256 and optionally md5 of a file."""
    sha256 = hashlib.sha256()
    md5 = hashlib.md5(usedforsecurity=False) if with_md5 else None
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := stream.readinto(buffer):
            sha256.update(view[:count])
            if md5:
                md5.update(view[:count])
    return sha256.hexdigest(), md5.hexdigest() if md5 else None
