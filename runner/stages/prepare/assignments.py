# SPDX-License-Identifier: Apache-2.0
"""Top-level assignments of a cell, and giving a name another value where it is assigned.

Notebooks without a `parameters` cell overwrite whatever is injected above them, so the value
is changed where it stands. What counts, and what is left alone:

- `n = 5`, `n: int = 5`, and an element of `n, m = 5, 6` get the new value in place, also below
  `if`, `with` and `try`; a name that is assigned in several places gets it in each.
- Where the value is not the name's alone (`n = m = 5`, `n, m = f()`), or binds another name on
  the way (`n = (k := 3) * 2`), a statement is added: `n, m = f(); n = 7`. So nothing but the
  named variable changes.
- An assignment that derives from the name itself (`n += 1`, `n = n * 2`) stays: it is what the
  notebook does with the value. A name of a comprehension's or a lambda's own is another one.
- Loops, functions, classes, imports and magics assign while they run; they stay.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runner.stages.prepare.cell_source import CellSource, edited, reads_global

Kind = Literal["value", "shared", "derived", "loop"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One place where a name gets a value; ``start`` and ``end`` are what to replace, in bytes."""

    name: str
    kind: Kind
    start: int
    end: int
    line: int
    value: str

    @property
    def settable(self) -> bool:
        """Return True if another value can be put here."""
        return self.kind in {"value", "shared"}


def assignments(cell: CellSource) -> list[Assignment]:
    """Return the assignments at the top level of a cell, in order."""
    return list(_in_block(cell, cell.tree.body, loop=False))


def rewritten(cell: CellSource, name: str, new: str) -> tuple[str, list[str]]:
    """Return the source in which ``name`` is assigned ``new``, and the values it replaced.

    Parameters
    ----------
    new
        Source of the new value, as `literal` renders it.
    """
    places = [place for place in assignments(cell) if place.name == name and place.settable]
    edits = [(place.start, place.end, new if place.kind == "value" else f"; {name} = {new}") for place in places]
    return edited(cell.data, edits), [place.value for place in places]


def literal(value: Any) -> str:
    """Return Python source of a parameter's value; what YAML makes of a date becomes its text."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return repr(str(value))


def _in_block(cell: CellSource, body: list[ast.stmt], *, loop: bool) -> Iterator[Assignment]:
    for statement in body:
        if isinstance(statement, ast.Assign):
            yield from _assign(cell, statement, loop=loop)
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
            yield _place(cell, statement.target.id, statement.value, statement, loop=loop)
        elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            start, end = cell.span(statement)
            text = cell.text(statement.value)
            yield Assignment(statement.target.id, "derived", start, end, statement.lineno, text)
        elif isinstance(statement, ast.For | ast.AsyncFor | ast.While):
            yield from _in_block(cell, [*statement.body, *statement.orelse], loop=True)
        elif isinstance(statement, ast.If | ast.With | ast.AsyncWith | ast.Try | ast.TryStar | ast.Match):
            yield from _in_block(cell, list(_inner(statement)), loop=loop)


def _inner(statement: ast.If | ast.With | ast.AsyncWith | ast.Try | ast.TryStar | ast.Match) -> Iterator[ast.stmt]:
    """Return the statements of every branch of a compound statement."""
    if isinstance(statement, ast.Match):
        for case in statement.cases:
            yield from case.body
        return
    yield from statement.body
    for handler in getattr(statement, "handlers", []):
        yield from handler.body
    yield from getattr(statement, "orelse", [])
    yield from getattr(statement, "finalbody", [])


def _assign(cell: CellSource, statement: ast.Assign, *, loop: bool) -> Iterator[Assignment]:
    if len(statement.targets) == 1:
        yield from _paired(cell, statement.targets[0], statement.value, statement, loop=loop)
        return
    for target in statement.targets:
        yield from _unpaired(cell, target, statement, loop=loop)


def _paired(
    cell: CellSource, target: ast.expr, value: ast.expr, statement: ast.Assign, *, loop: bool
) -> Iterator[Assignment]:
    """Match the names of a target with the parts of a literal value."""
    if isinstance(target, ast.Name):
        yield _place(cell, target.id, value, statement, loop=loop)
    elif (
        isinstance(target, ast.Tuple | ast.List)
        and isinstance(value, ast.Tuple | ast.List)
        and len(target.elts) == len(value.elts)
        and not any(isinstance(part, ast.Starred) for part in [*target.elts, *value.elts])
    ):
        for part, part_value in zip(target.elts, value.elts, strict=True):
            yield from _paired(cell, part, part_value, statement, loop=loop)
    else:
        yield from _unpaired(cell, target, statement, loop=loop)


def _unpaired(cell: CellSource, target: ast.expr, statement: ast.Assign, *, loop: bool) -> Iterator[Assignment]:
    """Name what a target binds when no part of the value is that name's alone."""
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield _place(cell, node.id, statement.value, statement, loop=loop, alone=False)


def _place(
    cell: CellSource,
    name: str,
    value: ast.expr,
    statement: ast.Assign | ast.AnnAssign,
    *,
    loop: bool,
    alone: bool = True,
) -> Assignment:
    text = cell.text(value)
    start, end = cell.span(value)
    kind: Kind = "loop" if loop else "value"
    if reads_global(value, name):
        kind = "derived"
    elif not loop and (not alone or any(isinstance(node, ast.NamedExpr) for node in ast.walk(value))):
        kind = "shared"
        start = end = cell.span(statement)[1]
    return Assignment(name, kind, start, end, statement.lineno, text)
