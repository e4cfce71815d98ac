# SPDX-License-Identifier: Apache-2.0
"""Parse the source of a cell, which is Python plus IPython's magics.

Magics (`%time`, `!ls`, `x?`) do not parse. They are blanked line by line, and only if the parser
rejects them, so all other lines stay in place and positions in the tree are positions in the
source. IPython's transformer would move lines, and takes longer to import than a notebook takes to
prepare. libcst keeps positions, but is slow: measured on 149 cells, it takes 13 times as long as
`ast`, with byte positions 33 times, with scopes 168 times, its import takes a second, and magics
would still have to be blanked.
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
"""Leading cell magics that run their body as Python in the notebook's namespace."""
_MAGIC_LINE = re.compile(rb"\s*+(?:%(?!%)|!|\?)|.*\?\s*$|[\w.,\s\[\]'\"]++=\s*+[%!]")
_LOADS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}
"""Instructions that look up a name in the module's namespace."""
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n|$)")


@dataclass(frozen=True, slots=True)
class CellSource:
    """A cell's text, syntax tree and the byte offset of each line.

    ``plain`` is the parsed text: the source line by line, with magics blanked.
    """

    data: bytes
    tree: ast.Module
    line_starts: tuple[int, ...]
    plain: bytes

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return start and end of a node in ``data``; ``ast`` counts columns in UTF-8 bytes."""
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
        """Return True if magics were blanked."""
        return self.plain != self.data

    def comments(self) -> list[tuple[int, int]]:
        """Return start and end of each comment in ``data``."""
        spans = []
        for token in tokenize.generate_tokens(io.StringIO(self.plain.decode(), newline="").readline):
            if token.type == tokenize.COMMENT:
                start = self.line_starts[token.start[0] - 1] + len(token.line[: token.start[1]].encode())
                spans.append((start, start + len(token.string.encode())))
        return spans


@functools.lru_cache(maxsize=256)
def parse(source: str) -> CellSource | None:
    """Return the parsed cell, None if it is another language or has a syntax error.

    Cached, because each step of preparation parses the cells again.
    """
    try:
        data = source.encode()
    except UnicodeEncodeError:
        return None  # a lone surrogate: valid in JSON, not in a Python file
    lines = [match.group() for match in _LINE.finditer(data)]
    header = _PYTHON_CELL_MAGICS.match(data)
    for number, line in enumerate(_LINE.finditer(data[: header.end()] if header else b"")):
        lines[number] = b"\n" if line.group() else lines[number]
    if data[header.end() if header else 0 :].lstrip().startswith(b"%%"):
        return None  # the body is another language or runs in another namespace
    tree = _tree(lines)
    if tree is None:
        return None
    return CellSource(data, tree, (0, *(match.end() for match in _LINE.finditer(data))), b"".join(lines))


def reads_global(tree: ast.Module | ast.expr, name: str) -> bool:
    """Return True if code reads a name from the namespace it runs in, not only local names.

    Determined from the bytecode, whose instructions state the scope. ``n += 1`` reads ``n``; a local of a function,
    lambda or comprehension is a different variable. Return True if the code cannot be compiled.
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
            # A class body reads the global until it binds the name itself; comprehensions in it always do.
            is_bound |= step.argval == name and step.opname == "STORE_NAME" and not is_outermost
        is_outermost = False
    return False


def edited(data: bytes, edits: list[tuple[int, int, str]]) -> str:
    """Return the text with each (start, end, new) applied; the spans do not overlap."""
    for start, end, new in sorted(edits, reverse=True):
        data = data[:start] + new.encode("utf-8", "backslashreplace") + data[end:]
    return data.decode("utf-8", "surrogatepass")


def _tree(lines: list[bytes]) -> ast.Module | None:
    """Parse ``lines``, blanking each magic that the parser rejects."""
    for _attempt in range(len(lines) + 1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes are the notebook's concern
                return ast.parse(b"".join(lines).decode())
        except SyntaxError as error:
            if not _blank(lines, error.lineno):
                return None
        except (ValueError, RecursionError, MemoryError):
            return None
    return None


def _blank(lines: list[bytes], lineno: int | None) -> bool:
    """Blank the magic on the line of a syntax error, else all lines that look like magics."""
    at = (lineno or 0) - 1
    suspects = [at] if 0 <= at < len(lines) and _MAGIC_LINE.match(lines[at]) else range(len(lines))
    blanked = False
    for number in suspects:
        line = lines[number]
        if _MAGIC_LINE.match(line):
            indent = line[: len(line) - len(line.lstrip())].rstrip(b"\r\n")
            lines[number] = indent + b"pass" + line[len(line.rstrip(b"\r\n")) :]
            blanked = True
            for below in range(number + 1, len(lines)):  # a backslash continues the magic
                if not line.rstrip().endswith(b"\\"):
                    break
                line = lines[below]
                lines[below] = line[len(line.rstrip(b"\r\n")) :]
    return blanked
