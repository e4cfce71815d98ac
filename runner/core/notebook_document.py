# SPDX-License-Identifier: Apache-2.0
"""Reading a notebook that somebody else wrote.

A file may be half written, of another format or no notebook at all; each of these is reported
apart here, so that the stages after this one can rely on nbformat 4.5: every cell is a code,
markdown or raw cell with one text as its source, a metadata mapping, tags that are texts and an
id of its own. What Jupyter and the tools after it only fill in may be null, which is as if it
was not there; of any other wrong type it is refused, as guessing would run something else.

The full JSON Schema is not used: checking saved outputs against it takes most of the time of
reading, and says nothing about what will run. Ids that are missing are made from position and
source instead of at random, so that two runs of one notebook name the same cells.
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
"""Levels of a document. Readers and writers of JSON in Python end at a few hundred, by an error or a crash."""
_TOO_DEEP = f"is nested too deeply to be a notebook: more than {DEEPEST} levels"

TEXT_SUFFIXES = {".py", ".md", ".qmd", ".rmd", ".r", ".jl"}
"""Notebooks as text, which jupytext reads."""

SKIP = "skip-execution"
"""Jupyter's tag for a cell that is not to be run."""


def read_notebook(path: Path, *, to_run: bool = True) -> NotebookNode:
    """Return the notebook at ``path`` as nbformat 4.5.

    Parameters
    ----------
    path
        The file.
    to_run
        Refuse a notebook without code cells; one that is only shown may have none.

    Raises
    ------
    BrokenInputError
        The file is missing, empty, no UTF-8, no JSON, no notebook, or has nothing to run.
    """
    document = _upgraded(_json(path), path)
    notebook = from_dict(document)
    minor = document.get("nbformat_minor")
    notebook.nbformat, notebook.nbformat_minor = 4, max(5, minor if isinstance(minor, int) else 0)
    check_shape(notebook, path)
    _give_ids(notebook)
    if to_run:
        check_metadata(notebook, path)
    if to_run and not any(cell.cell_type == "code" for cell in notebook.cells):
        _refuse(path, "has no code cells: nothing to run", "give a notebook with at least one code cell")
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the code cells in order; their position is the index used everywhere."""
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
        _refuse(path, f"is empty ({len(data)} bytes)", "fetch or save it again")
    document = _decoded(data, path)
    if not isinstance(document, dict) or not isinstance(document.get("nbformat"), int):
        _refuse(path, "is JSON but no notebook: it has no `nbformat` number", "give an .ipynb file")
    return document


def _from_text(data: bytes, path: Path) -> dict[str, Any]:
    """Return the notebook that a script or a Markdown file is to jupytext."""
    try:
        import jupytext
    except ImportError:
        hint = f"pip install 'rapids-notebook-runner[jupytext]', or convert it: jupytext --to ipynb {path.name}"
        _refuse(path, "is a text, which is read through jupytext, and that is not installed", hint)
    try:
        document: dict[str, Any] = jupytext.reads(data.decode("utf-8-sig"), fmt=path.suffix.lower())
    except Exception as error:  # noqa: BLE001  (jupytext and the programs behind it raise whatever a text makes them)
        _refuse(path, f"cannot be read by jupytext: {error!r:.200}", f"try jupytext --to ipynb {path.name}")
    for cell in document["cells"]:
        cell.pop("id", None)  # random; `_give_ids` makes one that lasts
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
        _refuse(path, what, "fetch or save it again")
    except ValueError as error:
        _refuse(path, f"has a number that cannot be read: {error}", "a number of so many digits belongs in a text")
    except RecursionError:
        _refuse(path, _TOO_DEEP, "fetch or save it again")
    if nested_too_deeply(document):
        _refuse(path, _TOO_DEEP, "fetch or save it again")
    return document


def _upgraded(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return nbformat 4: version 3 is converted as Jupyter does, others cannot be read."""
    major = document["nbformat"]
    if major == 4:
        return document
    if major != 3:
        _refuse(path, f"has nbformat {major}; 3 and 4 can be read", "open it in Jupyter and save it again")
    import nbformat

    try:
        converted = nbformat.convert(nbformat.from_dict(document), 4)
    except Exception as error:  # noqa: BLE001  (the converter raises whatever a broken document makes it raise)
        _refuse(path, f"has nbformat 3 and cannot be converted: {error!r:.200}", "open it in Jupyter and save it again")
    for cell in converted.get("cells", []):
        cell.pop("id", None)  # random; `_give_ids` makes one that lasts
    upgraded: dict[str, Any] = converted
    return upgraded


