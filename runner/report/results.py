# SPDX-License-Identifier: Apache-2.0
"""Results of notebooks: recorded values as tables, and outputs compared with a baseline.

There is one table per notebook file with a row for each of its runs, so that a sweep is one table over its parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.core.records import Metrics
    from runner.report.assemble import Entry, Report

_MOST_COLUMNS = 12
"""Limit for results and for parameters; `summary.json` has all."""
_MOST_READ_BYTES = 400_000_000
_Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Parameters and results of a notebook in the order of the table's columns."""

    entry: Entry
    parameters: tuple[Any, ...]
    values: tuple[_Scalar | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Recorded results of the runs of one notebook file."""

    source: str
    shared: tuple[tuple[str, Any], ...]
    """Parameters with the same value in all runs."""
    parameters: tuple[str, ...]
    names: tuple[str, ...]
    left_out: int
    """Number of omitted columns."""
    rows: tuple[Row, ...]


def results(report: Report) -> tuple[Results, ...]:
    """Return a table for each notebook file with recorded results."""
    groups: dict[str, list[tuple[Entry, Metrics]]] = {}
    for entry in report.entries:
        if entry.metrics and entry.metrics.recorded:
            groups.setdefault(entry.metrics.source.path, []).append((entry, entry.metrics))
    return tuple(_table(source, runs) for source, runs in groups.items())


def _table(source: str, runs: list[tuple[Entry, Metrics]]) -> Results:
    parameters = _names(m.environment.parameters for _, m in runs)
    differ = [name for name in parameters if len({repr(m.environment.parameters.get(name)) for _, m in runs}) > 1]
    names = _names(m.recorded for _, m in runs)
    shown, columns = names[:_MOST_COLUMNS], differ[:_MOST_COLUMNS]
    return Results(
        source=source,
        shared=tuple((name, runs[0][1].environment.parameters[name]) for name in parameters if name not in differ),
        parameters=tuple(columns),
        names=tuple(shown),
        left_out=len(names) - len(shown) + len(differ) - len(columns),
        rows=tuple(
            Row(
                entry=entry,
                parameters=tuple(m.environment.parameters.get(name) for name in columns),
                values=tuple(m.recorded.get(name) for name in shown),
            )
            for entry, m in runs
        ),
    )


def _names(mappings: Iterable[dict[str, Any]]) -> list[str]:
    """Return the distinct keys in order of appearance."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def compare_results(report: Report, folder: Path, baselines: Sequence[Path]) -> dict[str, Any] | None:
    """Return the values for `partials/verdicts.html`; None if the newest baseline has none of the notebooks."""
    if not baselines:
        return None
    from runner.compare.notebooks import compare_notebooks  # imports numpy
    from runner.compare.page import view
    from runner.compare.verdict import FileComparison, Tolerance

    place = baselines[-1] if baselines[-1].is_dir() else baselines[-1].parent
    before = place.parent if place.name == "reports" else place
    found, room = [], _MOST_READ_BYTES
    for entry in report.entries:
        new, old = folder / entry.files.get("notebook", ""), before / f"{entry.name}.executed.ipynb"
        if "notebook" not in entry.files or not old.is_file() or old.samefile(new):
            continue
        room -= new.stat().st_size + old.stat().st_size
        if room > 0:
            found.append(FileComparison(path=entry.name, verdicts=tuple(compare_notebooks(old, new, Tolerance()))))
    return view(tuple(found)) if found else None
