# SPDX-License-Identifier: Apache-2.0
"""Guess from its source which files a notebook reads and writes, and which modules it imports.

For a starter plan: calls with names that start like those of readers or writers, and constant paths.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.core.notebook_document import code_cells
from runner.stages.prepare.cell_source import parse
from runner.stages.prepare.dataset_urls import folded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nbformat import NotebookNode

_WRITES = re.compile(r"(to_|write|save|dump|urlretrieve$|wget)", re.IGNORECASE)
_READS = re.compile(r"(read|load|open_|imread|fromfile|genfromtxt|scan_)", re.IGNORECASE)
_FILE = re.compile(r"[^\s:*?<>|]{0,400}[^/\s:*?<>|]\.[A-Za-z][A-Za-z0-9]{0,15}")
"""A path with a suffix that is not a URL."""


@dataclass(frozen=True, slots=True)
class FileUses:
    """Files as spelled in the notebook, by their first use, and imported modules."""

    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    tries: set[str] = field(default_factory=set)
    """Modules imported only conditionally."""


def file_uses(notebook: NotebookNode) -> FileUses:
    """Return the files and modules that a notebook uses."""
    found = FileUses()
    known: dict[str, str] = {}
    for cell in code_cells(notebook):
        source = parse(cell.source)
        for statement in source.tree.body if source else ():
            calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call))
            for node in sorted(calls, key=lambda node: (node.end_lineno, node.end_col_offset)):
                for path, writes in _uses(node, known):
                    if path not in found.reads and path not in found.writes:
                        (found.writes if writes else found.reads).append(path)
            _note(statement, known, found)
    return found


def _note(statement: ast.stmt, known: dict[str, str], found: FileUses) -> None:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        path = _path(statement.value, known)
        if path is None:
            known.pop(statement.targets[0].id, None)
        else:
            known[statement.targets[0].id] = path
    for node in ast.walk(statement):
        modules = found.imports if node is statement else found.tries
        if isinstance(node, ast.Import):
            modules.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])


def _uses(call: ast.Call, known: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield each file of a call, and True if the call writes it."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    arguments = [*call.args[:2], *(one.value for one in call.keywords)]
    if isinstance(call.func, ast.Attribute):
        arguments.append(call.func.value)
    if name == "open":
        modes = [text for one in arguments if (text := folded(one, known)) and set(text) <= set("rwxab+t")]
        writes = bool(modes) and bool(set(modes[0]) & set("wxa"))
    elif _WRITES.match(name) or _READS.match(name):
        writes = _WRITES.match(name) is not None
    else:
        return
    for one in arguments:
        path = _path(one, known)
        if path is not None and _FILE.fullmatch(path):
            yield path, writes


def _path(node: ast.AST, known: Mapping[str, str]) -> str | None:
    """Return the path of an expression of constants, ``Path`` and ``join``, None if known only at run time."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts = [_path(node.left, known), _path(node.right, known)]
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in {"Path", "PurePath", "join"} or not node.args:
            return None
        parts = [_path(one, known) for one in node.args]
    else:
        return folded(node, known)
    texts = [part for part in parts if part is not None]
    return "/".join(texts) if len(texts) == len(parts) else None
