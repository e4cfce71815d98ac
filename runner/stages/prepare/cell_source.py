# SPDX-License-Identifier: Apache-2.0
"""The source of one cell as Python, although a notebook cell is not quite Python.

Magics (`%time`, `!ls`, `x?`) do not parse. They are blanked line by line, and only where the
parser itself stumbles over them, so that every other line keeps its place and positions found
in the tree are positions in the source. IPython's own transformer would move them, and takes
longer to import than a notebook takes to prepare. So does libcst, which would also keep positions:
measured on 149 cells against `ast`, it parses 13 times as long, with byte positions 33 times, with
scopes 168 times, its import alone costs a second, and magics would have to be blanked all the same.
"""

from __future__ import annotations

import ast
import dis
import functools
import io
import re
import tokenize
import warnings
from dataclasses import dataclass
from types import CodeType

_PYTHON_CELL_MAGICS = re.compile(rb"(?:\s*%%(?:time|capture|prun|debug)\b[^\r\n]*(?:\r\n|\r|\n|$))*")
"""Cell magics at the top that run their body as Python in the notebook's own namespace."""
_MAGIC_LINE = re.compile(rb"\s*+(?:%(?!%)|!|\?)|.*\?\s*$|[\w.,\s\[\]'\"]++=\s*+[%!]")
_LOADS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
"""Instructions that look a name up in the namespace of the module."""
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|$)")


@dataclass(frozen=True, slots=True)
class CellSource:
    """A cell's text, its tree, and where each of its lines starts, in bytes.

    ``plain`` is the text that was parsed: line for line the source, with magics blanked.
    """

    data: bytes
    tree: ast.Module
    line_starts: tuple[int, ...]
    plain: bytes

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return where a node starts and ends in ``data``; ``ast`` counts columns in UTF-8 bytes."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.line_starts[node.lineno - 1] + node.col_offset
        return start, self.line_starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> str:
        """Return the source of a node."""
        start, end = self.span(node)
        return self.data[start:end].decode()

    @property
    def has_magics(self) -> bool:
        """Return True if there is more in the cell than its tree shows."""
        return self.plain != self.data

    def comments(self) -> list[tuple[int, int]]:
        """Return where the comments are in ``data``."""
        spans = []
        for token in tokenize.generate_tokens(io.StringIO(self.plain.decode(), newline="").readline):
            if token.type == tokenize.COMMENT:
                start = self.line_starts[token.start[0] - 1] + len(token.line[: token.start[1]].encode())
                spans.append((start, start + len(token.string.encode())))
        return spans


@functools.lru_cache(maxsize=256)
def parse(source: str) -> CellSource | None:
    """Return the cell as Python, or None when it is not: another language, or a syntax error.

    Each step of preparation asks again; cells that did not change meanwhile are remembered.
    """
    try:
        data = source.encode()
    except UnicodeEncodeError:
        return None  # a lone surrogate: JSON can hold it, a Python file cannot
    lines = [match.group() for match in _LINE.finditer(data)]
    header = _PYTHON_CELL_MAGICS.match(data)
    for number, line in enumerate(_LINE.finditer(data[: header.end()] if header else b"")):
        lines[number] = b"\n" if line.group() else lines[number]
    if data[header.end() if header else 0 :].lstrip().startswith(b"%%"):
        return None  # the body belongs to another language, or to another namespace
    tree = _tree(lines)
    if tree is None:
        return None
    return CellSource(data, tree, (0, *(match.end() for match in _LINE.finditer(data))), b"".join(lines))


def reads_global(tree: ast.Module | ast.expr, name: str) -> bool:
    """Return True if code reads a name of the namespace that it runs in, and not only names of its own.

    The compiler decides: its instructions name the scope. ``n += 1`` reads ``n``; what a function, a lambda or a
    comprehension binds for itself is another name. Where the code cannot be compiled, the answer is True.
    """
    try:
        whole = tree if isinstance(tree, ast.Module) else ast.Expression(tree)
        mode = "exec" if whole is tree else "eval"
        waiting = [compile(whole, "<cell>", mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    is_outermost = True
    while waiting:
        code = waiting.pop()
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        is_bound = False
        for step in dis.get_instructions(code):
            if step.argval == name and step.opname in _LOADS and not (is_bound and step.opname == "LOAD_NAME"):
                return True
            # A class reads the notebook's name until it has bound its own; a comprehension in it always does.
            is_bound |= step.argval == name and step.opname == "STORE_NAME" and not is_outermost
        is_outermost = False
    return False


def edited(data: bytes, edits: list[tuple[int, int, str]]) -> str:
    """Return the text with each (start, end, new) put in; the spans do not overlap."""
    for start, end, new in sorted(edits, reverse=True):
        data = data[:start] + new.encode("utf-8", "backslashreplace") + data[end:]
    return data.decode("utf-8", "surrogatepass")


def _tree(lines: list[bytes]) -> ast.Module | None:
    """Parse, blanking one magic line after the other in ``lines`` as the parser meets them."""
    for _attempt in range(len(lines) + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes are the notebook's business
                return _compiled(b"".join(lines))
        except SyntaxError as error:
            if not _blank(lines, error.lineno):
                return None
        except (ValueError, RecursionError, MemoryError):
            return None
    return None


def _compiled(data: bytes) -> ast.Module:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(data.decode(), "<cell>", "exec", flags, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    return tree


def _blank(lines: list[bytes], lineno: int | None) -> bool:
    """Blank the magic in the line of a syntax error, else all lines that look like magics."""
    at = (lineno or 0) - 1
    suspects = [at] if 0 <= at < len(lines) and _MAGIC_LINE.match(lines[at]) else range(len(lines))
    blanked = False
    for number in suspects:
        line = lines[number]
        if _MAGIC_LINE.match(line):
            indent = line[: len(line) - len(line.lstrip())].rstrip(b"\r\n")
            lines[number] = indent + b"pass" + line[len(line.rstrip(b"\r\n")) :]
            _blank_continuation(lines, number, line)
            blanked = True
    return blanked


def _blank_continuation(lines: list[bytes], number: int, line: bytes) -> None:
    """Blank the lines that a backslash joins to a magic."""
    while line.rstrip().endswith(b"\\") and number + 1 < len(lines):
        number += 1
        line = lines[number]
        lines[number] = line[len(line.rstrip(b"\r\n")) :]
