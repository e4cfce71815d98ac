# SPDX-License-Identifier: Apache-2.0
"""Comparison of a run with earlier ones: regressions, improvements and trends.

Only successes are compared: a notebook that fails after a minute is not a fast one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core.records import Status
from runner.report.summary import NotebookSummary, Regression, Summary, read_summary
from runner.report.validation import check_figures, fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

FIGURES: Mapping[str, tuple[str, float]] = {
    "wall_seconds": ("wall time", 1.0),
    "peak_gpu_memory_bytes": ("GPU memory peak", 1e8),
    "peak_allocated_bytes": ("allocated GPU memory peak", 1e8),
    "peak_host_memory_bytes": ("host memory peak", 1e8),
    "gpu_energy_joules": ("GPU energy", 100.0),
    "output_bytes": ("output size", 1e6),
}
"""Label of each figure, and the absolute change below which it is noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure of one notebook in the baselines and in this run."""

    notebook: str
    figure: str
    label: str
    values: tuple[float | None, ...]
    """Oldest baseline first, this run last; None if it did not succeed or was not measured."""
    before: float
    now: float
    worse: bool
    better: bool

    @property
    def change_percent(self) -> float | None:
        """Change from the newest baseline with the figure."""
        return 100 * (self.now / self.before - 1) if self.before else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison of a run with earlier ones."""

    baselines: tuple[str, ...]
    """Names of the runs compared with, oldest first."""
    threshold: float
    changes: tuple[Change, ...]
    newly_failing: tuple[str, ...] = ()
    newly_succeeding: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[Regression, ...]:
        """The regressions for `summary.json`."""
        failing = [
            Regression(notebook=name, figure="status", before=1.0, now=0.0, ratio=0.0) for name in self.newly_failing
        ]
        worse = [
            Regression(
                notebook=c.notebook,
                figure=c.figure,
                before=c.before,
                now=c.now,
                ratio=c.now / c.before if c.before else None,
            )
            for c in self.changes
            if c.worse
        ]
        return (*failing, *worse)


def read_baseline(path: Path) -> Summary:
    """Return the summary of an earlier run: a `summary.json`, or a folder with one.

    Raises
    ------
    ValueError
        It does not exist or cannot be read.
    """
    places = [path / "reports" / "summary.json", path / "summary.json"] if path.is_dir() else [path]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        raise ValueError(f"baseline {path} has no summary.json; give an output folder with a report, or the file")
    try:
        summary = read_summary(place.read_bytes())
        check_figures(summary)
    except (OSError, ValueError) as error:
        raise ValueError(f"baseline {place} cannot be read: {fault(error)}") from error
    return summary


def compare(now: Summary, baselines: Sequence[Summary], *, threshold: float) -> Comparison:
    """Compare a run with earlier ones.

    Parameters
    ----------
    baselines
        Oldest first.
    threshold
        Relative increase of a figure that counts as a regression, such as 0.2.
    """
    before = [{nb.name: nb for nb in summary.notebooks} for summary in baselines]
    changes = [change for nb in now.notebooks for change in _changes(nb, before, threshold)]
    last = {nb.name: nb for earlier in before for nb in earlier.values()}
    return Comparison(
        baselines=tuple(_name(summary) for summary in baselines),
        threshold=threshold,
        changes=tuple(changes),
        newly_failing=tuple(nb.name for nb in now.notebooks if not nb.ok and nb.name in last and last[nb.name].ok),
        newly_succeeding=tuple(nb.name for nb in now.notebooks if nb.ok and nb.name in last and not last[nb.name].ok),
    )


def _changes(
    nb: NotebookSummary, before: Sequence[Mapping[str, NotebookSummary]], threshold: float
) -> Iterator[Change]:
    for figure, (label, noise) in FIGURES.items():
        values = [_figure(earlier.get(nb.name), figure) for earlier in before]
        known = [value for value in values if value is not None]
        now = _figure(nb, figure)
        if now is None or not known:
            continue
        newest = known[-1]
        yield Change(
            notebook=nb.name,
            figure=figure,
            label=label,
            values=(*values, now),
            before=newest,
            now=now,
            worse=now > newest * (1 + threshold) and now - newest >= noise,
            better=now < newest / (1 + threshold) and newest - now >= noise,
        )


def _figure(nb: NotebookSummary | None, figure: str) -> float | None:
    if nb is None or nb.status is not Status.SUCCEEDED:
        return None
    value = getattr(nb, figure)
    return None if value is None else float(value)


def _name(summary: Summary) -> str:
    day = (summary.started_at or summary.generated_at)[:16].replace("T", " ")
    return f"{day} ({summary.run_id})" if summary.run_id else day
