# SPDX-License-Identifier: Apache-2.0
"""Reading and checking notebooks.

A file may be truncated, of another format or not a notebook; each of these has its own message. Later stages can rely
on nbformat 4.5: every cell is a code, markdown or raw cell whose source is one string, with a metadata mapping, tags
that are strings and a unique id. Optional metadata may be null, which counts as absent; any other wrong type is
refused, as guessing could run something else.

The full JSON Schema is not used: checking saved outputs against it takes most of the reading time and does not affect
what runs. Missing ids are derived from position and source instead of at random, so that two runs of one notebook
name the same cells.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from nbformat import NotebookNode, from_dict

from runner.core.errors import BrokenInputError, UsageError, did_you_mean_path
from runner.core.units import duration_seconds

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CELL_TYPES = ("code", "markdown", "raw")
DEEPEST = 200
"""Levels of a document. JSON readers and writers in Python fail or crash at a few hundred."""
_TOO_DEEP = f"is nested too deeply to be a notebook: more than {DEEPEST} levels"

TEXT_SUFFIXES = {".py", ".md", ".qmd", ".rmd", ".r", ".jl"}
"""Text formats of notebooks, read with jupytext."""

SKIP = "skip-execution"
"""Jupyter's tag for cells that should not run."""


def read_notebook(path: Path, *, to_run: bool = True) -> NotebookNode:
    """Return the notebook at ``path`` as nbformat 4.5.

    Parameters
    ----------
    path
        The file.
    to_run
        Refuse a notebook without code cells, which may still be rendered.

    Raises
    ------
    BrokenInputError
        The file is missing, empty, not UTF-8, not JSON, not a notebook, or has nothing to run.
    """
    document = _upgraded(_json(path), path)
    notebook = from_dict(document)
    minor = document.get("nbformat_minor")
    notebook.nbformat, notebook.nbformat_minor = 4, max(5, minor if isinstance(minor, int) else 0)
    check_shape(notebook, path)
    _assign_ids(notebook)
    if to_run:
        check_metadata(notebook, path)
    if to_run and not any(cell.cell_type == "code" for cell in notebook.cells):
        _refuse(path, "has no code cells: nothing to run", "give a notebook with at least one code cell")
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells in order; cell indices everywhere refer to this list."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _refuse(path: Path, what: str, hint: str) -> NoReturn:
    raise BrokenInputError(f"the notebook {path} {what}", hint=hint)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        _refuse(
            path, "does not exist", f"{did_you_mean_path(path)}check the path and, with a plan, the checkout folder"
        )
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}", "check that it is a file this user may read")
    if path.suffix.lower() in TEXT_SUFFIXES:
        return _from_text(data, path)
    if not data.strip():
        _refuse(path, f"is empty ({len(data)} bytes)", "download or save it again")
    document = _decoded(data, path)
    if not isinstance(document, dict) or not isinstance(document.get("nbformat"), int):
        _refuse(path, "is JSON but not a notebook: it has no `nbformat` number", "give an .ipynb file")
    return document


def _from_text(data: bytes, path: Path) -> dict[str, Any]:
    """Return a script or Markdown file as the notebook that jupytext reads from it."""
    try:
        import jupytext
    except ImportError:
        hint = f"pip install 'rapids-notebook-runner[jupytext]', or convert it: jupytext --to ipynb {path.name}"
        _refuse(path, "is a text notebook, which needs jupytext, and jupytext is not installed", hint)
    try:
        document: dict[str, Any] = jupytext.reads(data.decode("utf-8-sig"), fmt=path.suffix.lower())
    except Exception as error:  # noqa: BLE001  (jupytext and the programs it calls raise anything)
        _refuse(path, f"cannot be read by jupytext: {error!r:.200}", f"try jupytext --to ipynb {path.name}")
    for cell in document["cells"]:
        cell.pop("id", None)  # random; `_assign_ids` makes a stable one
    return document


def _decoded(data: bytes, path: Path) -> object:
    try:
        document: object = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        _refuse(path, f"is not valid UTF-8: byte {error.start} is 0x{data[error.start]:02x}", "save it as UTF-8")
    except json.JSONDecodeError as error:
        what = f"is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        if data.startswith(b"version https://git-lfs"):
            what = "is a Git LFS pointer, not the notebook"
        _refuse(path, what, "download or save it again")
    except ValueError as error:
        _refuse(path, f"has a number that cannot be read: {error}", "write a number of so many digits as a string")
    except RecursionError:
        _refuse(path, _TOO_DEEP, "download or save it again")
    if nested_too_deeply(document):
        _refuse(path, _TOO_DEEP, "download or save it again")
    return document


