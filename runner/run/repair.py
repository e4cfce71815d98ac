# SPDX-License-Identifier: Apache-2.0
"""Plan and apply a repair: compare the cells of a fixed notebook with those that ran."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbformat import from_dict

from runner.core.errors import BrokenInputError, UsageError
from runner.core.notebook_document import check_metadata, check_shape, code_cells, nested_too_deeply

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.records import Change
    from runner.run.preflight import Checked
    from runner.stages.prepare.prepare import Prepared

_MADE_ID = re.compile(r"cell-\d+-[0-9a-f]{8}x*")
"""Id generated for a cell without one, see `runner.core.notebook_document`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A valid repair."""

    start: int
    """Position of the cell to continue from."""
    source: NotebookNode
    """The source notebook including the repair."""
    cells: Mapping[int, NotebookNode]
    """New cells from there on, by position in the running notebook."""
    changes: tuple[Change, ...]
    changed: tuple[tuple[int | str, NotebookNode], ...]
    """Number and new cell of each changed cell that runs."""
    summary: tuple[str, ...]
    """Lines for the user."""


def plan_repair(
    request: Mapping[str, Any],
    *,
    executed: NotebookNode,
    source: NotebookNode,
    prepare: Callable[[NotebookNode], Prepared],
    failed: int,
) -> Repair:
    """Return the repair for a request with a ``notebook``, a ``cell`` and its ``source``, or neither.

    Parameters
    ----------
    executed
        The running notebook, as prepared.
    source
        The notebook that it was prepared from.
    failed
        Position of the cell that raised.

    Raises
    ------
    UsageError
        Cells were added, removed or moved, a changed cell would not run, or nothing is changed.
    BrokenInputError
        It is not a notebook, or a rule or parameter matches nothing in it.
    """
    fixed = _fixed(request, source)
    prepared = prepare(fixed)
    new, old = prepared.notebook.cells, executed.cells
    twins = _code(prepared.notebook)
    if [_number(old[at]) for at in _code(executed)] != [_number(new[at]) for at in twins]:
        raise UsageError("the plan's rules insert other cells into this notebook", hint="keep the texts they match")
    places = dict(zip(_code(executed), twins, strict=True))
    wanted = request.get("from_cell")
    start = failed if wanted is None else _position(executed, wanted)
    if start > failed:
        raise UsageError(
            f"cell {wanted} is after the failed cell {_number(old[failed])}, which would not run",
            hint=f"--from-cell takes 1 to {_last_number(executed, failed)}",
        )
    differ = [at for at, twin in places.items() if _effective(old[at]) != _effective(new[twin])]
    early = [at for at in differ if at < start]
    if early and wanted is None:
        first, last = _last_number(executed, early[0]), _last_number(executed, failed)
        raise UsageError(
            f"cell {_number(old[early[0]])} was changed but is before the failed cell {_number(old[failed])}: "
            "it has already run",
            hint=f"--from-cell {first} continues from there"
            + (f"; --from-cell {last} keeps it as it ran" if last > first else ""),
        )
    changed = tuple((_number(old[at]), new[places[at]]) for at in differ if at >= start)
    if not changed and not request.get("retry") and wanted is None:
        raise UsageError("no cell from the failed one on is changed", hint="--retry runs it again unchanged")
    numbers = ", ".join(str(number) for number, _ in changed)
    summary = [f"continuing from cell {_number(old[start])}" + (f", changed cells: {numbers}" if changed else "")]
    summary += [f"cell {_number(old[at])} was changed but does not run again: its effects are kept" for at in early]
    ran, position_of = copy.deepcopy(source), {_number(old[at]): at for at in places}
    for number, (kept, cell) in enumerate(zip(code_cells(ran), code_cells(fixed), strict=True), 1):
        if position_of[number] >= start:
            kept.source, kept.metadata = cell.source, cell.metadata
    return Repair(
        start=start,
        source=ran,
        cells={at: new[twin] for at, twin in places.items() if at >= start},
        changes=prepared.changes,
        changed=changed,
        summary=tuple(summary),
    )


def apply(repair: Repair, executed: NotebookNode, checked: Checked) -> Checked:
    """Replace the sources of the cells from the start of a repair on; return the repaired notebook."""
    for position, new in repair.cells.items():
        cell = executed.cells[position]
        first = cell.metadata.runner.get("repaired", {}).get("old_source", cell.source)
        cell.source, cell.metadata.runner = new.source, new.metadata.runner
        if tags := new.metadata.get("tags"):
            cell.metadata.tags = tags
        else:
            cell.metadata.pop("tags", None)
        if first != new.source:
            cell.metadata.runner.repaired = {"old_source": first}
    return dataclasses.replace(checked, notebook=repair.source)


def _fixed(request: Mapping[str, Any], source: NotebookNode) -> NotebookNode:
    """Return the source notebook with the request's changes."""
    fixed = copy.deepcopy(source)
    cells = code_cells(fixed)
    if (number := request.get("cell")) is not None:
        if not isinstance(number, int) or not 1 <= number <= len(cells):
            raise UsageError(f"code cell {number} does not exist", hint=f"--cell takes 1 to {len(cells)}")
        if not isinstance(request.get("source"), str):
            raise UsageError(f"no source for cell {number}", hint="give it as --source FILE")
        cells[number - 1].source = request["source"]
    elif (given := request.get("notebook")) is not None:
        theirs = _read(given)
        _check_order(cells, code_cells(theirs))
        for cell, other in zip(cells, code_cells(theirs), strict=True):
            cell.source, cell.metadata = other.source, other.metadata
    return fixed