def nested_too_deeply(value: Any) -> bool:
    """Return True if JSON-like data has more levels than those who copy, clean and write it can follow."""
    level = [value]
    for _ in range(DEEPEST):
        containers = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in containers for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def check_shape(notebook: NotebookNode, path: Path) -> None:
    """Check what later stages rely on, and join sources that are lists of lines.

    Raises
    ------
    BrokenInputError
        A part has a type that no reader of notebooks would understand.
    """
    fix = "it is damaged or was edited by hand; open it in Jupyter and save it again"
    if not isinstance(notebook.get("cells"), list):
        _refuse(path, "has no list of `cells`", fix)
    if not isinstance(notebook.setdefault("metadata", NotebookNode()), dict):
        _refuse(path, "has `metadata` that is not a mapping", fix)
    _drop_leftovers(notebook.metadata)
    for position, cell in enumerate(notebook.cells):
        if not isinstance(cell, NotebookNode) or cell.get("cell_type") not in _CELL_TYPES:
            _refuse(path, f"has no cell at cells[{position}], but {cell!r:.80}", fix)
        cell.source = _joined(cell.get("source", ""))
        if cell.source is None:
            _refuse(path, f"has a source that is not text at cells[{position}]", fix)
        if not isinstance(cell.setdefault("metadata", NotebookNode()), dict):
            _refuse(path, f"has metadata that is not a mapping at cells[{position}]", fix)
        _drop_leftovers(cell.metadata)
        if cell.cell_type == "code":
            _check_outputs(cell)


def check_metadata(notebook: NotebookNode, path: Path) -> None:
    """Check the metadata that decide what runs, and how.

    Raises
    ------
    BrokenInputError
        One of them has a type that is not its own.
    """
    fix = "it was edited by hand or made by a tool; correct it, or open the notebook in Jupyter and save it again"
    for part in ("kernelspec", "language_info"):
        if not isinstance(_present(notebook.metadata, part), dict | None):
            _refuse(path, f"has `metadata.{part}` that is not a mapping, but {notebook.metadata[part]!r:.80}", fix)
        for key in ("name", "display_name", "language"):
            found = notebook.metadata.get(part, {})
            if not isinstance(_present(found, key), str | None):
                _refuse(path, f"has `metadata.{part}.{key}` that is not text, but {found[key]!r:.80}", fix)
    _check_settings(notebook.metadata, path, "its metadata")
    for position, cell in enumerate(notebook.cells):
        _check_settings(cell.metadata, path, f"the metadata of cells[{position}]")
        tags = _present(cell.metadata, "tags")
        if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
            _refuse(path, f"has tags that are no list of texts at cells[{position}], but {tags!r:.80}", fix)


def execution_settings(metadata: Any) -> dict[str, Any]:
    """Return what the author of a notebook or a cell set for its execution: `timeout` and `allow_errors`.

    A notebook has them under `execution`, as for nbmake; a cell under `runner`, since nbformat allows only texts
    in a cell's `execution`.
    """
    found = {**(metadata.get("execution") or {}), **(metadata.get("runner") or {})}
    return {key: found[key] for key in ("timeout", "allow_errors") if found.get(key) is not None}


def seconds_of(timeout: Any) -> float | None:
    """Return an author's timeout in seconds: a number of them, or a duration such as `15m`; None for none."""
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
    """Take away what an earlier run or kernel wrote where it is damaged; this run writes its own."""
    for part in ("papermill", "runner", "widgets", "execution", "language_info"):
        if not isinstance(metadata.get(part, {}), dict):
            del metadata[part]


def _present(mapping: dict[str, Any], key: str) -> Any:
    """Return a value that may be missing, after taking away a null, which is to mean the same."""
    value = mapping.get(key)
    if value is None:
        mapping.pop(key, None)
    return value


def _joined(text: object) -> str | None:
    if isinstance(text, list) and all(isinstance(line, str) for line in text):
        return "".join(text)
    return text if isinstance(text, str) else None


def _check_outputs(cell: NotebookNode) -> None:
    """Keep the saved outputs that are outputs; a damaged one must not stop a run that replaces it."""
    outputs = cell.get("outputs")
    cell.outputs = [out for out in outputs if isinstance(out, dict)] if isinstance(outputs, list) else []
    cell.setdefault("execution_count", None)


def _give_ids(notebook: NotebookNode) -> None:
    """Give each cell an id that is valid and its own; ids that are both stay as they are."""
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
    """Drop the code cells that their author tagged `skip-execution`, and return them."""
    skipped = [cell for cell in notebook.cells if cell.cell_type == "code" and SKIP in cell.metadata.get("tags", [])]
    for cell in skipped:
        cell.metadata.setdefault("runner", {})["dropped"] = f"tagged {SKIP}"
    return skipped
