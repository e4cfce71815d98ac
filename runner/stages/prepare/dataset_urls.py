# SPDX-License-Identifier: Apache-2.0
"""Rewrite the URLs of staged datasets in a notebook to the mirror that serves them.

The notebook's download code then runs unchanged, because its handling of a download is part of the
analysis. A URL is searched in two ways:

- as text, which covers literals, f-strings, `!wget` lines and cells of another language;
- as the value of a constant expression (literals, concatenations and f-strings), since a URL may
  be built from parts.

If the URL is rewritten in the value of a name, uses of that name are kept.

Constants are literals and names that the whole notebook binds exactly once, to a constant text.
Only whole expressions are replaced. An f-string is one expression: before Python 3.12 its parts
have no positions. So an f-string that is constant in part is rewritten as a whole.
"""

from __future__ import annotations

import ast
import copy
import itertools
import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner.core.errors import BrokenInputError
from runner.stages.prepare.cell_source import edited, parse
from runner.stages.prepare.rules import change, nearest, running_cells, shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.records import Change
    from runner.stages.prepare.cell_source import CellSource

_ENDS = r"(?![\w\-/?&=%#~+@{]|[.:]\w)"
"""Lookahead after a URL: anything that would not continue it."""
_WORD_BEFORE = re.compile(r"(?:\\[nrtfv]|(?<![^\s\"'`<>()\[\],;|\\]))([^\s\"'`<>()\[\],;|\\]*+)\Z")
"""The word directly before a URL; an escape such as ``\\n`` is not part of it."""
_LONGER = re.compile(r"://|\?|[\w/&%#~+@.}]\Z")
"""A word that makes the URL after it part of another: `https://doi.org/`, `proxy?url=`, but not `--url=`."""
_LOOKED_BACK = 400
_MARK = f"dataset-{secrets.token_hex(16)}"
"""Placeholder for a URL during the search, so that rewritten text is not matched again."""
Swap = Callable[[str], str]
"""Return the text with replacements, or the same text."""

_TEMPLATES = getattr(ast, "TemplateStr", ())
"""t-strings (Python 3.14 and later) keep the source of their parts and are not rewritten."""


def apply(
    notebook: NotebookNode, replacements: Mapping[str, str], placed: Collection[str], name: str
) -> Iterator[Change]:
    """Replace each URL in every cell that runs and yield each change.

    Raises
    ------
    BrokenInputError
        A URL occurs in no cell, and its dataset has neither `place` nor `hook`.
    """
    # Longest first: one URL may be a prefix of another.
    for url in sorted(replacements, key=len, reverse=True):
        cells = running_cells(notebook)
        marked = [_mark_text(cell, url) for cell in cells]
        marked = [sum(times) for times in zip(marked, _mark_values(cells, url), strict=True)]
        if not any(marked) and url not in placed:
            _refuse(notebook, url, name)
        for cell, times in zip(cells, marked, strict=True):
            if times:
                local = replacements[url]
                cell.source = cell.source.replace(_MARK, local)
                yield change("dataset", f"{shown(url)} from the cache", cell, times=times, old=url, new=local)


def _mark_text(cell: NotebookNode, url: str) -> int:
    """Mark literal occurrences of the URL outside of comments."""
    source: str = cell.source
    if url not in source:
        return 0
    parsed = parse(source)
    comments = parsed.comments() if parsed else []
    spans = [tuple(len(_bytes(source[:place])) for place in span) for span in _places(source, url)]
    edits = [(start, end, _MARK) for start, end in spans if not any(a <= start < b for a, b in comments)]
    cell.source = edited(_bytes(source), edits)
    return len(edits)


def _mark_values(cells: list[NotebookNode], url: str) -> list[int]:
    """Mark the URL in the expressions whose value contains it; return their number per cell."""

    def swap(text: str) -> str:
        for start, end in reversed(_places(text, url)):
            text = text[:start] + _MARK + text[end:]
        return text

    sources = [parse(cell.source) for cell in cells]
    known = constants([source for source in sources if source], swap)
    found = []
    for cell, source in zip(cells, sources, strict=True):
        marks = list(edits(source, known, swap)) if source else []
        if source and marks:
            cell.source = edited(source.data, marks)
        found.append(len(marks))
    return found


def _places(text: str, url: str) -> list[tuple[int, int]]:
    """Return the spans of the URL, except as part of a longer one."""
    if url not in text:
        return []
    spans = (match.span() for match in re.finditer(re.escape(url) + _ENDS, text))
    return [(start, end) for start, end in spans if not _is_joined(text[max(0, start - _LOOKED_BACK) : start])]


