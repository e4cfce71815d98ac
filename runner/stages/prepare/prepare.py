# SPDX-License-Identifier: Apache-2.0
"""Prepare a notebook for a run: apply rules, parameters and dataset URLs.

The source is never edited; the result is a copy without outputs, in which ``metadata.runner`` of
each code cell tells later stages:

- ``index``: its position among the source's code cells; inserted cells have none;
- ``dropped``: the reason why it is not run; it stays visible in the executed notebook;
- ``inserted``: true for a cell that the source does not have.

Each change is recorded. A rule, parameter or dataset that matches nothing is an error: upstream
changed, and continuing silently would change the science. A cell that shuts down its own kernel, as
the RAPIDS notebooks do to free the GPU, is detected by its code, not by words in a comment or string.
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
"""Both occur in the cell that stops the kernel in the RAPIDS notebooks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A notebook ready to run, and the changes to it."""

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
        As returned by `runner.core.notebook_document.read_notebook`.
    rules
        The plan's rules; the cell that shuts down the kernel is dropped after them by default.
    parameters
        Values for the notebook's variables.
    replacements
        The URL that serves each dataset's URL in this run.
    placed
        URLs that need not occur in the source, since a library finds the data itself.
    name
        Name of the notebook in errors.
    hide_code
        Mark the sources of all code cells as hidden, as papermill's report mode does.

    Raises
    ------
    BrokenInputError
        A rule, parameter or URL matched nothing, or not as often as specified.
    """
    prepared = _copy(notebook)
    changes = [
        *_replace_surrogates(prepared),
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


def _replace_surrogates(notebook: NotebookNode) -> Iterator[Change]:
    """Replace each lone surrogate, valid in JSON but not in a kernel message, by a question mark."""
    for cell in plan_rules.running_cells(notebook):
        new = without_surrogates(cell.source)
        if new != cell.source:
            found = [before for before, after in zip(cell.source, new, strict=True) if before != after]
            cell.source = new
            old = ascii("".join(dict.fromkeys(found)))[1:-1]
            yield change("replace", "lone surrogate -> '?'", cell, times=len(found), old=old, new="?")


def _copy(notebook: NotebookNode) -> NotebookNode:
    """Copy without outputs and without the metadata of an earlier run."""
    cells = []
    index = 0
    for cell in notebook.cells:
        kept = NotebookNode({key: value for key, value in cell.items() if key not in {"outputs", "metadata"}})
        kept.metadata = copy.deepcopy(cell.metadata)
        for key in ("papermill", "execution", "runner"):
            kept.metadata.pop(key, None)
        if cell.cell_type == "code":
            kept.outputs, kept.execution_count = [], None
            kept.metadata.runner = NotebookNode(index=index, **execution_settings(cell.metadata))
            index += 1
        cells.append(kept)
    fields = {key: value for key, value in notebook.items() if key not in {"cells", "metadata"}}
    metadata = {key: value for key, value in notebook.metadata.items() if key not in {"papermill", "widgets"}}
    return NotebookNode({**fields, "metadata": copy.deepcopy(NotebookNode(metadata)), "cells": cells})


def drop(notebook: NotebookNode) -> Iterator[Change]:
    """Drop the cell that shuts down its kernel, if any.

    A cell that does more still runs, with the call alone disabled by `None and`.
    """
    for cell in source_cells(notebook):
        parsed = parse(cell.source) if _CALL in cell.source and _KERNEL_APP in cell.source else None
        ends = _calls(parsed) if parsed else []
        if parsed is None or not ends:
            continue
        shuts_down = any(isinstance(node, ast.Expr) and node.value in ends for node in parsed.tree.body)
        if shuts_down and not parsed.has_magics and all(_is_shutdown(node, ends) for node in parsed.tree.body):
            yield mark_dropped(cell, "shuts down its own kernel")
            continue
        edits = []
        for start, end in (parsed.span(call) for call in ends):
            edits += [(start, start, "(None and "), (end, end, ")")]
        cell.source = edited(parsed.data, edits)
        old = parsed.text(ends[0])
        detail = "call disabled: it shuts down its own kernel"
        yield change("replace", detail, cell, times=len(ends), old=old, new=f"(None and {old})")


def _calls(cell: CellSource) -> list[ast.Call]:
    """Return the calls that shut down the kernel, in order."""
    found = [node for node in _walk(cell.tree) if isinstance(node, ast.Call)]
    if not any(ast.unparse(call) == _KERNEL_APP for call in found):
        return []
    ends = [call for call in found if isinstance(call.func, ast.Attribute) and ast.unparse(call).endswith(f".{_CALL}")]
    return sorted(ends, key=lambda call: (call.lineno, call.col_offset))


def _is_shutdown(statement: ast.stmt, ends: list[ast.Call]) -> bool:
    """Return True if a statement only imports, looks up the kernel, or shuts it down."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant) or statement.value in ends
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.value).startswith(_KERNEL_APP) and not any(
            isinstance(node, ast.Call) and ast.unparse(node) != _KERNEL_APP for node in ast.walk(statement.value)
        )
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that may run and have a position: not after `None and`, not inside an f-string."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        never = isinstance(node, ast.BoolOp) and ast.unparse(node.values[0]) == "None" and isinstance(node.op, ast.And)
        if not never and not isinstance(node, ast.JoinedStr):
            waiting += ast.iter_child_nodes(node)
