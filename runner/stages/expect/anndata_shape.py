# SPDX-License-Identifier: Apache-2.0
"""The shape of AnnData on disk, read from the metadata alone.

A killed writer leaves a file of plausible size that does not open, or whose matrix, observations
and variables disagree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.core.errors import BrokenInputError

_HINT = "it is probably truncated; run the notebook again"
_INDEX_PARTS = ("values", "codes")
"""Newer anndata writes a string index as a group: values with a mask of missing ones, or codes."""


def of_h5ad(path: Path) -> str:
    """Return the shape of an .h5ad file as text.

    Raises
    ------
    BrokenInputError
        It does not open, or is not consistent AnnData.
    ModuleNotFoundError
        h5py is not installed.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _of_h5ad_root(file)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, StopIteration) as error:
        raise BrokenInputError(f"is not readable as HDF5: {error}", hint=_HINT) from error


def _of_h5ad_root(file: Any) -> str:
    missing = [name for name in ("obs", "var") if name not in file]
    if missing:
        content = ", ".join(sorted(file)) or "nothing"
        raise BrokenInputError(f"is HDF5 but not AnnData: no {' and no '.join(missing)}, it has {content}", hint=_HINT)
    rows, columns = _length(file["obs"]), _length(file["var"])
    matrix = _matrix_shape(file["X"]) if "X" in file else None
    return _agreed(rows, columns, matrix)


def _length(table: Any) -> int:
    """Return the number of rows of `obs` or `var`: a group of columns, in old files a table."""
    if hasattr(table, "shape"):
        return int(table.shape[0])
    name = table.attrs.get("_index", "_index")
    index = table[name.decode() if isinstance(name, bytes) else name]
    if not hasattr(index, "shape"):
        index = next(index[part] for part in _INDEX_PARTS if part in index)
    return int(index.shape[0])


def _matrix_shape(matrix: Any) -> tuple[int, int]:
    """Return the shape of a dense or sparse matrix; check that a sparse one has all its values."""
    if hasattr(matrix, "shape"):
        return int(matrix.shape[0]), int(matrix.shape[1] if len(matrix.shape) > 1 else 1)
    stored = matrix.attrs["shape"] if "shape" in matrix.attrs else matrix.attrs["h5sparse_shape"]
    ends, values = int(matrix["indptr"][-1]), int(matrix["data"].shape[0])
    if ends != values:
        raise BrokenInputError(f"X is truncated: its rows end at value {ends}, but it holds {values}", hint=_HINT)
    return int(stored[0]), int(stored[1])


def _agreed(rows: int, columns: int, matrix: tuple[int, int] | None) -> str:
    shown = f"{rows} x {columns}"
    if rows == 0 or columns == 0:
        raise BrokenInputError(f"has no data: {shown}", hint="the notebook filtered everything out")
    if matrix is not None and matrix != (rows, columns):
        raise BrokenInputError(f"is inconsistent: X is {matrix[0]} x {matrix[1]}, obs x var {shown}", hint=_HINT)
    return shown


def of_zarr(path: Path) -> str:
    """Return the shape of AnnData in a zarr folder as text, else the number of arrays.

    Both zarr formats keep metadata as plain JSON, so no library is needed.

    Raises
    ------
    BrokenInputError
        The folder is not a zarr group, has no arrays, or its parts disagree.
    """
    root = _node(path)
    if root is None:
        raise BrokenInputError("is not a zarr group: it has neither zarr.json nor .zgroup", hint=_HINT)
    if _node(path / "obs") is not None and _node(path / "var") is not None:
        return _of_zarr_anndata(path)
    arrays = sum(_read(file).get("node_type") == "array" for file in path.rglob("zarr.json"))
    arrays += sum(1 for _ in path.rglob(".zarray"))
    if arrays == 0:
        raise BrokenInputError("is a zarr group without arrays", hint=_HINT)
    return f"zarr with {arrays} arrays"


def _of_zarr_anndata(path: Path) -> str:
    lengths = []
    for table in ("obs", "var"):
        index = path / table / str(_attributes(path / table).get("_index", "_index"))
        parts = [index / part for part in _INDEX_PARTS if _node(index / part) is not None]
        lengths.append(_array_shape(parts[0] if parts else index)[0])
    matrix = _node(path / "X")
    if matrix is None:
        return _agreed(lengths[0], lengths[1], None)
    stored = matrix.get("shape") or _attributes(path / "X").get("shape")
    if not isinstance(stored, list) or len(stored) != 2:
        raise BrokenInputError("its X has no two-dimensional shape", hint=_HINT)
    return _agreed(lengths[0], lengths[1], (int(stored[0]), int(stored[1])))


def _node(folder: Path) -> dict[str, Any] | None:
    """Return the metadata of a zarr group or array (format 3, then 2), None if it is neither."""
    for name in ("zarr.json", ".zarray", ".zgroup"):
        if (folder / name).is_file():
            return _read(folder / name)
    return None


def _attributes(folder: Path) -> dict[str, Any]:
    node = _node(folder) or {}
    attributes = node.get("attributes")
    if attributes is None and (folder / ".zattrs").is_file():
        attributes = _read(folder / ".zattrs")
    return attributes if isinstance(attributes, dict) else {}


def _array_shape(folder: Path) -> list[int]:
    node = _node(folder)
    stored = node.get("shape") if node else None
    if not isinstance(stored, list) or not stored:
        raise BrokenInputError(f"has no array {folder.parent.name}/{folder.name}", hint=_HINT)
    return [int(length) for length in stored]


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenInputError(f"its {file.parent.name}/{file.name} cannot be read: {error}", hint=_HINT) from error
    return document if isinstance(document, dict) else {}
