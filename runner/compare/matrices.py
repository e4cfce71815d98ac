# SPDX-License-Identifier: Apache-2.0
"""Comparison of numbers, and of dense and sparse matrices on disk in blocks, as these are never loaded as a whole.

Rows and columns may be ordered differently, and a sparse matrix may be stored by rows in one file and by columns, or
dense, in the other. Sparse matrices are never converted to dense ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from runner.compare.verdict import Outcome, Tolerance, Verdict, verdict

_BLOCK_BYTES = 24_000_000
"""Block size, both matrices together."""
_SCANNED_BLOCK_BYTES = 96_000_000
"""Block size if most of a matrix must be read for each block."""
_LARGEST_BYTES = 256_000_000
"""Largest row, and largest chunk of a file."""
_GAP = 4
"""Rows that are read unnecessarily rather than with a separate read."""


class Deviation:
    """Differences of numbers, accumulated over blocks."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.count = 0
        self.changed = 0
        self.outside = 0
        self.undefined = 0
        """Numbers that are NaN or infinite on one side only."""
        self.absolute = 0.0
        self.relative = 0.0

    def add(self, old: Any, new: Any, count: int | None = None) -> None:
        """Add two arrays of the same shape; ``count`` includes numbers that are not stored, such as zeros."""
        self.count += old.size if count is None else count
        # NaN equals NaN here.
        changed = (old != new) & ~((old != old) & (new != new))  # noqa: PLR0124
        if not changed.any():
            return
        kind = np.complex128 if np.iscomplexobj(old) or np.iscomplexobj(new) else np.float64
        a, b = old[changed].astype(kind), new[changed].astype(kind)
        finite = np.isfinite(a) & np.isfinite(b)
        self.changed += a.size
        undefined = int(a.size - finite.sum())
        self.undefined += undefined
        a, b = a[finite], b[finite]
        with np.errstate(over="ignore", invalid="ignore"):
            apart, larger = np.abs(a - b), np.maximum(np.abs(a), np.abs(b))
            outside = ~(apart <= self._tolerance.absolute + self._tolerance.relative * larger)
            self.outside += undefined + int(outside.sum())
            if a.size:
                self.absolute = max(self.absolute, float(apart.max()))
                self.relative = max(self.relative, float((apart / np.where(larger > 0, larger, 1)).max()))

    @property
    def outcome(self) -> Outcome:
        """The outcome so far."""
        return Outcome.DIFFERENT if self.outside else Outcome.TOLERATED if self.changed else Outcome.EQUAL

    def verdict(self, part: str, note: str = "") -> Verdict:
        """Return the verdict.

        Parameters
        ----------
        note
            Another difference, such as the type, with which the numbers are not simply equal.
        """
        largest = f"by at most {self.absolute:.3g} (relative {self.relative:.2g})"
        if self.outside:
            texts = [f"{self.outside:,} of {self.count:,} numbers outside the tolerance"]
            texts += [f"{self.undefined:,} of them NaN or infinite on one side only"] if self.undefined else []
            texts += [largest] if self.absolute else []
        else:
            texts = [f"{self.changed:,} of {self.count:,} numbers differ, {largest}"] if self.changed else []
        outcome = Outcome.TOLERATED if note and self.outcome is Outcome.EQUAL else self.outcome
        scores = {"largest_absolute": self.absolute, "largest_relative": self.relative, "outside": self.outside}
        detail = "; ".join([*texts, *([note] if note else [])])
        return verdict(part, outcome, detail, scores=scores if self.changed else {})


def compare_numbers(part: str, old: Any, new: Any, tolerance: Tolerance) -> Verdict:
    """Compare two arrays or numbers in memory."""
    old, new = np.asarray(old), np.asarray(new)
    if old.shape != new.shape:
        return verdict(part, Outcome.DIFFERENT, f"shape {old.shape} → {new.shape}")
    deviation = Deviation(tolerance)
    deviation.add(np.atleast_1d(old), np.atleast_1d(new))
    return deviation.verdict(part, type_note(old.dtype, new.dtype))


def type_note(old: Any, new: Any) -> str:
    """Return the change of a type, ignoring byte order; empty if there is none."""
    return "" if old.newbyteorder("=") == new.newbyteorder("=") else f"{old} → {new}"


@dataclass(frozen=True, slots=True)
class Alignment:
    """Matching positions of two axes."""

    old: Any
    new: Any

    @property
    def moves(self) -> bool:
        """Whether any position differs or is omitted."""
        return not (np.array_equal(self.old, self.new) and np.array_equal(self.old, np.arange(len(self.old))))


