# SPDX-License-Identifier: Apache-2.0
"""Texts that a notebook puts together from constants, and giving them another content.

Known is what literals, sums and f-strings make of literals and of names that the whole notebook
binds once, to a known text. Only whole expressions are replaced. An f-string is one expression:
what stands inside has no position of its own before Python 3.12, and behind it lies the rest of
a shell command. So an f-string that is known in part is rewritten as a whole.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.stages.prepare.cell_source import CellSource

Swap = Callable[[str], str]
"""Gives a text with other content, or the same text where there is nothing to change."""

_TEMPLATES = getattr(ast, "TemplateStr", ())
"""t-strings, from Python 3.14 on: they keep the source of their parts, so they stay."""


def constants(sources: list[CellSource], swap: Swap) -> dict[str, str]:
    """Return the names that the whole notebook binds once, at top level and to a known text.

    The texts are those after ``swap``: where a name's value is replaced, its uses need not be.
    """
    bound = Counter(name for source in sources for node in ast.walk(source.tree) for name in _bound(node))
    known: dict[str, str] = {}
    for source in sources:
        for statement in source.tree.body:
            target, value = _assigned(statement)
            text = _folded(value, known) if value is not None and bound[target] == 1 else None
            if text is not None:
                known[target] = swap(text)
    return known


def edits(source: CellSource, known: Mapping[str, str], swap: Swap) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, new source) of each expression whose text ``swap`` changes."""
    for node in _outermost(source.tree, known):
        text = _folded(node, known)
        if text is None:
            new = _f_string(node, known, swap)
        else:
            swapped = swap(text)
            new = repr(swapped) if swapped != text else None
        if new is not None:
            yield (*source.span(node), new)


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node binds or unbinds."""
    if isinstance(node, ast.Name):
        if not isinstance(node.ctx, ast.Load):
            yield node.id
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif isinstance(node, ast.arg):
        yield node.arg
    else:
        for field in ("name", "rest"):  # functions, classes, exceptions, patterns
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield name


def _assigned(statement: ast.stmt) -> tuple[str, ast.expr | None]:
    target = None
    if isinstance(statement, ast.Assign):
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    if isinstance(target, ast.Name) and isinstance(statement, ast.Assign | ast.AnnAssign):
        return target.id, statement.value
    return "", None


def _outermost(tree: ast.AST, known: Mapping[str, str]) -> Iterator[ast.expr]:
    """Yield the outermost expressions that are a known text, without plain names, and all f-strings."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        is_text = isinstance(node, ast.Constant | ast.BinOp) and _folded(node, known) is not None
        if isinstance(node, ast.expr) and (is_text or isinstance(node, ast.JoinedStr)):
            yield node
        elif not isinstance(node, _TEMPLATES):
            waiting += ast.iter_child_nodes(node)


def _f_string(node: ast.expr, known: Mapping[str, str], swap: Swap) -> str | None:
    """Return the source of an f-string with its known parts swapped, None when none is, or it cannot be written."""
    swapping = _Swapping(known, swap)
    try:
        new = swapping.visit(copy.deepcopy(node))
        text = _written(new) if swapping.swapped else None
        same = text is not None and ast.dump(ast.parse(text, mode="eval").body) == ast.dump(new)
    except (ValueError, SyntaxError, RecursionError):
        return None
    return text if same else None


def _written(node: ast.JoinedStr) -> str | None:
    """Write an f-string for every Python: up to 3.11 its expressions hold neither its quotes nor a backslash."""
    expressions: list[str] = []
    content = "".join(_content(part, expressions) for part in node.values)
    inside = "".join(expressions)
    quotes = [quote for quote in ("'", '"', "'''", '"""') if quote not in inside]
    return f"f{quotes[0]}{content}{quotes[0]}" if quotes and "\\" not in inside else None


def _content(part: ast.expr, expressions: list[str]) -> str:
    if isinstance(part, ast.FormattedValue):
        value = ast.unparse(part.value)
        expressions.append(value)
        conversion = f"!{chr(part.conversion)}" if part.conversion != -1 else ""
        spec = "".join(_content(inner, expressions) for inner in getattr(part.format_spec, "values", []))
        return f"{{{' ' * value.startswith('{')}{value}{conversion}{':' if part.format_spec else ''}{spec}}}"
    assert isinstance(part, ast.Constant)
    plain = repr('"' + str(part.value))[2:-1].replace('"', '\\"')
    return plain.replace("{", "{{").replace("}", "}}")


class _Swapping(ast.NodeTransformer):
    """Swaps the known texts in an f-string, those in its expressions included."""

    def __init__(self, known: Mapping[str, str], swap: Swap) -> None:
        self._known = known
        self._swap = swap
        self.swapped = False

    def visit(self, node: ast.AST) -> Any:
        """Replace the whole, or else look at the parts."""
        text = _folded(node, self._known)
        if text is None:
            return super().visit(node)
        new = self._swap(text)
        return self._constant(new) if new != text else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        """Take what is known side by side as one text; a brace on its edge stands for what is not."""
        groups = [(known, list(parts)) for known, parts in itertools.groupby(node.values, self._is_known)]
        node.values = []
        for position, (known, parts) in enumerate(groups):
            if not known:
                for part in parts:
                    self.generic_visit(part)
                node.values += parts
                continue
            before, after = "}" * (position > 0), "{" * (position < len(groups) - 1)
            text = before + "".join(_folded(part, self._known) or "" for part in parts) + after
            new = self._swap(text)
            inner = new[len(before) : len(new) - len(after)]
            node.values += [self._constant(inner)] if new != text else parts
        return node

    def visit_TemplateStr(self, node: ast.AST) -> ast.AST:
        """Leave it."""
        return node

    def _constant(self, text: str) -> ast.Constant:
        self.swapped = True
        return ast.Constant(text)

    def _is_known(self, part: ast.expr) -> bool:
        return _folded(part, self._known) is not None


def _folded(node: ast.AST, known: Mapping[str, str]) -> str | None:
    """Return the text of an expression of constants, or None."""
    parts: list[str | None] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):  # a long sum is a deep tree
        parts.append(_folded(node.right, known))
        if parts[-1] is None:
            return None
        node = node.left
    parts.append(_single(node, known))
    return _joined(parts[::-1])


def _single(node: ast.AST, known: Mapping[str, str]) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.JoinedStr):
        return _joined([_folded(part, known) for part in node.values])
    if isinstance(node, ast.FormattedValue) and node.conversion in {-1, ord("s")} and node.format_spec is None:
        return _folded(node.value, known)
    return None


def _joined(parts: list[str | None]) -> str | None:
    texts = [part for part in parts if part is not None]
    return "".join(texts) if len(texts) == len(parts) else None