def _is_joined(before: str) -> bool:
    word = _WORD_BEFORE.search(before)
    return word is not None and _LONGER.search(word.group(1)) is not None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _refuse(notebook: NotebookNode, url: str, name: str) -> None:
    near = nearest(url, [cell.source for cell in running_cells(notebook)])
    found = f"nearest text: {shown(near)}; " if near else ""
    raise BrokenInputError(
        f"notebook {name!r}, dataset {url!r}: no cell contains the URL, and the dataset has neither `place` nor `hook`",
        hint=f"{found}correct the URL, or set `place` to the path where a library looks for the file, "
        "or `hook: true` if a library builds the URL",
    )


def constants(sources: list[CellSource], swap: Swap) -> dict[str, str]:
    """Return the names that the whole notebook binds once, at top level and to a constant text.

    The texts are those after ``swap``: if a name's value is replaced, its uses need not be.
    """
    bound = Counter(name for source in sources for node in ast.walk(source.tree) for name in _bound(node))
    known: dict[str, str] = {}
    for source in sources:
        for statement in source.tree.body:
            target, value = _assigned(statement)
            text = folded(value, known) if value is not None and bound[target] == 1 else None
            if text is not None:
                known[target] = swap(text)
    return known


def edits(source: CellSource, known: Mapping[str, str], swap: Swap) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, new source) of each expression whose value ``swap`` changes."""
    for node in _outermost(source.tree, known):
        text = folded(node, known)
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
    """Yield the outermost expressions with a constant text, except plain names, and all f-strings."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        is_text = isinstance(node, ast.Constant | ast.BinOp) and folded(node, known) is not None
        if isinstance(node, ast.expr) and (is_text or isinstance(node, ast.JoinedStr)):
            yield node
        elif not isinstance(node, _TEMPLATES):
            waiting += ast.iter_child_nodes(node)


def _f_string(node: ast.expr, known: Mapping[str, str], swap: Swap) -> str | None:
    """Return the source of an f-string with its constant parts swapped, None if unchanged or not representable."""
    swapping = _Swapping(known, swap)
    try:
        new = swapping.visit(copy.deepcopy(node))
        text = _written(new) if swapping.swapped else None
        same = text is not None and ast.dump(ast.parse(text, mode="eval").body) == ast.dump(new)
    except (ValueError, SyntaxError, RecursionError):
        return None
    return text if same else None


def _written(node: ast.JoinedStr) -> str | None:
    """Write an f-string for all Python versions: up to 3.11 expressions allow neither its quotes nor backslashes."""
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
    """Swaps the constant texts in an f-string, including those in its expressions."""

    def __init__(self, known: Mapping[str, str], swap: Swap) -> None:
        self._known = known
        self._swap = swap
        self.swapped = False

    def visit(self, node: ast.AST) -> Any:
        """Replace the whole node if it is constant, else visit its parts."""
        text = folded(node, self._known)
        if text is None:
            return super().visit(node)
        new = self._swap(text)
        return self._constant(new) if new != text else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        """Treat adjacent constant parts as one text; a brace at its edge represents the other parts."""
        grouped = itertools.groupby(node.values, lambda part: folded(part, self._known) is not None)
        groups = [(known, list(parts)) for known, parts in grouped]
        node.values = []
        for position, (known, parts) in enumerate(groups):
            if not known:
                for part in parts:
                    self.generic_visit(part)
                node.values += parts
                continue
            before, after = "}" * (position > 0), "{" * (position < len(groups) - 1)
            text = before + "".join(folded(part, self._known) or "" for part in parts) + after
            new = self._swap(text)
            inner = new[len(before) : len(new) - len(after)]
            node.values += [self._constant(inner)] if new != text else parts
        return node

    def visit_TemplateStr(self, node: ast.AST) -> ast.AST:
        """Keep it."""
        return node

    def _constant(self, text: str) -> ast.Constant:
        self.swapped = True
        return ast.Constant(text)


def folded(node: ast.AST, known: Mapping[str, str]) -> str | None:
    """Return the text of a constant expression, None for others."""
    parts: list[str | None] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):  # a long sum is a deep tree
        parts.append(folded(node.right, known))
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
        return _joined([folded(part, known) for part in node.values])
    if isinstance(node, ast.FormattedValue) and node.conversion in {-1, ord("s")} and node.format_spec is None:
        return folded(node.value, known)
    return None


def _joined(parts: list[str | None]) -> str | None:
    texts = [part for part in parts if part is not None]
    return "".join(texts) if len(texts) == len(parts) else None