def in_place(length: int) -> Alignment:
    """Return the alignment of two axes of equal length by position."""
    return Alignment(np.arange(length), np.arange(length))


class Dense:
    """An array; its rows are along the first axis."""

    def __init__(self, node: Any) -> None:
        self._node = _checked(node)
        self.shape, self.dtype = tuple(node.shape), node.dtype

    def row_bytes(self) -> Any:
        """Return the size of each row in memory."""
        return np.full(self.shape[0], max(1, math.prod(self.shape[1:]) * self.dtype.itemsize))

    def read(self, start: int, end: int) -> Any:
        """Return rows."""
        return np.asarray(self._node[start:end])


class Compressed:
    """A sparse matrix stored by rows (csr), or one stored by columns and read as its transpose."""

    def __init__(self, node: Any, *, transposed: bool = False) -> None:
        shape = _shape(node)
        self.shape: tuple[int, ...] = shape[::-1] if transposed else shape
        self._data, self._indices = _checked(node["data"]), _checked(node["indices"])
        self._indptr = np.asarray(_checked(node["indptr"])[:]).astype(np.int64)
        self.dtype = self._data.dtype
        ends = (0, self._data.shape[0])
        valid = len(self._indptr) == self.shape[0] + 1 and (self._indptr[0], self._indptr[-1]) == ends
        if not valid or (np.diff(self._indptr) < 0).any() or self._indices.shape != self._data.shape:
            raise ValueError("indptr, indices and data are inconsistent: the matrix is damaged")

    def row_bytes(self) -> Any:
        """Return the size of each row in memory."""
        return np.diff(self._indptr) * (self.dtype.itemsize + self._indices.dtype.itemsize) + 8

    def read(self, start: int, end: int) -> Any:
        """Return rows as a csr matrix."""
        first, last = int(self._indptr[start]), int(self._indptr[end])
        indices = np.asarray(self._indices[first:last])
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < self.shape[1]:
            raise ValueError("an index is out of range: the matrix is damaged")
        parts = (np.asarray(self._data[first:last]), indices, self._indptr[start : end + 1] - first)
        return sparse.csr_matrix(parts, shape=(end - start, self.shape[1]))


class Scanned:
    """A sparse matrix stored by columns but read by rows: each block of rows reads the whole matrix once."""

    def __init__(self, node: Any) -> None:
        self._columns = Compressed(node, transposed=True)
        self.shape, self.dtype = self._columns.shape[::-1], self._columns.dtype

    def row_bytes(self) -> Any:
        """Return the size of each row in memory."""
        counts = np.zeros(self.shape[0], dtype=np.int64)
        for block in self._blocks():
            counts += np.bincount(block.indices, minlength=self.shape[0])
        return counts * (self.dtype.itemsize + 8) + 8

    def read(self, start: int, end: int) -> Any:
        """Return rows as a csr matrix."""
        kept = []
        for block in self._blocks():
            chosen = sparse.csc_matrix((block.data, block.indices, block.indptr), shape=block.shape[::-1])
            kept.append(chosen[start:end].tocsr())
        return sparse.hstack(kept, format="csr") if kept else sparse.csr_matrix((end - start, 0), dtype=self.dtype)

    def _blocks(self) -> Iterator[Any]:
        for start, end in _blocks(self._columns.row_bytes(), _BLOCK_BYTES):
            yield self._columns.read(start, end)


def sparse_format(node: Any) -> str | None:
    """Return ``csr`` or ``csc`` if a group is a sparse matrix."""
    kind = str(node.attrs.get("encoding-type", "")).removesuffix("_matrix") or node.attrs.get("h5sparse_format")
    return str(kind) if kind in {"csr", "csc"} else None


def _shape(node: Any) -> tuple[int, ...]:
    shape = node.attrs["shape"] if "shape" in node.attrs else node.attrs["h5sparse_shape"]
    return int(shape[0]), int(shape[1])


def _checked(node: Any) -> Any:
    """Return an array of a file after checking that its chunks are small enough and in the same file."""
    if getattr(node, "is_virtual", False) or getattr(node, "external", None):
        raise ValueError("its values are in another file, which is not opened")
    if math.prod(node.chunks or (1,)) * node.dtype.itemsize > _LARGEST_BYTES:
        raise ValueError(f"its chunks are larger than {_LARGEST_BYTES // 10**6} MB")
    return node


