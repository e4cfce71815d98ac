# SPDX-License-Identifier: Apache-2.0
"""The timeline: one row a notebook, by stage, with waits, gates and needs.

Drawn to one scale, where a three-second run beside a three-hour one would vanish: so each bar is
at least as wide as a finger's mark and has its time written beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.records import Status
from runner.report.canvas import Canvas
from runner.report.charts import clock, time_step
from runner.report.summary import instant
from runner.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from runner.report.model import Entry, Report

WIDTH, LEFT, RIGHT, ROW, STAGE, FOOT = 960.0, 230.0, 150.0, 22.0, 22.0, 26.0
_INNER = WIDTH - LEFT - RIGHT
_THIN = 3.0
"""The narrowest bar, in pixels."""
_COLOURS = {"good": "#17743a", "bad": "#b3261e", "warn": "#8a5300", "odd": "#6b3fa0", "idle": "#5c6773"}
_CLASS = {
    Status.SUCCEEDED: "good",
    Status.SKIPPED: "idle",
    Status.NOT_RUN: "idle",
    Status.LOST: "odd",
    Status.TIMED_OUT: "warn",
    Status.TERMINATED: "warn",
    Status.UNEXPECTED_RESULTS: "warn",
    Status.NOT_RELEASED: "warn",
    Status.INCOMPLETE: "warn",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One notebook in time, in seconds since the first start; None where nothing ran."""

    entry: Entry
    start: float | None = None
    end: float | None = None
    gate_seconds: float = 0.0
    ready: float | None = None
    """When the last of what it needs had ended."""

    @property
    def waited_seconds(self) -> float | None:
        """How long it stood ready before it started: for a machine, a Pod, or its turn."""
        return None if self.start is None or self.ready is None else max(0.0, self.start - self.ready)


def rows_of(report: Report) -> tuple[Row, ...]:
    """Return the rows of the timeline, in the order of the report."""
    starts = [instant(entry.metrics.started_at) for entry in report.entries if entry.metrics]
    starts += [instant(entry.flight.started_at) for entry in report.entries if entry.flight]
    zero = min((start for start in starts if start is not None), default=0.0)
    spans = {entry.name: _span(entry, zero) for entry in report.entries}
    rows = []
    for entry in report.entries:
        start, end = spans[entry.name]
        ends = [spans[need][1] for need in entry.needs if need in spans]
        known = [moment for moment in ends if moment is not None]
        gate = entry.metrics.gate.waited_seconds if entry.metrics and entry.metrics.gate else 0.0
        ready = max(known) if known and len(known) == len(ends) else None
        rows.append(Row(entry=entry, start=start, end=end, gate_seconds=gate, ready=ready))
    return tuple(rows)


def _span(entry: Entry, zero: float) -> tuple[float | None, float | None]:
    if entry.metrics:
        start = instant(entry.metrics.started_at)
        return (None, None) if start is None else (start - zero, start - zero + entry.metrics.wall_seconds)
    start = instant(entry.flight.started_at) if entry.flight else None
    if start is None or not entry.flight:
        return None, None
    ran = entry.flight.last_sample.time_seconds if entry.flight.last_sample else 0.0
    return start - zero, start - zero + ran


def draw(rows: Sequence[Row]) -> str:
    """Return the SVG of the timeline; empty when nothing ran."""
    ends = [row.end for row in rows if row.end is not None]
    if not ends:
        return ""
    end = max(*ends, 1e-3)
    stages = _stages(rows)
    height = FOOT + 6 + ROW * len(rows) + STAGE * sum(stage is not None for stage, _ in stages)
    canvas = Canvas("timeline", WIDTH, height)
    axes = canvas.axes(LEFT, FOOT, _INNER, height - FOOT)
    axes.set_xlim(0, end)
    axes.set_ylim(height - FOOT, 0)
    _grid(canvas, axes, end, height - FOOT)
    place, places = 6.0, {}
    for stage, members in stages:
        if stage is not None:
            canvas.text(
                axes,
                -LEFT / _INNER * end,
                place + STAGE * 0.55,
                stage[:60],
                "label",
                va="center",
                ha="left",
                weight="bold",
            )
            place += STAGE
        for row in members:
            places[row.entry.name] = place + ROW / 2
            place += ROW
    for row in rows:
        _needs(canvas, axes, row, rows, places)
    for row in rows:
        _bar(canvas, axes, row, places[row.entry.name], end)
    return canvas.svg(title="Timeline of the notebooks", description=_describe(rows, end))


