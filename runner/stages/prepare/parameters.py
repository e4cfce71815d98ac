# SPDX-License-Identifier: Apache-2.0
"""Set parameters in a notebook with or without a `parameters` cell.

After a tagged cell, a cell written by papermill is added, for the names that the tagged cell
assigns and for names that are read but never assigned. All other assignments of the name at top
level are changed in place, because a later assignment would silently override the injected one. So
the same rule holds for all notebooks: every assignment of a parameter yields the given value. A
parameter without effect is an error. These are assignments:

- `n = 5`, `n: int = 5`, and an element of `n, m = 5, 6` get the new value in place, also inside
  `if`, `with` and `try`, and at each place if there are several.
- If the value is shared (`n = m = 5`, `n, m = f()`) or binds another name (`n = (k := 3) * 2`), a
  statement is added: `n, m = f(); n = 7`. So only the named variable changes.
- An assignment derived from the name itself (`n += 1`, `n = n * 2`) is kept, as it processes the
  value. A local name of a comprehension or lambda is a different variable.
- Assignments by loops, functions, classes, imports and magics are kept.
"""

from __future__ import annotations

import ast
import dataclasses
import keyword
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from runner.core.errors import BrokenInputError, did_you_mean
from runner.core.papermill_import import import_papermill
from runner.stages.prepare.cell_source import CellSource, edited, parse, reads_global
from runner.stages.prepare.rules import add_cell, change, mark_dropped, running_cells, shown, source_cells

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.records import Change

_LISTED = 40
"""Names listed in an error."""
Kind = Literal["value", "shared", "derived", "loop"]


def apply(notebook: NotebookNode, parameters: Mapping[str, Any], name: str) -> Iterator[Change]:
    """Set the notebook's variables to these values and yield each change.

    Raises
    ------
    BrokenInputError
        A name is not a variable, or nothing in the notebook assigns it.
    """
    if not parameters:
        return
    for parameter in parameters:
        if not parameter.isidentifier() or keyword.iskeyword(parameter):
            raise BrokenInputError(
                f"notebook {name!r}, parameter {parameter!r}: is not a valid variable name", hint="use a plain name"
            )
    tagged = next((cell for cell in source_cells(notebook) if "parameters" in cell.metadata.get("tags", [])), None)
    in_python = _language(notebook).lower() == "python"
    if tagged is not None:
        yield from _drop_earlier(notebook)
    cells = [(cell, parse(cell.source)) for cell in running_cells(notebook)] if in_python else []
    injected = {key for key in parameters if tagged is not None and _is_injected(key, tagged, cells)}
    if tagged is not None and injected:
        values = {key: value for key, value in parameters.items() if key in injected}
        yield _inject(notebook, tagged, values)
        yield from _kept(tagged, values)
    for parameter, value in parameters.items():
        if not in_python and parameter not in injected:
            _refuse_language(notebook, parameter, name)
        changes = list(_rewrite(notebook, parameter, value, tagged if parameter in injected else None))
        if not changes and parameter not in injected:
            _refuse(notebook, parameter, name)
        yield from changes


def _language(notebook: NotebookNode) -> str:
    metadata = notebook.metadata
    spec = metadata.get("kernelspec") or {}
    language = spec.get("language") or (metadata.get("language_info") or {}).get("name") or "python"
    return str(language)


def _is_injected(key: str, tagged: NotebookNode, cells: list[tuple[NotebookNode, CellSource | None]]) -> bool:
    """Return True if papermill's injected cell sets this name."""
    if not cells:
        return True  # another language: papermill translates the value, assignments are unknown
    own = next((parsed for cell, parsed in cells if cell is tagged), None)
    if own is not None and any(place.name == key for place in assignments(own)):
        return True
    others = [parsed for cell, parsed in cells if parsed is not None and cell is not tagged]
    assigned = any(place.name == key and place.settable for parsed in others for place in assignments(parsed))
    return not assigned and any(reads_global(parsed.tree, key) for parsed in others)


def _drop_earlier(notebook: NotebookNode) -> Iterator[Change]:
    """Drop cells that papermill injected in an earlier run, as papermill does."""
    for cell in source_cells(notebook):
        if "injected-parameters" in cell.metadata.get("tags", []):
            yield mark_dropped(cell, "parameters of an earlier run")


