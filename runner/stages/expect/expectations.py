# SPDX-License-Identifier: Apache-2.0
"""Whether a notebook that ran to its end left what the plan says it leaves.

All cells may run and the result still be missing: a guard that skips the work, a file of
yesterday, a figure that is no longer drawn. Each expectation becomes a record with what was
seen and what was needed; whether one that is not met fails the run is its severity.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.errors import BrokenInputError
from runner.core.records import Expectation
from runner.core.units import format_bytes
from runner.stages.expect import anndata_shape

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.plan.model import Expect

_WIDGET = "application/vnd.jupyter.widget-view+json"
_WALKED_FILES = 20_000
"""Files of a folder (a zarr has one a chunk) that are looked at."""

Before = Mapping[Path, str]
"""Expected files that were there before a run, and how each looked."""


def check(
    expect: Expect,
    *,
    checkout: Path,
    before: Before,
    figures: int,
    executed_nb: NotebookNode,
    source_nb: NotebookNode,
    standing: Collection[str] = (),
) -> tuple[Expectation, ...]:
    """Compare what the plan expects with what is there.

    Parameters
    ----------
    before
        What `before` found when the run started; a file that is still the same is not its work.
    figures
        Images that the executed notebook shows.
    source_nb
        The notebook with its saved outputs, against which drift is judged.
    standing
        Products of an earlier run, relative to the checkout, that this one was right to take as they were.
    """
    found = [_file(checkout, path, before, standing) for path in expect.files]
    if expect.min_figures is not None:
        met = figures >= expect.min_figures
        needed = f"at least {expect.min_figures}"
        found.append(Expectation(kind="figures", target="notebook", met=met, seen=str(figures), needed=needed))
    if expect.drift != "off":
        found += _drift(source_nb, executed_nb, is_error=expect.drift == "error")
    return tuple(found)


def before(expect: Expect, checkout: Path) -> Before:
    """Return what of the expected files is there before a run, and how it looks.

    A clock may step and a download keeps its origin's date, so what a run wrote shows by change only.
    """
    found = {}
    for path in expect.files:
        for item in _matches(checkout, path):
            with contextlib.suppress(OSError):  # one that cannot be read counts as not there
                found[item] = _look(item)
    return found


def _file(checkout: Path, path: str, before: Before, standing: Collection[str]) -> Expectation:
    """Judge one file or folder; a pattern stands for the newest of what the run wrote, else of what it matches."""
    needed = "exists, not empty, written by this run"
    try:
        looks = {item: _look(item) for item in _matches(checkout, path)}
        written = [item for item, look in looks.items() if before.get(item) != look]
        target = max(written or looks, key=_written_at, default=None)
        if target is None:
            return _missed(path, _nothing(checkout, path), needed)
        size = sum(file.stat().st_size for file in _files(target))
    except OSError as error:
        return _missed(path, f"cannot be read: {error.strerror or error}", needed)
    if size == 0:
        return _missed(path, "empty (0 bytes)", needed)
    if not written and not _stands(target.relative_to(checkout), standing):
        return _missed(path, "unchanged since before the run started", needed)
    return _content(path, target, size)


def _matches(checkout: Path, path: str) -> list[Path]:
    plain = checkout / path
    if plain.exists() or not any(c in path for c in "*?["):
        return [plain] if plain.exists() else []
    return [item for item in checkout.glob(path) if item.exists()]


def _look(target: Path) -> str:
    """Return a digest of what changes when a file, or one in a folder, is written or put there."""
    digest = hashlib.sha256()
    for file in sorted(_files(target)):
        status = file.stat()
        seen = (str(file), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(repr(seen).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _stands(path: Path, standing: Collection[str]) -> bool:
    """Return True if a file, or a folder it lies in, is a product that was good before the run."""
    return any(str(part) in standing for part in (path, *path.parents))


def _content(path: str, target: Path, size: int) -> Expectation:
    """Open what can be opened: AnnData in HDF5 or zarr must have a shape that holds together."""
    if target.suffix not in {".h5ad", ".zarr"}:
        return Expectation(kind="file", target=path, met=True, seen=format_bytes(size), needed="exists, not empty")
    needed = "readable, with a consistent shape"
    try:
        seen = anndata_shape.of_h5ad(target) if target.suffix == ".h5ad" else anndata_shape.of_zarr(target)
    except ModuleNotFoundError as error:
        seen = f"{format_bytes(size)}; not opened: {error.name} is not installed"
        return Expectation(kind="file", target=path, met=False, seen=seen, needed=needed, severity="warning")
    except BrokenInputError as error:
        return _missed(path, error.message, needed)
    return Expectation(kind="file", target=path, met=True, seen=f"{seen}, {format_bytes(size)}", needed=needed)


def _missed(path: str, seen: str, needed: str) -> Expectation:
    return Expectation(kind="file", target=path, met=False, seen=seen, needed=needed)


def _nothing(checkout: Path, path: str) -> str:
    folder = (checkout / path).parent
    if not folder.is_dir():
        return f"no such folder {Path(path).parent}"
    there = sorted(item.name for item in folder.iterdir())[:5]
    return f"missing; the folder has {', '.join(there)}" if there else "missing; the folder is empty"


def _files(target: Path) -> Iterator[Path]:
    if not target.is_dir():
        yield target
        return
    count = 0
    for folder, _folders, names in os.walk(target):
        for name in names:
            yield Path(folder, name)
            count += 1
            if count >= _WALKED_FILES:
                return


def _written_at(target: Path) -> float:
    """Return when a file, or the newest in a folder, came to be what it is.

    What was unpacked or downloaded keeps the date of its origin; when it was put there tells the
    change of its entry, which nobody can set back.
    """
    return max((_changed_at(file) for file in _files(target)), default=_changed_at(target))


def _changed_at(file: Path) -> float:
    status = file.stat()
    return max(status.st_mtime, status.st_ctime)


def _drift(source_nb: NotebookNode, executed_nb: NotebookNode, *, is_error: bool) -> list[Expectation]:
    """Name the cells whose saved outputs had an image or another result that is gone now."""
    executed = {cell.get("id"): cell for cell in executed_nb.cells if cell.cell_type == "code"}
    saved = [(cell, _results(cell)) for cell in source_nb.cells if cell.cell_type == "code"]
    if not any(results for _cell, results in saved):
        return []
    found = []
    for index, (cell, results) in enumerate(saved):
        now = executed.get(cell.id)
        if now is None or "dropped" in now.metadata.get("runner", {}):
            continue
        gone = sorted(results - _results(now))
        if gone:
            found.append(
                Expectation(
                    kind="drift",
                    target=f"cell {index + 1}",
                    met=False,
                    seen=f"no {' and no '.join(gone)}",
                    needed=f"{' and '.join(gone)}, as in the source's saved outputs",
                    severity="error" if is_error else "warning",
                )
            )
    return found or [
        Expectation(kind="drift", target="notebook", met=True, seen="nothing gone", needed="the saved outputs' kinds")
    ]


def _results(cell: NotebookNode) -> set[str]:
    """Return the kinds of result that a cell shows: images, and whatever else it evaluates to or displays.

    Widgets do not count: most are progress bars, which come and go with what is installed.
    """
    kinds = set()
    for output in cell.get("outputs", []):
        data = output.get("data")
        if not isinstance(data, dict) or not data or _WIDGET in data:
            continue
        kinds.add("image" if any(mime.startswith("image/") for mime in data) else "text result")
    return kinds
