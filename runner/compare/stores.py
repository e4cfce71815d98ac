# SPDX-License-Identifier: Apache-2.0
"""Comparison of AnnData and other data in HDF5 and zarr part by part; cells and genes are matched by name."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from runner.compare.annotations import MOST_ROWS, compare_embeddings, compare_labels
from runner.compare.matrices import Alignment, Dense, compare_matrices, compare_numbers, gather, in_place, sparse_format
from runner.compare.verdict import Outcome, Tolerance, Verdict, verdict

_LARGEST_BYTES = 256_000_000
"""Largest column or other part that is read as a whole."""
_TEXT_BYTES = 64
_DEEPEST = 20
_MOST_PARTS = 10_000
_CLUSTERS = ("leiden", "louvain", "cluster", "kmeans")
_ORDER = ("X", "obs", "var", "layers", "obsm", "varm", "obsp", "varp", "raw", "uns")


def compare_stores(old: Path, new: Path, tolerance: Tolerance) -> Iterator[Verdict]:
    """Compare two HDF5 files or zarr folders; one that cannot be opened gives a verdict as well."""
    with contextlib.ExitStack() as stack:
        try:
            roots = [stack.enter_context(_opened(path)) for path in (old, new)]
        except Exception as error:  # noqa: BLE001  (both libraries raise anything on a damaged file)
            yield verdict("", Outcome.UNKNOWN, f"cannot be opened: {error}")
            return
        yield from _Stores(tolerance).compare(*roots)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.is_dir():
        import zarr

        if any(inside.is_symlink() for inside in path.rglob("*")):
            raise ValueError("the folder contains symbolic links, which are not followed")
        yield zarr.open_group(str(path), mode="r")
    else:
        with h5py.File(path, "r") as file:
            yield file


class _Stores:
    """Recursive comparison of two stores."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._parts = 0

    def compare(self, old: Any, new: Any) -> Iterator[Verdict]:
        if all({"obs", "var"} <= set(root) for root in (old, new)):
            yield from self._anndata(old, new, "", None)
        else:
            yield from self._group("", old, new, None, None, 0)

    def _anndata(self, old: Any, new: Any, prefix: str, cells: Alignment | None) -> Iterator[Verdict]:
        """Compare two AnnData objects; `raw` shares the cells of its parent."""
        try:
            if cells is None:
                cells, found = align(f"{prefix}obs names", _names(old["obs"]), _names(new["obs"]))
                yield found
            genes, found = align(f"{prefix}var names", _names(old["var"]), _names(new["var"]))
            yield found
        except Exception as error:  # noqa: BLE001
            yield verdict(f"{prefix}names", Outcome.UNKNOWN, f"cannot be read: {error}")
            return
        axes = {
            **dict.fromkeys(("X", "layers"), (cells, genes)),
            **dict.fromkeys(("obs", "obsm"), (cells, None)),
            **dict.fromkeys(("var", "varm"), (genes, None)),
            "obsp": (cells, cells),
            "varp": (genes, genes),
        }
        names = {*old, *new}
        for name in [*(one for one in _ORDER if one in names), *sorted(names.difference(_ORDER))]:
            if name == "raw" and all(_is_group(_child(root, name)) for root in (old, new)):
                yield from self._anndata(old[name], new[name], "raw/", cells)
            else:
                yield from self._part(
                    prefix + name, _child(old, name), _child(new, name), *axes.get(name, (None, None))
                )

    def _group(
        self, part: str, old: Any, new: Any, rows: Alignment | None, columns: Alignment | None, depth: int
    ) -> Iterator[Verdict]:
        for name in sorted({*old, *new}):
            if depth > _DEEPEST or self._parts > _MOST_PARTS:
                limits = f"more than {_DEEPEST} levels or {_MOST_PARTS:,} parts"
                yield verdict(part, Outcome.UNKNOWN, f"{limits}; groups may contain each other")
                return
            path = f"{part}/{name}" if part else name
            yield from self._part(path, _child(old, name), _child(new, name), rows, columns, depth + 1)

    def _part(
        self, part: str, old: Any, new: Any, rows: Alignment | None, columns: Alignment | None, depth: int = 0
    ) -> Iterator[Verdict]:
        """Compare two nodes of the same name, one of which may be missing."""
        self._parts += 1
        if old is None or new is None:
            yield verdict(part, Outcome.DIFFERENT, "added" if old is None else "removed")
            return
        kinds = _kind(old), _kind(new)
        try:
            if kinds[0] != kinds[1]:
                yield verdict(part, Outcome.DIFFERENT, f"{kinds[0]} → {kinds[1]}")
            elif kinds[0] == "group":
                yield from self._group(part, old, new, rows, columns, depth)
            elif kinds[0] == "table":
                yield from self._table(part, old, new, rows)
            elif rows and not len(rows.old):
                yield self._nothing_in_common(part, old, new)
            elif kinds[0] == "matrix":
                yield self._matrix(part, old, new, rows, columns)
            else:
                yield from self._values(part, _read(old), _read(new))
        except Exception as error:  # noqa: BLE001  (the other parts are compared all the same)
            yield verdict(part, Outcome.UNKNOWN, f"cannot be read: {error or type(error).__name__}")

    @staticmethod
    def _nothing_in_common(part: str, old: Any, new: Any) -> Verdict:
        lengths = [node.shape[0] if hasattr(node, "shape") else node.attrs["shape"][0] for node in (old, new)]
        if any(lengths):
            return verdict(part, Outcome.UNKNOWN, "no names in common")
        return verdict(part, Outcome.EQUAL, "no rows")

    def _matrix(self, part: str, old: Any, new: Any, rows: Alignment | None, columns: Alignment | None) -> Verdict:
        found = compare_matrices(part, old, new, rows, columns, self._tolerance)
        flat = all(getattr(node, "ndim", 0) == 2 for node in (old, new))
        if found.outcome is not Outcome.DIFFERENT or not flat or part.split("/")[-2:-1] not in (["obsm"], ["varm"]):
            return found
        rows = rows or in_place(old.shape[0])
        sample = np.unique(np.linspace(0, len(rows.old) - 1, MOST_ROWS).astype(int))
        one, two = gather(Dense(old), rows.old[sample]), gather(Dense(new), rows.new[sample])
        return compare_embeddings(part, one, two, self._tolerance, found)

    def _table(self, part: str, old: Any, new: Any, rows: Alignment | None) -> Iterator[Verdict]:
        """Compare two data frames column by column."""
        if rows is None:
            rows, found = align(f"{part} names", _names(old), _names(new))
            yield found
        indexes = {_index_name(node) for node in (old, new)}
        for name in sorted({*old, *new} - indexes - {"__categories"}):
            one, two = _child(old, name), _child(new, name)
            path = f"{part}/{name}"
            if one is None or two is None:
                yield verdict(path, Outcome.DIFFERENT, "added" if one is None else "removed")
                continue
            try:
                yield self._column(path, _read(one)[rows.old], _read(two)[rows.new])
            except Exception as error:  # noqa: BLE001
                yield verdict(path, Outcome.UNKNOWN, f"cannot be read: {error or type(error).__name__}")

    def _column(self, part: str, old: Any, new: Any) -> Verdict:
        types = [_type(values) for values in (old, new)]
        note = f"{types[0]} → {types[1]}" if types[0] != types[1] else ""
        if "category" in types or "text" in types:
            return compare_labels(part, old, new, self._tolerance, note)
        numbers = compare_numbers(part, _numbers(old), _numbers(new), self._tolerance)
        clusters = any(word in part.lower() for word in _CLUSTERS) and all("int" in kind.lower() for kind in types)
        if clusters and numbers.outcome is Outcome.DIFFERENT:
            return compare_labels(part, old, new, self._tolerance, note)
        return numbers

    def _values(self, part: str, old: Any, new: Any) -> Iterator[Verdict]:
        """Compare values in memory: strings, records, scalars, masked arrays."""
        fields = [getattr(getattr(values, "dtype", None), "names", None) for values in (old, new)]
        if fields[0] and fields[1]:
            for name in dict.fromkeys((*fields[0], *fields[1])):
                if name in fields[0] and name in fields[1]:
                    yield from self._values(f"{part}/{name}", old[name], new[name])
                else:
                    detail = "added" if name not in fields[0] else "removed"
                    yield verdict(f"{part}/{name}", Outcome.DIFFERENT, detail)
            return
        types = [_type(values) for values in (old, new)]
        if not {"category", "text"} & set(types):
            yield compare_numbers(part, _numbers(old), _numbers(new), self._tolerance)
            return
        one, two = (np.atleast_1d(np.asarray(values, dtype=object)).astype(str) for values in (old, new))
        if one.shape != two.shape:
            yield verdict(part, Outcome.DIFFERENT, f"shape {one.shape} → {two.shape}")
            return
        changed = one != two
        if changed.any():
            count = f"{int(changed.sum()):,} of {one.size:,} strings differ, first " if one.size > 1 else ""
            shown = f"{one[changed][0]!r:.60} → {two[changed][0]!r:.60}"
            yield verdict(part, Outcome.DIFFERENT, count + shown)
        else:
            yield verdict(part, Outcome.EQUAL)


