# SPDX-License-Identifier: Apache-2.0
"""Find where a cell shuts its own kernel down, as the RAPIDS notebooks do to free the GPU.

Judged by the code: the same words in a comment or in a text shut nothing down.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.stages.prepare.cell_source import CellSource

SHUTDOWN_CELL = ("do_shutdown(True)", "IPython.Application.instance()")
"""Both texts stand in the cell with which the RAPIDS notebooks stop their own kernel."""

_CALL, _KERNEL_APP = SHUTDOWN_CELL


def calls(cell: CellSource) -> list[ast.Call]:
    """Return the calls that shut the kernel down, in order."""
    found = [node for node in _walk(cell.tree) if isinstance(node, ast.Call)]
    if not any(ast.unparse(call) == _KERNEL_APP for call in found):
        return []
    ends = [call for call in found if isinstance(call.func, ast.Attribute) and ast.unparse(call).endswith(f".{_CALL}")]
    return sorted(ends, key=lambda call: (call.lineno, call.col_offset))


def does_nothing_else(cell: CellSource, ends: list[ast.Call]) -> bool:
    """Tell whether a cell only imports, looks up the kernel and shuts it down."""
    statements = cell.tree.body
    shuts_down = any(isinstance(statement, ast.Expr) and statement.value in ends for statement in statements)
    return shuts_down and not cell.has_magics and all(_leads_there(statement, ends) for statement in statements)


def _leads_there(statement: ast.stmt, ends: list[ast.Call]) -> bool:
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
