# SPDX-License-Identifier: Apache-2.0
"""Summary and annotations of a GitHub job.

`reports/github-summary.md` has the verdict and the table. Annotations mark each failure at the line of the notebook
file where its cell begins; GitHub reads them from the output of a step, see its "Workflow commands", and shows ten per
step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.endings import failure_lines
from runner.core.units import format_bytes, format_count, format_seconds
from runner.report.html.formatting import first_line, plain

if TYPE_CHECKING:
    from runner.core.records import Metrics
    from runner.report.assemble import Report
    from runner.report.summary import NotebookSummary, Summary

LARGEST_BYTES = 900_000
"""GitHub drops a summary of more than 1 MiB."""
_ACTIVE = re.compile(r"[\\`*_{}\[\]<>#!|~@$&]|:(?=//)|(?<=www)\.")
_MOST_LINES = 100
_MOST_ANNOTATIONS = 50
_LARGEST_NOTEBOOK_BYTES = 100_000_000
_SIGNS = {True: "✅", False: "❌"}


def github_summary(summary: Summary) -> str:
    """Return the summary as Markdown, with names and messages escaped."""
    good = summary.counts.get("succeeded", 0)
    sign = _SIGNS[summary.verdict == "succeeded"]
    result = f"{good} of {format_count(len(summary.notebooks), 'notebook')} succeeded"
    lines = [
        f"## {sign} {text(summary.plan or 'Notebooks')}: {result}",
        "",
        "| Notebook | Status | Wall | GPU memory peak | Host peak | Reason |",
        "|---|---|--:|--:|--:|---|",
    ]
    size = sum(len(line.encode()) for line in lines)
    for position, nb in enumerate(summary.notebooks):
        line = _row(nb)
        size += len(line.encode()) + 1
        if size > LARGEST_BYTES:
            left = len(summary.notebooks) - position
            lines.append(f"| {left} more | | | | | see the report |")
            break
        lines.append(line)
    failures = [line for nb in summary.notebooks if not nb.ok and nb.error for line in _failure(nb)][:_MOST_LINES]
    if failures:
        lines += ["", "### Failures", "", *failures]
    worse = [f"- {text(str(regression))}" for regression in summary.regressions[:50]]
    if worse:
        lines += ["", "### Worse than the baseline", "", *worse]
    left_out = [f"- {text(one.name)}: {text(one.reason)}" for one in summary.left_out[:50]]
    if left_out:
        lines += ["", "### Not selected", "", *left_out]
    problems = [f"- {text(first_line(problem, 300))}" for problem in summary.problems[:20]]
    if problems:
        lines += ["", "### Problems of the report", "", *problems]
    return "\n".join(lines) + "\n"


def _row(nb: NotebookSummary) -> str:
    cells = [
        text(nb.name),
        f"{_SIGNS[nb.ok]} {nb.status.value}",
        format_seconds(nb.wall_seconds) if nb.wall_seconds is not None else "-",
        format_bytes(nb.peak_gpu_memory_bytes) if nb.peak_gpu_memory_bytes is not None else "-",
        format_bytes(nb.peak_host_memory_bytes) if nb.peak_host_memory_bytes is not None else "-",
        "" if nb.ok and nb.status.value == "succeeded" else text(first_line(nb.reason)),
    ]
    return f"| {' | '.join(cells)} |"


def _failure(nb: NotebookSummary) -> Iterator[str]:
    """Yield cell and line, error and hint of a failed notebook."""
    where = f" in cell {nb.failed_cell + 1}" if nb.failed_cell is not None else ""
    yield f"- {text(nb.name)}{where}" + (f": {text(first_line(nb.failed_line))}" if nb.failed_line else "")
    yield f"  - {text(first_line(nb.error or nb.reason, 300))}"
    if nb.hint:
        yield f"  - hint: {text(first_line(nb.hint, 300))}"


def text(value: str) -> str:
    """Return a text on one line with Markdown and HTML escaped.

    Entities, unlike backslashes, also work in tables and prevent links, mentions and bare URLs.
    """
    line = " ".join(plain(value).split())
    return _ACTIVE.sub(lambda match: f"&#{ord(match.group())};", line)


def error_commands(report: Report, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a workflow command for each failed notebook; none outside GitHub Actions.

    Parameters
    ----------
    environ
        Environment with ``GITHUB_ACTIONS`` and ``GITHUB_WORKSPACE``.
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    workspace = Path(environ.get("GITHUB_WORKSPACE") or ".").resolve()
    folders = [Path(report.plan_source).parent] if report.plan_source else []
    failed = [entry for entry in report.entries if not entry.ok and entry.status.value != "running"]
    for entry in failed[:_MOST_ANNOTATIONS]:
        place = {"title": f"{entry.name}: {entry.status.value}"}
        message = entry.reason
        if entry.metrics is not None:
            place |= _place(entry.metrics, [*folders, Path()], workspace)
            message = "\n".join(failure_lines(entry.metrics)) or message
        properties = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in place.items())
        yield f"::error {properties}::{_escaped(message, '')}"


def _place(m: Metrics, folders: list[Path], workspace: Path) -> dict[str, str]:
    """Return file and line of the failed cell; empty if the notebook is not in the workspace."""
    for folder in folders:
        path = (folder / m.source.path).resolve()
        if path.is_relative_to(workspace) and path.is_file():
            index = m.failure.cell_index if m.failure else None
            line = line_of_cell(path, index) if index is not None else None
            return {"file": path.relative_to(workspace).as_posix(), **({"line": str(line)} if line else {})}
    return {}


def line_of_cell(path: Path, index: int) -> int | None:
    """Return the line of a notebook file, from 1, on which the source of a code cell begins.

    Each source is searched for in its JSON form after the previous one; None if it is not found.

    Parameters
    ----------
    index
        Index of the code cell, from 0.
    """
    try:
        if path.stat().st_size > _LARGEST_NOTEBOOK_BYTES:
            return None
        text = path.read_text(encoding="utf-8")
        codes = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        start = at = 0
        for source in codes[: index + 1]:
            pieces = source if isinstance(source, list) else source.splitlines(keepends=True)[:1]
            first = pieces[0] if pieces else ""
            # Without the quotes, as a source that is one string continues after its first line.
            found = [text.find(json.dumps(first, ensure_ascii=escaped)[1:-1], at) for escaped in (True, False)]
            at = min(place for place in found if place >= 0)
            start, at = at, at + 1
        return text.count("\n", 0, start) + 1 if index < len(codes) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _escaped(value: str, more: str) -> str:
    """Escape characters that would end the command or its property."""
    text = str(plain(value))[:4000]
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text
