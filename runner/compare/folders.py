# SPDX-License-Identifier: Apache-2.0
"""Comparison of two files, or of two folders file by file, by file type."""

from __future__ import annotations

import filecmp
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.compare.images import compare_images
from runner.compare.notebooks import compare_notebooks
from runner.compare.texts import compare_svg, compare_tables, compare_texts, compare_trees
from runner.compare.verdict import EXTRA_HINT, FileComparison, Outcome, Tolerance, Verdict, verdict, worst
from runner.core.errors import UsageError, did_you_mean_path
from runner.core.records import read_metrics

_METRICS = ".metrics.json"
_OWN_FILES = (
    _METRICS,
    ".samples.csv",
    ".log",
    ".html",
    ".dask.htm",
    ".sha256",
    ".running",
    ".prepared.ipynb",
    ".fit.json",
    ".forecast.json",
)
"""Suffixes of a run's own files, which always differ. Of a record, only status and results are compared."""
_OWN_NAMES = {"attempts", "reports", "index.html", "ro-crate-metadata.json"}
_MOST_FILES = 20_000
_LARGEST_BYTES = 100_000_000
"""Largest file that is read as a whole."""
_PDF_DATES = re.compile(rb"/(?:CreationDate|ModDate)\s{0,9}\([^()]{0,100}\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The result of a comparison."""

    old: str
    new: str
    files: tuple[FileComparison, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of all files."""
        return worst(one.outcome for one in self.files)


def compare(old: Path, new: Path, tolerance: Tolerance) -> Comparison:
    """Compare two files, or two folders by the names in them.

    Raises
    ------
    UsageError
        A path does not exist, one is a file and the other a folder, or a library of the extra is missing.
    """
    for path in (old, new):
        if not path.exists():
            raise UsageError(f"{path} does not exist", hint=f"{did_you_mean_path(path)}give two files or two folders")
    kinds = [_is_store(path) or not path.is_dir() for path in (old, new)]
    if kinds[0] != kinds[1]:
        names = ["a file" if kind else "a folder" for kind in kinds]
        raise UsageError(f"{old} is {names[0]} and {new} {names[1]}", hint="give two files or two folders")
    if kinds[0]:
        pairs: Iterable[tuple[str, Path | None, Path | None]] = [(new.name, old, new)]
    else:
        ours = any(True for folder in (old, new) for _ in folder.glob(f"*{_METRICS}"))
        one, two = _listed(old, ours=ours), _listed(new, ours=ours)
        if not one and not two:
            raise UsageError(f"nothing to compare in {old} and {new}", hint="give folders with results")
        pairs = [(name, one.get(name), two.get(name)) for name in sorted({**one, **two})]
    files = tuple(FileComparison(path=name, verdicts=tuple(_pair(a, b, tolerance))) for name, a, b in pairs)
    return Comparison(old=str(old), new=str(new), files=files)


def _is_store(path: Path) -> bool:
    return any((path / name).is_file() for name in (".zgroup", "zarr.json"))


def _listed(folder: Path, *, ours: bool) -> dict[str, Path]:
    """Return the files and stores to compare by their path in a folder; links are listed but not followed."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        top = Path(place) == folder
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not (ours and top and name in _OWN_NAMES)
        )
        stores = [name for name in folders if _is_store(Path(place, name))]
        folders[:] = [name for name in folders if name not in stores]
        for name in (*sorted(names), *stores):
            own = ours and top and (name in _OWN_NAMES or name.endswith(_OWN_FILES)) and not name.endswith(_METRICS)
            if not own and not name.startswith("."):
                found[str(Path(place, name).relative_to(folder))] = Path(place, name)
        if len(found) > _MOST_FILES:
            raise UsageError(f"{folder} has more than {_MOST_FILES:,} files", hint="compare the folders in it")
    return found


def _pair(old: Path | None, new: Path | None, tolerance: Tolerance) -> Iterator[Verdict]:
    if old is None or new is None:
        yield verdict("", Outcome.DIFFERENT, f"only in the {'new' if old is None else 'old'} folder")
        return
    try:
        if any(not path.is_file() and not path.is_dir() for path in (old, new)):
            yield verdict("", Outcome.UNKNOWN, "not a regular file")
        elif old.is_file() and new.is_file() and filecmp.cmp(old, new, shallow=False):
            yield verdict("", Outcome.EQUAL, "identical bytes")
        else:
            yield from _by_kind(old, new, tolerance)
    except ModuleNotFoundError as error:
        raise UsageError(f"comparing {new.name} needs {error.name}, which is not installed", hint=EXTRA_HINT) from error
    except (OSError, ValueError, EOFError, RecursionError) as error:
        yield verdict("", Outcome.UNKNOWN, f"cannot be read: {error}")


def _by_kind(old: Path, new: Path, tolerance: Tolerance) -> Iterable[Verdict]:
    name = new.name.lower()
    if new.is_dir() or old.is_dir() or name.endswith((".h5ad", ".h5", ".hdf5", ".h5mu", ".loom")):
        from runner.compare.stores import compare_stores

        return compare_stores(old, new, tolerance)
    if name.endswith(".ipynb"):
        return compare_notebooks(old, new, tolerance)
    if name.endswith(_METRICS):
        return _records(old, new, tolerance)
    if name.endswith((".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz")):
        return [compare_tables("", old, new, tolerance)]
    for endings, read, compare_contents in _READERS:
        if name.endswith(endings):
            one, two = (read(_limited(path)) for path in (old, new))
            return [compare_contents("", one, two, tolerance)]
    sizes = [path.stat().st_size for path in (old, new)]
    detail = f"{sizes[0]:,} → {sizes[1]:,} bytes; {new.suffix or 'a file without suffix'} is compared as bytes"
    return [verdict("", Outcome.DIFFERENT, detail)]


def _records(old: Path, new: Path, tolerance: Tolerance) -> Iterator[Verdict]:
    """Compare status, recorded results and products of two runs of a notebook."""
    one, two = (read_metrics(path.read_bytes()) for path in (old, new))
    if one.status is two.status:
        yield verdict("status", Outcome.EQUAL, one.status)
    else:
        yield verdict("status", Outcome.DIFFERENT, f"{one.status} → {two.status}")
    for name in dict.fromkeys((*one.recorded, *two.recorded)):
        values = [{name: record.recorded[name]} if name in record.recorded else {} for record in (one, two)]
        yield compare_trees(f"recorded {name}", values[0], values[1], tolerance)
    sums = [record.outputs.product_sha256 for record in (one, two)]
    for name in dict.fromkeys((*sums[0], *sums[1])):
        if sums[0].get(name) == sums[1].get(name):
            yield verdict(f"product {name}", Outcome.EQUAL, "identical bytes")
        elif all(name in one for one in sums):
            detail = "checksums differ; compare the files themselves, which are not part of the record"
            yield verdict(f"product {name}", Outcome.UNKNOWN, detail)
        else:
            side = "old" if name in sums[0] else "new"
            yield verdict(f"product {name}", Outcome.DIFFERENT, f"only in the {side} record")


def _same_document(part: str, old: bytes, new: bytes, _tolerance: Tolerance) -> Verdict:
    if old == new:
        return verdict(part, Outcome.TOLERATED, "except for dates")
    return verdict(part, Outcome.DIFFERENT, f"{len(old):,} → {len(new):,} bytes")


def _text(content: bytes) -> str:
    return content.decode(errors="backslashreplace")


_READERS: tuple[tuple[tuple[str, ...], Callable[[bytes], Any], Callable[..., Verdict]], ...] = (
    ((".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff"), bytes, compare_images),
    ((".txt", ".md", ".log", ".yaml", ".yml", ".html"), _text, compare_texts),
    ((".svg",), _text, compare_svg),
    ((".json",), json.loads, compare_trees),
    ((".pdf",), lambda content: _PDF_DATES.sub(b"", content), _same_document),
)
"""Suffixes, reader and comparison of a file type."""


def _limited(path: Path) -> bytes:
    with path.open("rb") as stream:
        content = stream.read(_LARGEST_BYTES + 1)
    if len(content) > _LARGEST_BYTES:
        raise ValueError(f"it has more than {_LARGEST_BYTES // 10**6} MB")
    return content


def as_tree(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON-like data."""
    return {
        "old": found.old,
        "new": found.new,
        "outcome": found.outcome.value,
        "files": [
            {"path": file.path, "outcome": file.outcome.value, "verdicts": [_tree(one) for one in file.verdicts]}
            for file in found.files
        ],
    }


def _tree(one: Verdict) -> dict[str, Any]:
    crossing = one.crossing
    shown = {"old": crossing.old, "new": crossing.new, "counts": crossing.counts} if crossing else None
    return {
        "part": one.part,
        "outcome": one.outcome.value,
        "detail": one.detail,
        "scores": dict(one.scores),
        "crossing": shown,
    }