def _read(given: Any) -> NotebookNode:
    """Return the notebook of a request, checked like a file."""
    name = Path("the repair")
    if not isinstance(given, dict) or nested_too_deeply(given):
        raise BrokenInputError("the repair is not a notebook", hint="give an .ipynb file")
    notebook = from_dict(given)
    check_shape(notebook, name)
    check_metadata(notebook, name)
    return notebook


def _check_order(cells: list[NotebookNode], theirs: list[NotebookNode]) -> None:
    """Check that no code cells were added, removed or moved: which of them ran would be unknown."""
    names, others = [cell.id for cell in cells], [cell.get("id") for cell in theirs]
    if all(map(_MADE_ID.fullmatch, names)) and len(names) == len(others):
        # Without ids in the file, cells with different sources may be the same cells.
        names, others = [cell.source for cell in cells], [cell.source for cell in theirs]
        if Counter(names) != Counter(others):
            return
    if names == others:
        return
    first = next((at for at, pair in enumerate(zip(names, others, strict=False)) if pair[0] != pair[1]), None)
    first = min(len(names), len(others)) if first is None else first
    what = "added" if len(others) > len(names) else "removed" if len(others) < len(names) else "moved or replaced"
    raise UsageError(
        f"code cells of the repair were {what}, from cell {first + 1} on; a repair can only change their content",
        hint="edit the source notebook and keep its cells; an empty cell does nothing",
    )


def _code(notebook: NotebookNode) -> list[int]:
    return [at for at, cell in enumerate(notebook.cells) if cell.cell_type == "code"]


def _number(cell: NotebookNode) -> int | str:
    index = cell.metadata.runner.get("index")
    return "inserted" if index is None else index + 1


def _last_number(notebook: NotebookNode, at: int) -> int:
    """Return the number of the last source cell up to a position, as inserted cells have none."""
    numbers = (_number(notebook.cells[place]) for place in _code(notebook) if place <= at)
    return max((number for number in numbers if isinstance(number, int)), default=1)


def _position(notebook: NotebookNode, number: Any) -> int:
    found = [at for at in _code(notebook) if _number(notebook.cells[at]) == number]
    if not found:
        raise UsageError(f"code cell {number} does not exist", hint="see --from-cell")
    return found[0]


def _effective(cell: NotebookNode) -> Any:
    """Return the parts of a cell that affect its execution and outcome."""
    runner = cell.metadata.runner
    return (
        cell.source,
        "dropped" in runner,
        "raises-exception" in cell.metadata.get("tags", []),
        runner.get("allow_errors"),
    )
