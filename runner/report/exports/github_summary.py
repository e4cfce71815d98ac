# SPDX-License-Identifier: Apache-2.0
"""`reports/github-summary.md`: the verdict and the table, for the summary of a GitHub job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runner.core.units import format_bytes, format_count, format_seconds
from runner.report.html.formatting import first_line, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.report.summary import NotebookSummary, Summary

LARGEST_BYTES = 900_000
"""GitHub drops a summary of more than 1 MiB."""
_ACTIVE = re.compile(r"[\\`*_{}\[\]<>#!|~@$&]|:(?=//)|(?<=www)\.")
_MOST_LINES = 100
_SIGNS = {True: "✅", False: "❌"}


def github_summary(summary: Summary) -> str:
    """Return Markdown in which names and messages are text and nothing else."""
    good = summary.counts.get("succeeded", 0)
    sign = _SIGNS[summary.verdict == "succeeded"]
    said = f"{good} of {format_count(len(summary.notebooks), 'notebook')} succeeded"
    lines = [
        f"## {sign} {text(summary.plan or 'Notebooks')}: {said}",
        "",
        "| Notebook | Status | Wall | GPU memory peak | Host peak | Why |",
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
        lines += ["", "### What failed", "", *failures]
    worse = [f"- {text(str(regression))}" for regression in summary.regressions[:50]]
    if worse:
        lines += ["", "### Worse than the baseline", "", *worse]
    left_out = [f"- {text(one.name)}: {text(one.reason)}" for one in summary.left_out[:50]]
    if left_out:
        lines += ["", "### Not chosen", "", *left_out]
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
    """Describe where a notebook failed, with its own line, the error and what to do."""
    where = f" in cell {nb.failed_cell + 1}" if nb.failed_cell is not None else ""
    yield f"- {text(nb.name)}{where}" + (f": {text(first_line(nb.failed_line))}" if nb.failed_line else "")
    yield f"  - {text(first_line(nb.error or nb.reason, 300))}"
    if nb.hint:
        yield f"  - hint: {text(first_line(nb.hint, 300))}"


def text(value: str) -> str:
    """Return one line in which no character of Markdown or HTML means anything.

    Entities and not backslashes: they also hold inside a table and keep links, mentions and
    bare addresses from coming alive.
    """
    line = " ".join(plain(value).split())
    return _ACTIVE.sub(lambda match: f"&#{ord(match.group())};", line)