def _upgraded(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the document as nbformat 4, converting version 3 as Jupyter does."""
    major = document["nbformat"]
    if major == 4:
        return document
    if major != 3:
        _refuse(path, f"has nbformat {major}; 3 and 4 can be read", "open it in Jupyter and save it again")
    import nbformat

    try:
        converted = nbformat.convert(nbformat.from_dict(document), 4)
    except Exception as error:  # noqa: BLE001  (the converter raises anything on a broken document)
        _refuse(path, f"has nbformat 3 and cannot be converted: {error!r:.200}", "open it in Jupyter and save it again")
    for cell in converted.get("cells", []):
        cell.pop("id", None)  # random; `_assign_ids` makes a stable one
    upgraded: dict[str, Any] = converted
    return upgraded


def nested_too_deeply(value: Any) -> bool:
    """Return True if JSON-like data has more levels than copying, cleaning and writing support."""
    level = [value]
    for _ in range(DEEPEST):
        containers = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in containers for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def check_shape(notebook: NotebookNode, path: Path) -> None:
    """Check the structure that later stages rely on, and join sources that are lists of lines.

    Raises
    ------
    BrokenInputError
        A part has an invalid type.
    """
    fix = "it is damaged or was edited by hand; open it in Jupyter and save it again"
    if not isinstance(notebook.get("cells"), list):
        _refuse(path, "has no list of `cells`", fix)
    if not isinstance(notebook.setdefault("metadata", NotebookNode()), dict):
        _refuse(path, "has `metadata` that is not a mapping", fix)
    _drop_leftovers(notebook.metadata)
    for position, cell in enumerate(notebook.cells):
        if not isinstance(cell, NotebookNode) or cell.get("cell_type") not in _CELL_TYPES:
            _refuse(path, f"has an invalid cell at cells[{position}]: {cell!r:.80}", fix)
        cell.source = _joined(cell.get("source", ""))
        if cell.source is None:
            _refuse(path, f"has a source that is not text at cells[{position}]", fix)
        if not isinstance(cell.setdefault("metadata", NotebookNode()), dict):
            _refuse(path, f"has metadata that is not a mapping at cells[{position}]", fix)
        _drop_leftovers(cell.metadata)
        if cell.cell_type == "code":
            _check_outputs(cell)


def check_metadata(notebook: NotebookNode, path: Path) -> None:
    """Check the metadata that affect execution.

    Raises
    ------
    BrokenInputError
        A value has the wrong type.
    """
    fix = "it was edited by hand or made by a tool; correct it, or open the notebook in Jupyter and save it again"
    for part in ("kernelspec", "language_info"):
        if not isinstance(_optional(notebook.metadata, part), dict | None):
            _refuse(path, f"has `metadata.{part}` that is not a mapping, but {notebook.metadata[part]!r:.80}", fix)
        for key in ("name", "display_name", "language"):
            found = notebook.metadata.get(part, {})
            if not isinstance(_optional(found, key), str | None):
                _refuse(path, f"has `metadata.{part}.{key}` that is not text, but {found[key]!r:.80}", fix)
    _check_settings(notebook.metadata, path, "its metadata")
    for position, cell in enumerate(notebook.cells):
        _check_settings(cell.metadata, path, f"the metadata of cells[{position}]")
        tags = _optional(cell.metadata, "tags")
        if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
            _refuse(path, f"has tags that are not a list of strings at cells[{position}], but {tags!r:.80}", fix)


def execution_settings(metadata: Any) -> dict[str, Any]:
    """Return the execution settings in the metadata of a notebook or a cell: `timeout` and `allow_errors`.

    In a notebook they are under `execution`, as for nbmake; in a cell under `runner`, since nbformat allows only
    strings in a cell's `execution`.
    """
    found = {**(metadata.get("execution") or {}), **(metadata.get("runner") or {})}
    return {key: found[key] for key in ("timeout", "allow_errors") if found.get(key) is not None}


def seconds_of(timeout: Any) -> float | None:
    """Return a timeout from metadata in seconds: a number, or a duration such as `15m`; None if not set."""
    if timeout is None or isinstance(timeout, int | float):
        return timeout
    return duration_seconds(str(timeout))


def _check_settings(metadata: Any, path: Path, where: str) -> None:
    settings = execution_settings(metadata)
    timeout, allowed = settings.get("timeout"), settings.get("allow_errors", False)
    try:
        valid = not isinstance(timeout, bool) and 0 <= (seconds_of(timeout) or 0) < math.inf
    except UsageError:
        valid = False
    if not valid:
        _refuse(path, f"has a timeout {timeout!r:.80} in {where}", "write seconds, or a duration such as 90s, 15m, 2h")
    if not isinstance(allowed, bool):
        _refuse(path, f"has allow_errors {allowed!r:.80} in {where}", "write true or false")


def _drop_leftovers(metadata: dict[str, Any]) -> None:
    """Remove damaged metadata of an earlier run or kernel, which this run rewrites."""
    for part in ("papermill", "runner", "widgets", "execution", "language_info"):
        if not isinstance(metadata.get(part, {}), dict):
            del metadata[part]


def _optional(mapping: dict[str, Any], key: str) -> Any:
    """Return an optional value, after removing a null, which means the same as absent."""
    value = mapping.get(key)
    if value is None:
        mapping.pop(key, None)
    return value


def _joined(text: object) -> str | None:
    if isinstance(text, list) and all(isinstance(line, str) for line in text):
        return "".join(text)
    return text if isinstance(text, str) else None


def _check_outputs(cell: NotebookNode) -> None:
    """Drop damaged saved outputs: they must not prevent a run that replaces them."""
    outputs = cell.get("outputs")
    cell.outputs = [out for out in outputs if isinstance(out, dict)] if isinstance(outputs, list) else []
    cell.setdefault("execution_count", None)


def _assign_ids(notebook: NotebookNode) -> None:
    """Give each cell a valid and unique id; ids that are both are kept."""
    taken: set[str] = set()
    for position, cell in enumerate(notebook.cells):
        name = cell.get("id")
        if not isinstance(name, str) or not _ID.fullmatch(name) or name in taken:
            digest = hashlib.sha256(cell.source.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            name = f"cell-{position}-{digest}"
        while name in taken:
            name += "x"
        cell.id = name
        taken.add(name)


def mark_skipped(notebook: Any) -> list[Any]:
    """Mark the code cells tagged `skip-execution` as dropped, and return them."""
    skipped = [cell for cell in notebook.cells if cell.cell_type == "code" and SKIP in cell.metadata.get("tags", [])]
    for cell in skipped:
        cell.metadata.setdefault("runner", {})["dropped"] = f"tagged {SKIP}"
    return skipped
