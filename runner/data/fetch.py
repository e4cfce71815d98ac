# SPDX-License-Identifier: Apache-2.0
"""Stages the datasets of a plan: each complete, verified and under its final name, or not at all.

The transfer itself is in `runner.data.download.transfer`; this module decides whether it is necessary, checks disk
space, and verifies the result.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from runner.core import files, log
from runner.core.errors import BrokenInputError, PlanError, RecordError, RefusedError
from runner.core.units import format_bytes
from runner.data import cache as staging
from runner.data.cache import Known, Place, Staged
from runner.data.download.partial import Partial
from runner.data.download.progress_bar import Progress, Watcher, silent
from runner.data.download.request import Limits, Upstream
from runner.data.download.transfer import Transfer
from runner.data.locate import local_path, locate, shown
from runner.data.locks import locked

if TYPE_CHECKING:
    from runner.plan.model import Dataset, Plan

CONNECTIONS = 8
_BLOCK_BYTES = 4 << 20


def fetch(
    plan: Plan,
    names: Sequence[str] | None = None,
    *,
    cache: Path,
    offline: bool = False,
    connections: int = CONNECTIONS,
    watcher: Watcher | None = None,
    limits: Limits | None = None,
) -> list[Staged]:
    """Fetch missing datasets of a plan into the cache, and return all in order.

    Parameters
    ----------
    names
        Names of datasets; None means all of the plan.
    offline
        Use only the cache.

    Raises
    ------
    PlanError
        The plan has no dataset of that name.
    BrokenInputError
        A dataset does not match the plan, is unavailable, or is missing while offline.
    NetworkError
        The network failed after all retries.
    RefusedError
        Not enough disk space.
    """
    wanted = {name: _dataset(plan, name) for name in (plan.datasets if names is None else names)}
    staged = {name: staging.lookup(name, dataset, cache) for name, dataset in wanted.items()}
    missing = [name for name, item in staged.items() if item is None]
    if offline and missing:
        raise BrokenInputError(
            f"not in the cache {cache}: {', '.join(missing)}", hint="fetch without --offline, or give the right --cache"
        )
    _check_space(cache, sum(_remaining_bytes(wanted[name], cache) for name in missing), "the missing datasets")
    for name in missing:
        fetcher = _Fetcher(
            name, wanted[name], Place.of(cache, wanted[name].path), connections=connections, limits=limits or Limits()
        )
        staged[name] = fetcher.fetch(cache, watcher or silent)
    result = [item for item in staged.values() if item is not None]
    for item in result:
        if item.verified_by is None:
            log.warning("dataset-unverified", dataset=item.name, sha256=item.sha256, hint="pin it in the plan")
    return result


@contextlib.contextmanager
def _writable(place: Place) -> Iterator[None]:
    """Create the folders, and convert errors of writing to the cache."""
    try:
        place.file.parent.mkdir(parents=True, exist_ok=True)
        place.part.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise RecordError(
            f"cannot write the cache {place.file.parent}: {error.strerror or error}",
            hint=files.remedy(place.file, error.errno),
        ) from error


def _dataset(plan: Plan, name: str) -> Dataset:
    if name not in plan.datasets:
        raise PlanError(
            f"the plan {plan.name!r} has no dataset {name!r}", hint=f"it has {', '.join(plan.datasets) or 'none'}"
        )
    return plan.datasets[name]


def _remaining_bytes(dataset: Dataset, cache: Path) -> int:
    """Return the bytes still to download for a dataset, 0 if the plan has no size."""
    part = Place.of(cache, dataset.path).part
    present = part.stat().st_blocks * 512 if part.is_file() else 0
    return max(0, (dataset.bytes or 0) - present)


def _check_space(folder: Path, needed: int, what: str) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RefusedError(
            f"{what}: {format_bytes(needed)} needed, {folder} has {format_bytes(free)} free",
            hint="free space, or give a --cache on a larger disk",
        )


def _opened(source: Path) -> FileIO:
    mode = source.stat().st_mode
    if not stat.S_ISREG(mode):  # a pipe would block
        raise OSError(errno.EINVAL, "Is a directory" if stat.S_ISDIR(mode) else "Is not a regular file")
    return source.open("rb", buffering=0)


@dataclass(frozen=True, slots=True)
class _Fetcher:
    """Fetches one dataset."""

    name: str
    dataset: Dataset
    place: Place
    connections: int
    limits: Limits

    def fetch(self, cache: Path, watcher: Watcher) -> Staged:
        """Fetch the dataset, unless another process does so first."""
        place = self.place
        with _writable(place), locked(place.lock, waiting=self._log_wait):
            staged = staging.lookup(self.name, self.dataset, cache)
            if staged is not None:
                return staged
            source = local_path(self.dataset.url)
            log.info("fetch", dataset=self.name, url=shown(self.dataset.url), path=place.file)
            with watcher(self.name) as progress:
                known = self._download(progress) if source is None else self._copy(source)
            log.info("fetched", dataset=self.name, bytes=known.bytes, sha256=known.sha256)
            return staging.staged(self.name, self.dataset, place, known, fetched=True)

    def _log_wait(self) -> None:
        log.info("fetch-waits", dataset=self.name, reason="another process is fetching it", lock=self.place.lock)

    def _download(self, progress: Progress) -> Known:
        """Download, verify and publish; a resumed download that fails verification is restarted once."""
        while True:
            known, resumed, encoding = self._transferred(progress)
            wrong = staging.mismatch(self.dataset, known, self.place.part)
            if not wrong and not (encoding and self._must_not_be_encoded()):
                return staging.publish(self.place, known)
            self.place.part.unlink()
            self.place.journal.unlink(missing_ok=True)
            if not resumed:
                self._refuse(shown(self.dataset.url), wrong or "", encoding)
            log.warning("fetch-restart", dataset=self.name, reason=wrong)

    def _must_not_be_encoded(self) -> bool:
        """Return True unless a checksum or the name .gz allows it: some servers declare a stored .gz as encoded."""
        names = (self.dataset.path, urlsplit(self.dataset.url).path)
        return staging.verified_by(self.dataset) is None and not any(name.endswith((".gz", ".tgz")) for name in names)

    def _transferred(self, progress: Progress) -> tuple[Known, bool, str]:
        """Return the downloaded file, whether it was resumed, and its Content-Encoding."""
        partial = Partial(
            self.place.part,
            self.place.journal,
            with_md5=self.dataset.md5 is not None,
            will_verify=staging.verified_by(self.dataset) is not None,
        )
        resumed = partial.resumed
        if resumed:
            log.info("fetch-continues", dataset=self.name, bytes=partial.bytes())
        upstream = Upstream(
            location=locate(self.dataset.url),
            source=self.dataset.url,
            limits=self.limits,
            admit=lambda total: self._admit(total, partial.bytes(), upstream.encoding),
        )
        transfer = Transfer(upstream, partial, connections=self.connections, progress=progress)
        try:
            size = transfer.run()
            os.ftruncate(partial.handle, size)
            sha256, md5 = partial.finish()
            os.fsync(partial.handle)
        finally:
            partial.close()
        return Known.of(self.dataset.url, size, sha256, md5), resumed, upstream.encoding

    def _admit(self, total: int | None, present: int, encoding: str) -> None:
        """Refuse a file of the wrong size or too large for the disk, before the first byte."""
        if total is None:
            return
        if self.dataset.bytes is not None and total != self.dataset.bytes:
            self._refuse(shown(self.dataset.url), f"it has {total} bytes, the plan has {self.dataset.bytes}", encoding)
        if total == 0 and self.dataset.bytes != 0:
            self._refuse(shown(self.dataset.url), "it is empty (0 bytes)")
        _check_space(self.place.part.parent, total - present, f"dataset {self.name!r}")

    def _copy(self, source: Path) -> Known:
        """Copy a `file://` dataset; the copy is verified, not the original."""
        part = self.place.part
        with part.open("wb") as writing:
            for block in self._blocks(source):
                writing.write(block)
            writing.flush()
            os.fsync(writing.fileno())
        sha256, md5 = staging.hashes(part, with_md5=self.dataset.md5 is not None)
        known = Known.of(self.dataset.url, part.stat().st_size, sha256, md5)
        wrong = staging.mismatch(self.dataset, known, part)
        if wrong:
            part.unlink()
            self._refuse(str(source), wrong)
        return staging.publish(self.place, known)

    def _blocks(self, source: Path) -> Iterator[bytes]:
        """Yield the blocks of a local file; errors here concern the source, not the cache."""
        try:
            with _opened(source) as reading:
                _check_space(self.place.part.parent, os.fstat(reading.fileno()).st_size, f"dataset {self.name!r}")
                while block := reading.read(_BLOCK_BYTES):
                    yield block
        except OSError as error:
            raise BrokenInputError(
                f"dataset {self.name!r}: {source} cannot be copied: {error.strerror}",
                hint="give the path of a readable file",
            ) from error

    def _refuse(self, source: str, wrong: str, encoding: str = "") -> NoReturn:
        hint = "the file changed upstream or the plan is wrong: check both, then correct the plan"
        if encoding:
            encoded = f"the server sent it {encoding}-encoded (Content-Encoding), which was not requested"
            wrong = f"{wrong}; {encoded}" if wrong else encoded
            hint = "give the URL of a server that sends the plain file, or the checksum of the encoded one"
        elif staging.verified_by(self.dataset) is None:
            hint = "give the URL of the file itself; if this is the file, pin it with its sha256"
        raise BrokenInputError(f"dataset {self.name!r} from {source} does not match the plan: {wrong}", hint=hint)