def _inject(notebook: NotebookNode, tagged: NotebookNode, parameters: dict[str, Any]) -> Change:
    """Add a cell written by papermill after the tagged one."""
    import_papermill()
    from papermill.exceptions import PapermillException
    from papermill.translators import translate_parameters

    kernel = (notebook.metadata.get("kernelspec") or {}).get("name", "python3")
    try:
        source = translate_parameters(kernel, _language(notebook), parameters, "Parameters")
    except PapermillException as error:
        raise BrokenInputError(
            f"papermill cannot write parameters for the kernel {kernel!r}: {error}", hint="set the values in the plan"
        ) from error
    added = add_cell(notebook, source, tagged, "after", f"injected: {', '.join(parameters)}")
    cell = next(cell for cell in notebook.cells if cell.id == added.cell_id)
    cell.metadata.tags = ["injected-parameters"]
    return dataclasses.replace(added, rule="parameter")  # the tagged cell stays, so nothing is replaced


def _kept(tagged: NotebookNode, parameters: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the parameters that the tagged cell sets to the same values."""
    parsed = parse(tagged.source)
    for name, value in parameters.items():
        new = literal(value)
        if parsed and set(rewritten(parsed, name, new)[1]) == {new}:
            yield change("parameter", f"{name} = {shown(new)[1:-1]}, kept", tagged, old=new, new=new)


def _rewrite(notebook: NotebookNode, parameter: str, value: Any, tagged: NotebookNode | None) -> Iterator[Change]:
    """Change the assignments of a name; if a cell is injected, only those after ``tagged``."""
    new = literal(value)
    cells = source_cells(notebook)
    if tagged is not None:
        cells = cells[next(place for place, cell in enumerate(cells) if cell is tagged) + 1 :]
    for cell in cells:
        parsed = parse(cell.source)
        if parsed is None:
            continue
        source, olds = rewritten(parsed, parameter, new)
        if olds:
            cell.source = source
            old = "; ".join(olds)
            kept = set(olds) == {new}
            yield change(
                "parameter",
                f"{parameter} = {shown(new)[1:-1]}, kept"
                if kept
                else f"{parameter} = {shown(old)[1:-1]} -> {shown(new)[1:-1]}",
                cell,
                times=len(olds),
                old=old,
                new=new,
            )


def _refuse(notebook: NotebookNode, parameter: str, name: str) -> NoReturn:
    """Raise an error that lists the existing assignments, the nearest name first."""
    places = []
    unread = 0
    for cell in source_cells(notebook):
        parsed = parse(cell.source)
        if parsed is None:
            unread += 1
        else:
            places += assignments(parsed)
    why = {place.kind for place in places if place.name == parameter}
    problem = f"notebook {name!r}, parameter {parameter!r}: no cell assigns it at top level"
    if why:
        reason = "in a loop" if "loop" in why else "from its own value"
        problem = f"notebook {name!r}, parameter {parameter!r}: it is assigned only {reason}, which is not changed"
    names = list(dict.fromkeys(place.name for place in places if place.settable))
    hint = did_you_mean(parameter, names)
    listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    hint += f"assigned names: {listed}" if names else "the notebook assigns nothing at top level"
    if unread:
        hint += f"; {unread} cells are not valid Python"
    raise BrokenInputError(problem, hint=hint)


def _refuse_language(notebook: NotebookNode, parameter: str, name: str) -> NoReturn:
    raise BrokenInputError(
        f"notebook {name!r}, parameter {parameter!r}: assignments can be changed in Python only, "
        f"this notebook is {shown(_language(notebook))}",
        hint="tag a cell `parameters` in the notebook",
    )


@dataclass(frozen=True, slots=True)
class Assignment:
    """An assignment to a name; ``start`` and ``end`` are the byte span to replace."""

    name: str
    kind: Kind
    start: int
    end: int
    line: int
    value: str

    @property
    def settable(self) -> bool:
        """Return True if the value can be replaced."""
        return self.kind in {"value", "shared"}


def assignments(cell: CellSource) -> list[Assignment]:
    """Return the assignments at the top level of a cell, in order."""
    return list(_in_block(cell, cell.tree.body, loop=False))


def rewritten(cell: CellSource, name: str, new: str) -> tuple[str, list[str]]:
    """Return the source with ``name`` set to ``new``, and the replaced values.

    Parameters
    ----------
    new
        Source of the new value, as `literal` renders it.
    """
    places = [place for place in assignments(cell) if place.name == name and place.settable]
    edits = [(place.start, place.end, new if place.kind == "value" else f"; {name} = {new}") for place in places]
    return edited(cell.data, edits), [place.value for place in places]


def literal(value: Any) -> str:
    """Return a parameter's value as Python source; YAML dates become strings."""
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
    """Yield the names that a target binds if none has a part of the value to itself."""
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
