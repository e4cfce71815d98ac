# SPDX-License-Identifier: Apache-2.0
"""Parameters that have an effect, with a `parameters` cell and without.

With the tag, a cell written by papermill follows it: for the names that the tagged cell assigns,
and for those that nothing assigns but something reads. Wherever else the notebook assigns the
name at top level, the value is changed in place (see `runner.stages.prepare.assignments`): an
assignment further down would silently win over the injected one. So the rule is one for all
notebooks: a parameter is what every assignment of it gives. A value that would change nothing is
an error.
"""

from __future__ import annotations

import dataclasses
import keyword
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from runner.core.errors import BrokenInputError, did_you_mean
from runner.stages.prepare.assignments import assignments, literal, rewritten
from runner.stages.prepare.cell_source import CellSource, parse, reads_global
from runner.stages.prepare.rules import add_cell, change, mark_dropped, running_cells, shown, source_cells

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.records import Change

_LISTED = 40
"""Names that an error lists."""


def apply(notebook: NotebookNode, parameters: Mapping[str, Any], name: str) -> Iterator[Change]:
    """Give the notebook's variables these values and yield each change.

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
    tagged = _tagged(notebook)
    in_python = _language(notebook).lower() == "python"
    if tagged is not None:
        yield from _drop_earlier(notebook)
    cells = [(cell, parse(cell.source)) for cell in running_cells(notebook)] if in_python else []
    injected = {key for key in parameters if tagged is not None and _is_injected(key, tagged, cells)}
    if tagged is not None and injected:
        yield _inject(notebook, tagged, {key: parameters[key] for key in parameters if key in injected})
    for parameter, value in parameters.items():
        if not in_python and parameter not in injected:
            _refuse_language(notebook, parameter, name)
        changes = list(_rewrite(notebook, parameter, value, tagged if parameter in injected else None))
        if not changes and parameter not in injected:
            _refuse(notebook, parameter, name)
        yield from changes


def _tagged(notebook: NotebookNode) -> NotebookNode | None:
    return next((cell for cell in source_cells(notebook) if "parameters" in cell.metadata.get("tags", [])), None)


def _language(notebook: NotebookNode) -> str:
    metadata = notebook.metadata
    spec = metadata.get("kernelspec") or {}
    language = spec.get("language") or (metadata.get("language_info") or {}).get("name") or "python"
    return str(language)


def _is_injected(key: str, tagged: NotebookNode, cells: list[tuple[NotebookNode, CellSource | None]]) -> bool:
    """Return True if papermill's injection is what gives this name its value."""
    if not cells:
        return True  # another language: papermill translates the value, nobody can look further
    own = next((parsed for cell, parsed in cells if cell is tagged), None)
    if own is not None and any(place.name == key for place in assignments(own)):
        return True
    others = [parsed for cell, parsed in cells if parsed is not None and cell is not tagged]
    assigned = any(place.name == key and place.settable for parsed in others for place in assignments(parsed))
    return not assigned and any(reads_global(parsed.tree, key) for parsed in others)


def _drop_earlier(notebook: NotebookNode) -> Iterator[Change]:
    """Drop what papermill injected when the source was made, as papermill does."""
    for cell in source_cells(notebook):
        if "injected-parameters" in cell.metadata.get("tags", []):
            yield mark_dropped(cell, "parameters of an earlier run")


def _inject(notebook: NotebookNode, tagged: NotebookNode, parameters: dict[str, Any]) -> Change:
    """Add a cell written by papermill behind the tagged one."""
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


def _rewrite(notebook: NotebookNode, parameter: str, value: Any, tagged: NotebookNode | None) -> Iterator[Change]:
    """Change the assignments of a name; behind ``tagged`` only, where that is injected into."""
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
            yield change(
                "parameter",
                f"{parameter} = {shown(old)[1:-1]} -> {shown(new)[1:-1]}",
                cell,
                times=len(olds),
                old=old,
                new=new,
            )


def _refuse(notebook: NotebookNode, parameter: str, name: str) -> NoReturn:
    """Raise with the assignments that exist, the nearest name first."""
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
        problem = f"notebook {name!r}, parameter {parameter!r}: it is assigned only {reason}, which is kept"
    names = list(dict.fromkeys(place.name for place in places if place.settable))
    hint = did_you_mean(parameter, names)
    listed = ", ".join(f"{key}" for key in names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    hint += f"assigned are: {listed}" if names else "the notebook assigns nothing at top level"
    if unread:
        hint += f"; {unread} cells are not valid Python"
    raise BrokenInputError(problem, hint=hint)


def _refuse_language(notebook: NotebookNode, parameter: str, name: str) -> NoReturn:
    raise BrokenInputError(
        f"notebook {name!r}, parameter {parameter!r}: assignments can be changed in Python, "
        f"this notebook is {shown(_language(notebook))}",
        hint="tag a cell `parameters` in the notebook",
    )
