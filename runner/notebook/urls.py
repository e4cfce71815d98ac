# SPDX-License-Identifier: Apache-2.0
"""Point the URLs of staged datasets in a notebook at the mirror that serves them.

The notebook's own download code then runs unchanged: what it does after downloading, and only
when it downloads, is part of the analysis. A URL is found as text, so that literals, f-strings
and `!wget` lines are alike; one that the source puts together from constants is found by
putting these together.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from runner.errors import BrokenInputError
from runner.notebook.cellsource import CellSource, edited, parse
from runner.notebook.rules import change, nearest, running_cells, shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.records import Change

_ENDS = r"(?![\w\-/?&=%#~+@]|[.:]\w)"
"""What may follow a URL: anything that would not make it a longer one."""


def apply(
    notebook: NotebookNode, replacements: Mapping[str, str], placed: Collection[str], name: str
) -> Iterator[Change]:
    """Replace each URL in every cell that runs and yield each change.

    Raises
    ------
    BrokenInputError
        A URL stands in no cell and is not placed where a library looks for it.
    """
    # Longest first: the text of one URL may begin another's.
    for url in sorted(replacements, key=len, reverse=True):
        changes = list(_as_text(notebook, url, replacements[url]))
        changes = changes or list(_put_together(notebook, url, replacements[url]))
        if not changes and url not in placed:
            _refuse(notebook, url, name)
        yield from changes


def _as_text(notebook: NotebookNode, url: str, local: str) -> Iterator[Change]:
    """Replace the URL as it stands, but not in comments: what is commented out downloads nothing."""
    pattern = re.compile(re.escape(url.encode()) + _ENDS.encode())
    for cell in running_cells(notebook):
        if url not in cell.source:
            continue
        parsed = parse(cell.source)
        comments = parsed.comments() if parsed else []
        data = cell.source.encode("utf-8", "surrogatepass")
        spans = [match.span() for match in pattern.finditer(data)]
        edits = [(*span, local) for span in spans if not any(a <= span[0] < b for a, b in comments)]
        if edits:
            cell.source = edited(data, edits)
            yield change("dataset", f"{shown(url)} from the cache", cell, times=len(edits), old=url, new=local)


def _put_together(notebook: NotebookNode, url: str, local: str) -> Iterator[Change]:
    """Replace expressions of constants that make up the URL."""
    pattern = re.compile(re.escape(url) + _ENDS)
    parsed = [(cell, source) for cell in running_cells(notebook) if (source := parse(cell.source))]
    constants = _constants([source for _cell, source in parsed])
    for cell, source in parsed:
        edits: list[tuple[int, int, str]] = []
        for node, text in _strings(source.tree, constants):
            new, times = pattern.subn(lambda _match: local, text)
            if times:
                edits.append((*source.span(node), repr(new)))
        if edits:
            cell.source = edited(source.data, edits)
            yield change("dataset", f"{shown(url)} from the cache", cell, times=len(edits), old=url, new=local)


def _constants(sources: list[CellSource]) -> dict[str, str]:
    """Return the names that are bound once in the whole notebook, to a text."""
    bound: dict[str, int] = {}
    values: dict[str, ast.expr] = {}
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                bound[node.id] = bound.get(node.id, 0) + 1
            elif isinstance(node, ast.arg):
                bound[node.arg] = bound.get(node.arg, 0) + 1
        for statement in source.tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                values[statement.targets[0].id] = statement.value
    texts: dict[str, str] = {}
    for name, value in values.items():
        text = _folded(value, texts)
        if bound[name] == 1 and text is not None:
            texts[name] = text
    return texts


def _strings(tree: ast.AST, constants: Mapping[str, str]) -> Iterator[tuple[ast.expr, str]]:
    """Yield the outermost expressions that are a known text, without plain names."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.expr) and not isinstance(child, ast.Name):
            text = _folded(child, constants)
            if text is not None:
                yield child, text
                continue
        yield from _strings(child, constants)


def _folded(node: ast.expr, constants: Mapping[str, str]) -> str | None:
    """Return the text of an expression of constants, or None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _folded(node.left, constants), _folded(node.right, constants)
        return left + right if left is not None and right is not None else None
    if isinstance(node, ast.JoinedStr):
        return _joined([_folded(part, constants) for part in node.values])
    if isinstance(node, ast.FormattedValue) and node.conversion == -1 and node.format_spec is None:
        return _folded(node.value, constants)
    return None


def _joined(parts: list[str | None]) -> str | None:
    known = [part for part in parts if part is not None]
    return "".join(known) if len(known) == len(parts) else None


def _refuse(notebook: NotebookNode, url: str, name: str) -> None:
    near = nearest(url, [cell.source for cell in running_cells(notebook)])
    found = f"nearest text: {shown(near)}; " if near else ""
    raise BrokenInputError(
        f"notebook {name!r}, dataset {url!r}: the URL stands in no cell, and the dataset has no `place`",
        hint=f"{found}correct the URL, or say with `place` where a library looks for the file",
    )
