# SPDX-License-Identifier: Apache-2.0
"""Kernels and modules required by the notebooks of a plan, from their sources."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.errors import RunnerError
from runner.core.records import Check

if TYPE_CHECKING:
    from runner.plan.model import Notebook, Plan

_MAGICS = ("%", "!", "?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Notebooks by kernel and by imported module, and checks for those that could not be read."""

    kernels: dict[str, list[str]]
    modules: dict[str, list[str]]
    checks: tuple[Check, ...] = ()


def of_plan(plan: Plan | None, checkout: Path, kernel: str | None) -> Needs:
    """Read the notebooks of a plan; those missing from the checkout are reported."""
    if plan is None:
        return Needs(kernels={kernel or "python3": []}, modules={})
    kernels: defaultdict[str, list[str]] = defaultdict(list)
    modules: defaultdict[str, list[str]] = defaultdict(list)
    unread: list[tuple[Notebook, str]] = []
    for notebook in plan.notebooks:
        kernels[kernel or notebook.kernel or "python3"].append(notebook.name)
        try:
            found = imports_of(checkout / notebook.path, checkout / (notebook.cwd or Path(notebook.path).parent))
        except RunnerError as error:
            unread.append((notebook, error.message))
            continue
        for module in found:
            modules[module].append(notebook.name)
    return Needs(kernels=dict(kernels), modules=dict(modules), checks=_read_check(plan, checkout, unread))


def _read_check(plan: Plan, checkout: Path, unread: list[tuple[Notebook, str]]) -> tuple[Check, ...]:
    total = len(plan.notebooks)
    seen = f"{total - len(unread)} of {total} notebooks read from {checkout}"
    if not unread:
        return (Check(name="notebooks", status="pass", seen=seen),)
    reasons = "; ".join(reason for _, reason in unread[:3]) + ("; …" if len(unread) > 3 else "")
    hint = "their imports are not checked: clone the notebooks first, or give their folder with --checkout"
    return (Check(name="notebooks", status="warn", seen=f"{seen}: {reasons}", needed="all", hint=hint),)


def imports_of(notebook: Path, cwd: Path) -> set[str]:
    """Return the top-level modules that must be installed for a notebook.

    The standard library is excluded, and so are modules beside the notebook or in a folder there,
    because such notebooks extend ``sys.path`` themselves.

    Raises
    ------
    BrokenInputError
        The file is not a notebook.
    """
    from runner.core.notebook_document import code_cells, read_notebook

    names: set[str] = set()
    for cell in code_cells(read_notebook(notebook)):
        names |= _imports(cell.source)
    return {name for name in names if name not in sys.stdlib_module_names and not _beside(name, notebook.parent, cwd)}


def _imports(source: str) -> set[str]:
    """Return the modules of all import statements outside ``try``, ignoring lines with magics."""
    lines = ["" if line.lstrip().startswith(_MAGICS) else line for line in source.splitlines()]
    try:
        tree = ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found: set[str] = set()
    optional = {
        child for node in ast.walk(tree) if isinstance(node, ast.Try) for part in node.body for child in ast.walk(part)
    }
    for node in ast.walk(tree):
        if node in optional:
            continue  # the notebook can do without it
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _beside(name: str, *folders: Path) -> bool:
    return any(
        (place / f"{name}.py").is_file() or (place / name / "__init__.py").is_file()
        for folder in folders
        for place in (folder, *_subfolders(folder))
    )


def _subfolders(folder: Path) -> list[Path]:
    with suppress(OSError):
        return [part for part in folder.iterdir() if part.is_dir() and not part.name.startswith(".")][:200]
    return []
