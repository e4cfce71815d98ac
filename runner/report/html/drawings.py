# SPDX-License-Identifier: Apache-2.0
"""All charts of a report; one that cannot be drawn is reported as a problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from markupsafe import Markup

from runner.core.units import format_count
from runner.report.html.canvas import Canvas, Look
from runner.report.html.charts import notebook_chart
from runner.report.html.panels import scene_of
from runner.report.html.timeline import Legend, Row, legend_of, rows_of
from runner.report.html.timeline import draw as draw_timeline
from runner.report.sample_series import Pool, SamplesError, Seen, find_pools, read_samples, seen_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from runner.report.assemble import Report
    from runner.report.baseline import Change, Comparison

T = TypeVar("T")

_POINTS = 18_000
"""Time buckets of all charts together, so that a page of 500 notebooks stays usable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawings:
    """Trusted SVG, which templates do not escape."""

    picture: Markup
    rows: tuple[Row, ...]
    legend: Legend
    charts: Mapping[str, Markup] = field(default_factory=dict)
    """Charts of the notebooks with samples."""
    pools: Mapping[str, tuple[Pool, ...]] = field(default_factory=dict)
    """Memory pools found in samples, by notebook."""
    seen: Mapping[str, Seen] = field(default_factory=dict)
    """Figures from samples of notebooks without a record."""
    problems: tuple[str, ...] = ()


def draw(report: Report, folder: Path) -> Drawings:
    """Draw the timeline and the charts of all notebooks with samples."""
    problems: list[str] = []
    charts: dict[str, Markup] = {}
    pools: dict[str, tuple[Pool, ...]] = {}
    seen: dict[str, Seen] = {}
    rows = rows_of(report)
    buckets = max(60, min(300, _POINTS // max(1, len(report.entries))))
    picture = _guarded("the timeline", lambda: draw_timeline(rows), problems)
    for entry in report.entries:
        if "samples" not in entry.files:
            continue
        path = folder / entry.files["samples"]
        samples = _guarded(path.name, partial(read_samples, path), problems)
        if samples is None:
            continue
        if samples.left_out:
            problems.append(f"{path.name}: {format_count(samples.left_out, 'invalid line')} ignored")
        if entry.metrics is None:
            figures = _guarded(path.name, partial(seen_in, samples), problems)
            seen |= {entry.name: figures} if figures else {}
        chart = partial(notebook_chart, f"{entry.anchor}-chart", scene_of(entry), samples, buckets=buckets)
        charts[entry.name] = Markup(_guarded(path.name, chart, problems) or "")  # noqa: S704  (our own SVG)
        gpus = entry.metrics.gpus if entry.metrics else ()
        found = _guarded(path.name, partial(find_pools, gpus, samples), problems)
        if found:
            pools[entry.name] = found
    svg = Markup(picture or "")  # noqa: S704
    return Drawings(
        picture=svg, rows=rows, legend=legend_of(rows), charts=charts, pools=pools, seen=seen, problems=tuple(problems)
    )


def _guarded(what: str, make: Callable[[], T], problems: list[str]) -> T | None:
    """Return a result, or None after adding the error to the problems, which must not prevent the report."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001  (of any file in the folder and any library)
        problem = f"{what} cannot be drawn: {type(error).__name__}: {error}"
        if isinstance(error, SamplesError):
            problem = str(error)
        elif isinstance(error, ImportError):
            problem = f"charts are not drawn: {error}"
        if problem not in problems:
            problems.append(problem)
        return None


def trends(comparison: Comparison) -> dict[tuple[str, str], Markup]:
    """Draw a sparkline for each figure that changed, and for wall times unless there are too many."""
    few = len({change.notebook for change in comparison.changes}) <= 60
    drawn = [c for c in comparison.changes if c.worse or c.better or (few and c.figure == "wall_seconds")]
    return {(c.notebook, c.figure): Markup(_trend(f"trend-{n}", c)) for n, c in enumerate(drawn)}  # noqa: S704


def _trend(key: str, change: Change) -> str:
    """Return the SVG of a figure over its runs, oldest left; runs without the figure are gaps.

    The scale starts at zero, so that changes appear in proportion.
    """
    width, height, edge = 120.0, 28.0, 4.0
    known = [(place, value) for place, value in enumerate(change.values) if value is not None]
    top = max(value for _, value in known) or 1.0
    step = (width - 2 * edge) / max(1, len(change.values) - 1)
    points = [(edge + place * step, edge + value / top * (height - 2 * edge)) for place, value in known]
    canvas = Canvas(key, width, height)
    xs, ys = zip(*points, strict=True)
    canvas.line(xs, ys, Look(classes="trend", colour="#5c6773"), width=1.5)
    kind, colour = ("now bad", "#b3261e") if change.worse else ("now", "#17743a")
    canvas.dot(*points[-1], 2.5, Look(classes=kind, colour=colour, order=3))
    values = [f"{value:g}" if value is not None else "none" for value in change.values]
    title, about = f"{change.label} of {change.notebook} over its runs", f"oldest first: {', '.join(values)}"
    return canvas.svg(title=title, description=about)