def compare_matrices(
    part: str, old: Any, new: Any, rows: Alignment | None, columns: Alignment | None, tolerance: Tolerance
) -> Verdict:
    """Compare two matrices, given as nodes of HDF5 or zarr.

    Parameters
    ----------
    rows, columns
        Alignments; None to compare by position.
    """
    formats = [sparse_format(node) if hasattr(node, "keys") else "dense" for node in (old, new)]
    shapes = [_shape(node) if hasattr(node, "keys") else tuple(node.shape) for node in (old, new)]
    if formats == ["csc", "csc"]:
        rows, columns = columns, rows
        shapes = [shape[::-1] for shape in shapes]
        a, b = Compressed(old, transposed=True), Compressed(new, transposed=True)
    else:
        kinds: dict[str | None, Callable[[Any], Any]] = {"dense": Dense, "csr": Compressed, "csc": Scanned}
        a, b = (kinds[kind](node) for kind, node in zip(formats, (old, new), strict=True))
    fixed = [i for i in range(max(map(len, shapes))) if not (i == 0 and rows) and not (i == 1 and columns)]
    if len(shapes[0]) != len(shapes[1]) or any(shapes[0][i] != shapes[1][i] for i in fixed):
        shown = [" x ".join(f"{n:,}" for n in shape) for shape in shapes]
        return verdict(part, Outcome.DIFFERENT, f"shape {shown[0]} → {shown[1]}")
    rows = rows or in_place(shapes[0][0])
    columns = columns if columns and columns.moves else None
    width = len(columns.old) if columns else math.prod(shapes[0][1:])
    deviation = Deviation(tolerance)
    sizes = a.row_bytes()[rows.old] + b.row_bytes()[rows.new]
    scanned = rows.moves or isinstance(a, Scanned) or isinstance(b, Scanned)
    budget = _SCANNED_BLOCK_BYTES if scanned else _BLOCK_BYTES
    for start, end in _blocks(sizes, budget):
        one, two = gather(a, rows.old[start:end]), gather(b, rows.new[start:end])
        if columns:
            one, two = one[:, columns.old], two[:, columns.new]
        _add(deviation, one, two, (end - start) * width)
    notes = [type_note(a.dtype, b.dtype), f"{formats[0]} → {formats[1]}" if formats[0] != formats[1] else ""]
    return deviation.verdict(part, "; ".join(filter(None, notes)))


def gather(matrix: Any, index: Any) -> Any:
    """Return rows of a matrix in any order, reading nearby rows together."""
    if len(index) == 0:
        return matrix.read(0, 0)
    order = np.argsort(index, kind="stable")
    wanted = index[order]
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > _GAP) + 1)
    blocks = [
        block if len(run) == block.shape[0] else block[run - run[0]]
        for run in runs
        for block in [matrix.read(int(run[0]), int(run[-1]) + 1)]
    ]
    if len(blocks) > 1:
        together = sparse.vstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.concatenate(blocks)
    else:
        together = blocks[0]
    return together if (order[:-1] < order[1:]).all() else together[np.argsort(order)]


def _blocks(sizes: Any, budget: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each block of rows."""
    if len(sizes) and int(sizes.max()) > _LARGEST_BYTES:
        raise ValueError(f"one row has more than {_LARGEST_BYTES // 10**6} MB")
    ends = np.cumsum(sizes, dtype=np.float64)
    start, done = 0, 0.0
    while start < len(sizes):
        end = max(start + 1, int(np.searchsorted(ends, done + budget, side="right")))
        yield start, end
        start, done = end, float(ends[end - 1])


def _add(deviation: Deviation, old: Any, new: Any, count: int) -> None:
    """Add two blocks; of sparse ones only the elements stored in either."""
    if not sparse.issparse(old) and not sparse.issparse(new):
        deviation.add(old, new)
        return
    a, b = sparse.csr_matrix(old), sparse.csr_matrix(new)
    a.sum_duplicates()
    b.sum_duplicates()
    if np.array_equal(a.indptr, b.indptr) and np.array_equal(a.indices, b.indices):
        deviation.add(a.data, b.data, count)
        return
    one, two = _keys(a), _keys(b)
    both = np.union1d(one, two)
    values = [np.zeros(len(both), dtype=matrix.dtype) for matrix in (a, b)]
    for found, keys, matrix in zip(values, (one, two), (a, b), strict=True):
        found[np.searchsorted(both, keys)] = matrix.data
    deviation.add(values[0], values[1], count)


def _keys(matrix: Any) -> Any:
    """Return the flat index of each stored element of a csr matrix, ascending."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return rows * matrix.shape[1] + matrix.indices
