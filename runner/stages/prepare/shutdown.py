# SPDX-License-Identifier: Apache-2.0
"""Keep a notebook from shutting its own kernel down, as the RAPIDS notebooks do to free the GPU.

Judged by the code: the same words in a comment or in a text shut nothing down.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runner.stages.prepare.cell_source import CellSource, edited, parse
from runner.stages.prepare.rules import change, mark_dropped, source_cells

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.records import Change

_CALL, _KERNEL_APP = "do_shutdown(True)", "IPython.Application.instance()"
"""Both occur in the cell with which the RAPIDS notebooks stop their own kernel."""


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
