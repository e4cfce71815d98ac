# SPDX-License-Identifier: Apache-2.0
"""Check that a completed notebook produced the results that the plan expects.

All cells may run and the result still be missing: a guard skips the work, a file is from
yesterday, a figure is no longer drawn. Each expectation becomes a record of the observed and the
required state; its severity decides whether an unmet one fails the run.
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
"""Files of a folder that are examined (a zarr has one per chunk)."""

Before = Mapping[Path, str]
"""Digests of the expected files that existed before a run."""


def check(
    expect: Expect,
    *,
    checkout: Path,
    before: Before,
    figures: int,
    executed_nb: NotebookNode,
    source_nb: NotebookNode,
    reused: Collection[str] = (),
) -> tuple[Expectation, ...]:
    """Compare the plan's expectations with the results.

    Parameters
    ----------
    before
        Result of `before` when the run started; a file that is still the same was not written by it.
    figures
        Number of images in the executed notebook.
    source_nb
        The notebook with its saved outputs, the reference for drift.
    reused
        Valid products of an earlier run, relative to the checkout, that need not be written again.
    """
    found = [_file(checkout, path, before, reused) for path in expect.files]
    if expect.min_figures is not None:
        met = figures >= expect.min_figures
        needed = f"at least {expect.min_figures}"
        found.append(Expectation(kind="figures", target="notebook", met=met, seen=str(figures), needed=needed))
    if expect.drift != "off":
        found += _drift(source_nb, executed_nb, is_error=expect.drift == "error")
    return tuple(found)


def before(expect: Expect, checkout: Path) -> Before:
    """Return a digest of each expected file that exists before a run.

    Clocks step and downloads keep their origin's date, so only a change shows that the run wrote a file.
    """
    found = {}
    for path in expect.files:
        for item in _matches(checkout, path):
            with contextlib.suppress(OSError):  # an unreadable file counts as missing
                found[item] = _digest(item)
    return found


def _file(checkout: Path, path: str, before: Before, reused: Collection[str]) -> Expectation:
    """Check a file or folder; of a pattern, the newest match that the run wrote, else the newest match."""
    needed = "exists, not empty, written by this run"
    try:
        digests = {item: _digest(item) for item in _matches(checkout, path)}
        written = [item for item, digest in digests.items() if before.get(item) != digest]
        target = max(written or digests, key=_written_at, default=None)
        if target is None:
            return _missed(path, _missing(checkout, path), needed)
        size = sum(file.stat().st_size for file in _files(target))
    except OSError as error:
        return _missed(path, f"cannot be read: {error.strerror or error}", needed)
    if size == 0:
        return _missed(path, "empty (0 bytes)", needed)
    relative = target.relative_to(checkout)
    if not written and not any(str(part) in reused for part in (relative, *relative.parents)):
        return _missed(path, "unchanged since before the run started", needed)
    return _content(path, target, size)


def _matches(checkout: Path, path: str) -> list[Path]:
    plain = checkout / path
    if plain.exists() or not any(c in path for c in "*?["):
        return [plain] if plain.exists() else []
    return [item for item in checkout.glob(path) if item.exists()]


def _digest(target: Path) -> str:
    """Return a digest of the metadata that changes when a file, or one in a folder, is written or added."""
    digest = hashlib.sha256()
    for file in sorted(_files(target)):
        status = file.stat()
        seen = (str(file), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(repr(seen).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _content(path: str, target: Path, size: int) -> Expectation:
    """Check the content: AnnData in HDF5 or zarr must open and have a consistent shape."""
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


def _missing(checkout: Path, path: str) -> str:
    folder = (checkout / path).parent
    if not folder.is_dir():
        return f"no such folder {Path(path).parent}"
    names = sorted(item.name for item in folder.iterdir())[:5]
    return f"missing; the folder has {', '.join(names)}" if names else "missing; the folder is empty"


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
    """Return the time of the last change of a file, or of the newest in a folder.

    Unpacked or downloaded files keep the modification time of their origin, so the inode's change
    time counts too, which cannot be set back.
    """
    return max((_changed_at(file) for file in _files(target)), default=_changed_at(target))


def _changed_at(file: Path) -> float:
    status = file.stat()
    return max(status.st_mtime, status.st_ctime)


def _drift(source_nb: NotebookNode, executed_nb: NotebookNode, *, is_error: bool) -> list[Expectation]:
    """Return the cells that no longer show an image or another result of their saved outputs."""
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
                    needed=f"{' and '.join(gone)}, as in the saved outputs of the source",
                    severity="error" if is_error else "warning",
                )
            )
    return found or [
        Expectation(
            kind="drift", target="notebook", met=True, seen="nothing missing", needed="the kinds of the saved outputs"
        )
    ]


def _results(cell: NotebookNode) -> set[str]:
    """Return the kinds of result that a cell shows: images and other results or displays.

    Widgets do not count: most are progress bars, which come and go with what is installed.
    """
    kinds = set()
    for output in cell.get("outputs", []):
        data = output.get("data")
        if not isinstance(data, dict) or not data or _WIDGET in data:
            continue
        kinds.add("image" if any(mime.startswith("image/") for mime in data) else "text result")
    return kinds
