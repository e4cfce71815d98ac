# SPDX-License-Identifier: Apache-2.0
"""Annotations of a GitHub job: each failure, at the line of the notebook file where its cell begins.

GitHub reads them from what a step prints, see its "Workflow commands". Ten a step are shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.endings import failure_lines
from runner.report.html.formatting import plain

if TYPE_CHECKING:
    from runner.core.records import Metrics
    from runner.report.assemble import Entry, Report

_MOST = 50
_LARGEST_BYTES = 100_000_000


def error_commands(report: Report, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each notebook that did not succeed, as GitHub reads them; none outside of GitHub.

    Parameters
    ----------
    environ
        Where ``GITHUB_ACTIONS`` and ``GITHUB_WORKSPACE`` may be.
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    workspace = Path(environ.get("GITHUB_WORKSPACE") or ".").resolve()
    folders = [Path(report.plan_source).parent] if report.plan_source else []
    failed = [entry for entry in report.entries if not entry.ok and entry.status.value != "running"]
    for entry in failed[:_MOST]:
        place = {"title": f"{entry.name}: {entry.status.value}"}
        if entry.metrics is not None:
            place |= _place(entry.metrics, [*folders, Path()], workspace)
        properties = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in place.items())
        yield f"::error {properties}::{_escaped(_message(entry), '')}"


def _message(entry: Entry) -> str:
    lines = failure_lines(entry.metrics) if entry.metrics is not None else ()
    return "\n".join(lines) or entry.reason


def _place(m: Metrics, folders: list[Path], workspace: Path) -> dict[str, str]:
    """Return file and line of the failing cell; nothing where the notebook does not lie in the workspace."""
    for folder in folders:
        path = (folder / m.source.path).resolve()
        if path.is_relative_to(workspace) and path.is_file():
            index = m.failure.cell_index if m.failure else None
            line = line_of_cell(path, index) if index is not None else None
            return {"file": path.relative_to(workspace).as_posix(), **({"line": str(line)} if line else {})}
    return {}


def line_of_cell(path: Path, index: int) -> int | None:
    """Return the line of a notebook file, from 1, on which the source of a code cell begins.

    Each source is searched for behind the one before, as JSON writes it; None where that finds nothing.

    Parameters
    ----------
    index
        Number of the code cell, from 0.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return None
        text = path.read_text(encoding="utf-8")
        codes = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        start = at = 0
        for source in codes[: index + 1]:
            pieces = source if isinstance(source, list) else source.splitlines(keepends=True)[:1]
            first = pieces[0] if pieces else ""
            # Without the quotes: a source that is one text goes on behind its first line.
            found = [text.find(json.dumps(first, ensure_ascii=escaped)[1:-1], at) for escaped in (True, False)]
            at = min(place for place in found if place >= 0)
            start, at = at, at + 1
        return text.count("\n", 0, start) + 1 if index < len(codes) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _escaped(value: str, more: str) -> str:
    """Return a text in which nothing ends the command or its property."""
    text = str(plain(value))[:4000]
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text