def align(part: str, old: Any, new: Any) -> tuple[Alignment, Verdict]:
    """Align two axes by name, or by position if the names are not unique, and return a verdict on the names."""
    if len(old) == len(new) and (old == new).all():
        return in_place(len(old)), verdict(part, Outcome.EQUAL, f"{len(old):,}")
    one, two = pd.Index(old), pd.Index(new)
    if not one.is_unique or not two.is_unique:
        length = min(len(one), len(two))
        detail = f"{len(one):,} → {len(two):,}, not unique: the first {length:,} are compared by position"
        return in_place(length), verdict(part, Outcome.DIFFERENT, detail)
    places = two.get_indexer(one)
    common = np.flatnonzero(places >= 0)
    alignment = Alignment(common, places[common])
    if len(common) == len(one) == len(two):
        return alignment, verdict(part, Outcome.TOLERATED, f"the same {len(one):,} in a different order")
    detail = f"{len(one):,} → {len(two):,}, {len(common):,} in common"
    if not len(common) and len(one) == len(two):
        return in_place(len(one)), verdict(part, Outcome.DIFFERENT, f"{detail}: compared by position")
    return alignment, verdict(part, Outcome.DIFFERENT, detail)


def _index_name(table: Any) -> str:
    name = table.attrs.get("_index", "_index")
    return name.decode() if isinstance(name, bytes) else str(name)