def _stages(rows: Sequence[Row]) -> list[tuple[str | None, list[Row]]]:
    """Return the rows by stage in order of appearance; a plan without stages is one nameless stage."""
    stages: dict[str | None, list[Row]] = {}
    for row in rows:
        stages.setdefault(row.entry.stage, []).append(row)
    if set(stages) == {None}:
        return [(None, list(rows))]
    return [(stage or "no stage", members) for stage, members in stages.items()]


def _grid(canvas: Canvas, axes: Axes, end: float, bottom: float) -> None:
    step = time_step(end)
    for count in range(int(end / step) + 1):
        at = count * step
        canvas.mark(axes.axvline(at, color="#d5dbe3", linewidth=0.7), "grid")
        canvas.text(axes, at, bottom + 6, clock(at), "soft", ha="center", va="top", size=10)


def _bar(canvas: Canvas, axes: Axes, row: Row, y: float, end: float) -> None:
    """Draw name, wait, gate and run of one row, and write its time and, if not fine, its status."""
    entry, pixel = row.entry, end / _INNER
    name = entry.name if len(entry.name) <= 34 else f"{entry.name[:33]}…"
    canvas.text(axes, -8 * pixel, y, name, "name", ha="right", va="center")
    if row.start is None or row.end is None:
        canvas.text(
            axes, 6 * pixel, y, entry.status.value, _CLASS.get(entry.status, "bad"), ha="left", va="center", size=10
        )
        return
    if row.waited_seconds and row.ready is not None:
        (line,) = axes.plot([row.ready, row.start], [y, y], color="#5c6773", linewidth=1.2, linestyle=(0, (1, 3)))
        canvas.mark(
            line, "wait", title=f"{entry.name}: ready, waited {format_seconds(row.waited_seconds)} for its turn"
        )
    gate = min(row.gate_seconds, row.end - row.start)
    if gate / pixel >= 1:
        bar = axes.barh(y, gate, left=row.start, height=ROW * 0.32, color="#d9a441", linewidth=0)[0]
        canvas.mark(bar, "gate", title=f"{entry.name}: waited {format_seconds(gate)} at the gate")
    kind = _CLASS.get(entry.status, "bad")
    start = row.start + (gate if gate / pixel >= 1 else 0)
    length = max(row.end - start, _THIN * pixel)
    bar = axes.barh(y, length, left=start, height=ROW * 0.6, color=_COLOURS[kind], linewidth=0)[0]
    wall = format_seconds(row.end - row.start)
    canvas.mark(bar, f"run {kind}", title=f"{entry.name}: {entry.status.value}, {wall}, from {clock(round(row.start))}")
    text = wall if entry.status is Status.SUCCEEDED else f"{wall} {entry.status.value}"
    canvas.text(
        axes, start + length + 6 * pixel, y, text, "soft" if entry.ok else kind, ha="left", va="center", size=10
    )


def _needs(canvas: Canvas, axes: Axes, row: Row, rows: Sequence[Row], places: dict[str, float]) -> None:
    """Draw an elbow from the end of each notebook that is needed to where this one starts."""
    ends = {other.entry.name: other.end for other in rows}
    for need in row.entry.needs:
        begun = ends.get(need)
        if begun is None or need not in places:
            continue
        y, target = places[row.entry.name], row.start if row.ready is None or row.start is None else row.ready
        path = [(begun, places[need] + ROW * 0.3), (begun, y), (target if target is not None else begun, y)]
        (line,) = axes.plot([x for x, _ in path], [y for _, y in path], color="#8b97a6", linewidth=1)
        canvas.mark(line, "need", title=f"{row.entry.name} needs {need}")


def _describe(rows: Sequence[Row], end: float) -> str:
    ran = sum(row.start is not None for row in rows)
    return f"{ran} of {len(rows)} notebooks within {format_seconds(end)}; the table below has every start and wait."
