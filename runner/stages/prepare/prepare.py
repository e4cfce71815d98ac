# SPDX-License-Identifier: Apache-2.0
"""From the notebook that is to the notebook that runs: rules, parameters, dataset URLs.

The source is never edited; what comes back is a copy without outputs, in which every code cell
carries in ``metadata.runner`` what later stages need to tell the cells apart:

- ``index``: its place among the source's code cells; cells added here have none;
- ``dropped``: why it is not to be run; it stays, so that the executed notebook shows it;
- ``inserted``: true for a cell that the source does not have.

Each change is recorded. A rule, parameter or dataset that matches nothing is an error: upstream
moved, and to go on silently would change the science. A cell that shuts its own kernel down, as
the RAPIDS notebooks do to free the GPU, is judged by its code: the same words in a comment or in
a text shut nothing down.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbformat import NotebookNode

from runner.core.notebook_document import execution_settings, mark_skipped
from runner.core.surrogates import without_surrogates
from runner.stages.prepare import dataset_urls
from runner.stages.prepare import parameters as parameter_values
from runner.stages.prepare import rules as plan_rules
from runner.stages.prepare.cell_source import CellSource, edited, parse
from runner.stages.prepare.rules import change, mark_dropped, source_cells

if TYPE_CHECKING:
    from runner.core.records import Change
    from runner.plan.model import Rule


_CALL, _KERNEL_APP = "do_shutdown(True)", "IPython.Application.instance()"
"""Both occur in the cell with which the RAPIDS notebooks stop their own kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A notebook ready to run, and what was done to it."""

    notebook: NotebookNode
    changes: tuple[Change, ...]


def prepare(
    notebook: NotebookNode,
    *,
    rules: Sequence[Rule] = (),
    parameters: Mapping[str, Any] | None = None,
    replacements: Mapping[str, str] | None = None,
    placed: Collection[str] = (),
    name: str = "notebook",
    hide_code: bool = False,
) -> Prepared:
    """Return a copy of the notebook with rules, parameters and dataset URLs applied, in this order.

    Parameters
    ----------
    notebook
        As `runner.core.notebook_document.read_notebook` gives it.
    rules
        The plan's rules; dropping the kernel's shutdown cell comes after them by itself.
    parameters
        Values for the notebook's variables.
    replacements
        Where each dataset's URL is served for this run.
    placed
        URLs that need not stand in the source, since a library finds the data by itself.
    name
        What to call the notebook in errors.
    hide_code
        Mark the sources of all code cells as hidden, as papermill's report mode does.

    Raises
    ------
    BrokenInputError
        A rule, parameter or URL matched nothing, or not as often as it says.
    """
    prepared = _copy(notebook)
    changes = [
        *_mend_characters(prepared),
        *(mark_dropped(cell, cell.metadata.runner.dropped) for cell in mark_skipped(prepared)),
        *plan_rules.apply(prepared, rules, name),
        *drop(prepared),
        *parameter_values.apply(prepared, parameters or {}, name),
        *dataset_urls.apply(prepared, replacements or {}, placed, name),
    ]
    for cell in prepared.cells if hide_code else ():
        if cell.cell_type == "code":
            jupyter = cell.metadata.get("jupyter")
            cell.metadata.jupyter = {**(jupyter if isinstance(jupyter, dict) else {}), "source_hidden": True}
    return Prepared(notebook=prepared, changes=tuple(changes))


def _mend_characters(notebook: NotebookNode) -> Iterator[Change]:
    """Put a question mark for each half of a character, which JSON can hold and no kernel can be sent."""
    for cell in plan_rules.running_cells(notebook):
        new = without_surrogates(cell.source)
        if new != cell.source:
            halves = [before for before, after in zip(cell.source, new, strict=True) if before != after]
            cell.source = new
            old = ascii("".join(dict.fromkeys(halves)))[1:-1]
            yield plan_rules.change("replace", "half a character -> '?'", cell, times=len(halves), old=old, new="?")


def _copy(notebook: NotebookNode) -> NotebookNode:
    """Copy without outputs and without what an earlier run left in the metadata."""
    cells = []
    index = 0
    for cell in notebook.cells:
        kept = NotebookNode({key: value for key, value in cell.items() if key not in {"outputs", "metadata"}})
        kept.metadata = copy.deepcopy(cell.metadata)
        for left in ("papermill", "execution", "runner"):
            kept.metadata.pop(left, None)
        if cell.cell_type == "code":
            kept.outputs, kept.execution_count = [], None
            kept.metadata.runner = NotebookNode(index=index, **execution_settings(cell.metadata))
            index += 1
        cells.append(kept)
    fields = {key: value for key, value in notebook.items() if key not in {"cells", "metadata"}}
    metadata = {key: value for key, value in notebook.metadata.items() if key not in {"papermill", "widgets"}}
    return NotebookNode({**fields, "metadata": copy.deepcopy(NotebookNode(metadata)), "cells": cells})


def drop(notebook: NotebookNode) -> Iterator[Change]:
    """Drop the cell that shuts the kernel down; notebooks without one are left as they are.

    A cell that does more than that runs, with `None and` before the call, so that only the call does not.
    """
    for cell in source_cells(notebook):
        parsed = parse(cell.source) if _CALL in cell.source and _KERNEL_APP in cell.source else None
        ends = _calls(parsed) if parsed else []
        if parsed is None or not ends:
            continue
        shuts_down = any(isinstance(node, ast.Expr) and node.value in ends for node in parsed.tree.body)
        if shuts_down and not parsed.has_magics and all(_leads_there(node, ends) for node in parsed.tree.body):
            yield mark_dropped(cell, "shuts its own kernel down")
            continue
        edits = []
        for start, end in (parsed.span(call) for call in ends):
            edits += [(start, start, "(None and "), (end, end, ")")]
        cell.source = edited(parsed.data, edits)
        old = parsed.text(ends[0])
        detail = "kept from running: shuts its own kernel down"
        yield change("replace", detail, cell, times=len(ends), old=old, new=f"(None and {old})")


def _calls(cell: CellSource) -> list[ast.Call]:
    """Return the calls that shut the kernel down, in order."""
    found = [node for node in _walk(cell.tree) if isinstance(node, ast.Call)]
    if not any(ast.unparse(call) == _KERNEL_APP for call in found):
        return []
    ends = [call for call in found if isinstance(call.func, ast.Attribute) and ast.unparse(call).endswith(f".{_CALL}")]
    return sorted(ends, key=lambda call: (call.lineno, call.col_offset))


def _leads_there(statement: ast.stmt, ends: list[ast.Call]) -> bool:
    """Return True if a statement only imports, looks up the kernel or shuts it down."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant) or statement.value in ends
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.value).startswith(_KERNEL_APP) and not any(
            isinstance(node, ast.Call) and ast.unparse(node) != _KERNEL_APP for node in ast.walk(statement.value)
        )
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that may run and have a position: not behind `None and`, not inside an f-string."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        never = isinstance(node, ast.BoolOp) and ast.unparse(node.values[0]) == "None" and isinstance(node.op, ast.And)
        if not never and not isinstance(node, ast.JoinedStr):
            waiting += ast.iter_child_nodes(node)
