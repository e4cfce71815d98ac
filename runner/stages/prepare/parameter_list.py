# SPDX-License-Identifier: Apache-2.0
"""List the variables of a notebook that can be set as parameters, with defaults and comments."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.stages.prepare.cell_source import CellSource, parse
from runner.stages.prepare.parameters import assignments
from runner.stages.prepare.rules import source_cells

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A variable that the notebook assigns at top level."""

    name: str
    type: str | None
    """The annotation, else the type of a literal default; None if known only at run time."""
    default: str
    """Source of the first assigned value."""
    comment: str | None
    cells: tuple[int, ...]
    """Numbers of the code cells that assign it, from 1."""
    tagged: bool
    """True if one of these cells is tagged `parameters`."""


def parameters_of(notebook: NotebookNode) -> list[Parameter]:
    """Return the parameters of a notebook that `prepare` has copied, in order of first assignment."""
    found: dict[str, Parameter] = {}
    for cell in source_cells(notebook):
        parsed = parse(cell.source)
        tagged = "parameters" in cell.metadata.get("tags", [])
        for place in assignments(parsed) if parsed else ():
            if not place.settable or parsed is None:
                continue
            known = found.get(place.name) or Parameter(
                name=place.name,
                type=_annotation(parsed, place.name, place.line) or _type(place.value),
                default=place.value,
                comment=_comment(parsed, place.line),
                cells=(),
                tagged=False,
            )
            cells = dict.fromkeys((*known.cells, cell.metadata.runner["index"] + 1))
            found[place.name] = dataclasses.replace(known, cells=tuple(cells), tagged=known.tagged or tagged)
    return list(found.values())


def _annotation(cell: CellSource, name: str, line: int) -> str | None:
    for node in cell.tree.body:
        if isinstance(node, ast.AnnAssign) and node.lineno == line and ast.unparse(node.target) == name:
            return ast.unparse(node.annotation)
    return None


def _type(value: str) -> str | None:
    try:
        return type(ast.literal_eval(value)).__name__
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _comment(cell: CellSource, line: int) -> str | None:
    """Return the comment at the end of a line."""
    start = cell.line_starts[line - 1]
    end = cell.line_starts[line] if line < len(cell.line_starts) else len(cell.data)
    texts = [cell.data[a:b].decode().lstrip("#").strip() for a, b in cell.comments() if start <= a < end]
    return next(filter(None, texts), None)