def _names(table: Any) -> Any:
    """Return the row names of a table, which is an array of records in old files."""
    if _is_group(table):
        return np.asarray(_read(_child(table, _index_name(table))), dtype=object)
    fields = table.dtype.names
    return _fitting(table)[fields[0] if "index" not in fields else "index"].astype(str)


def _is_group(node: Any) -> bool:
    return hasattr(node, "keys")


def _child(group: Any, name: str) -> Any:
    """Return a child of a group, None if absent; links into other files are not followed."""
    if isinstance(group, h5py.Group) and isinstance(group.get(name, getlink=True), h5py.ExternalLink):
        return None
    return group.get(name)


def _kind(node: Any) -> str:
    if not _is_group(node):
        return "matrix" if node.ndim and node.dtype.kind in "biufc" else "values"
    if sparse_format(node):
        return "matrix"
    kind = node.attrs.get("encoding-type", "dict")
    return "table" if kind == "dataframe" else "group" if kind in {"dict", "anndata", "raw", ""} else "values"


def _read(node: Any) -> Any:
    """Read a part after checking its size."""
    return anndata.io.read_elem(_fitting(node))


def _fitting(node: Any) -> Any:
    size = _size(node)
    if size > _LARGEST_BYTES:
        raise ValueError(f"it has {size / 1e6:,.0f} MB, the limit is {_LARGEST_BYTES // 10**6} MB")
    return node


def _size(node: Any, levels: int = 3) -> int:
    if _is_group(node):
        if not levels:
            raise ValueError("its groups are nested too deeply")
        children = (_child(node, name) for name in node)
        return sum(_size(child, levels - 1) for child in children if child is not None)
    Dense(node)  # refuses links out of the file
    return int(math.prod(node.shape) * (node.dtype.itemsize if node.dtype.kind in "biufc" else _TEXT_BYTES))


def _type(values: Any) -> str:
    if isinstance(values, pd.Categorical):
        return "category"
    kind = getattr(values, "dtype", None) or np.asarray(values).dtype
    return str(kind) if getattr(kind, "kind", "O") in "biufc" else "text"


def _numbers(values: Any) -> Any:
    """Return an array of numbers; missing values are NaN."""
    if isinstance(values, pd.api.extensions.ExtensionArray):
        return pd.array(values).to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(values)
