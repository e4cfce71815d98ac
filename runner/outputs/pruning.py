# SPDX-License-Identifier: Apache-2.0
"""Removes earlier attempts and report pages.

Everything that a report or a resumed run needs is kept: the newest page, each notebook's newest success, and all
attempts of a running notebook. Folders are opened one by one without following links, so that nothing outside the
output folder can be removed, whatever a notebook puts into it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.core import files
from runner.core.errors import RecordError, UsageError
from runner.core.records import Metrics, Status, read_metrics
from runner.outputs import attempts, claim, sums

METRICS, EXECUTED = ".metrics.json", ".executed.ipynb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """An attempt or a page that can be removed."""

    path: Path
    """Relative to the output folder."""
    bytes: int
    """Space that its removal frees; hard links shared with another run do not count."""


def find(
    folder: Path,
    *,
    keep: int,
    older_than_seconds: float = 0.0,
    watch: Callable[[Sequence[Path]], Mapping[Path, bool]] = claim.alive,
) -> list[Old]:
    """Return the attempts and pages that can be removed.

    Parameters
    ----------
    keep
        How many of the newest attempts of each notebook, and of the newest pages, to keep.
    older_than_seconds
        Minimum age of the others.
    watch
        Returns which claims belong to live runs.

    Raises
    ------
    UsageError
        It is not an output folder.
    """
    if not any(folder.glob(f"*{METRICS}")) and not (folder / "attempts").is_dir():
        raise UsageError(f"{folder} contains no runs", hint="give the --output-dir of the runs")
    before = time.time() - older_than_seconds
    claims = list(folder.glob("*.running"))
    running = {path.name.removesuffix(".running") for path, lives in watch(claims).items() if lives}
    found: list[Path] = []
    for name in _names(folder / "attempts"):
        if name not in running:
            success = _newest_success(folder, name)
            old = [path for path in reversed(attempts.folders(folder, name)) if not path.is_symlink()][keep:]
            found += [path for path in reversed(old) if success is not None and path not in success]
    if not (folder / sums.REPORT.parent).is_symlink():
        found += sorted((folder / sums.REPORT.parent).glob(sums.PAGES))[: -max(1, keep)]
    return [Old(path=path.relative_to(folder), bytes=_freed(path)) for path in found if _written(path) < before]


def remove(folder: Path, old: Sequence[Old]) -> None:
    """Remove the attempts and pages returned by `find`.

    Raises
    ------
    RecordError
        Something cannot be removed.
    """
    for one in old:
        try:
            with _opened(folder, one.path.parent) as parent:
                if one.path.parts[0] == "attempts":
                    shutil.rmtree(one.path.name, dir_fd=parent)
                else:
                    os.unlink(one.path.name, dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = f"cannot remove {folder / one.path}: {error.strerror or error}"
            raise RecordError(reason, hint=files.remedy(folder / one.path, error.errno)) from error
    for name in {one.path.parts[1] for one in old if one.path.parts[0] == "attempts"}:
        with contextlib.suppress(OSError), _opened(folder, Path("attempts")) as parent:
            os.rmdir(name, dir_fd=parent)  # if nothing is left in it
    sums.forget(folder / sums.REPORT, [one.path.name for one in old if one.path.parent == sums.REPORT.parent])


@contextlib.contextmanager
def _opened(folder: Path, below: Path) -> Iterator[int]:
    """Open a folder below the output folder; no part of its path may be a link."""
    handles = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for part in below.parts:
            handles.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handles[-1]))
        yield handles[-1]
    finally:
        for handle in handles:
            os.close(handle)


def _names(folder: Path) -> list[str]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _newest_success(folder: Path, name: str) -> tuple[Path, ...] | None:
    """Return the folder of a notebook's newest success; empty if it never succeeded.

    None if its files are incomplete, as after a kill while they were moved: then nothing may be removed.
    """
    for place in (folder, *reversed(attempts.folders(folder, name))):
        try:
            record: Metrics = read_metrics(files.read(place / f"{name}{METRICS}"))
        except (OSError, ValueError, RecursionError):
            continue
        if record.status is Status.SUCCEEDED and not record.provisional:
            return (place,) if (place / f"{name}{EXECUTED}").is_file() else None
    return ()


def _written(path: Path) -> float:
    """Return the time of the newest file of an attempt, or of a page."""
    inside = [each.lstat().st_mtime for each in path.iterdir()] if path.is_dir() else []
    return max(inside, default=path.lstat().st_mtime)


def _freed(path: Path) -> int:
    found = [each.lstat() for each in (path.rglob("*") if path.is_dir() else (path,))]
    return sum(status.st_size for status in found if status.st_nlink == 1)
