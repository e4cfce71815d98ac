# SPDX-License-Identifier: Apache-2.0
"""The timeline: one row per notebook, grouped by stage, with waits, gates and needs.

On a common scale a three-second run would vanish next to a three-hour one, so bars have a minimum width and their
duration is written next to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from runner.core.records import Status
from runner.core.units import format_count, format_seconds, instant
from runner.report.html.canvas import Canvas, Look
from runner.report.html.charts import clock, time_step

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from runner.report.assemble import Entry, Report

WIDTH, RIGHT, ROW, STAGE, HEAD, FOOT = 960.0, 150.0, 22.0, 22.0, 6.0, 26.0
_LONGEST_NAME, _LETTER = 34, 6.9
"""Characters shown of a name, and the width of one in pixels."""
_TALL = 12
"""With more rows than this the time axis is repeated at the top."""
_THIN = 3.0
"""Minimum width of a bar in pixels."""
_COLOURS = {"good": "#17743a", "bad": "#b3261e", "warn": "#8a5300", "odd": "#6b3fa0", "idle": "#5c6773"}
_CLASS = {
    Status.SUCCEEDED: "good",
    Status.SKIPPED: "idle",
    Status.NOT_RUN: "idle",
    Status.RUNNING: "idle",
    Status.HELD: "warn",
    Status.LOST: "odd",
    Status.TIMED_OUT: "warn",
    Status.TERMINATED: "warn",
    Status.UNEXPECTED_RESULTS: "warn",
    Status.NOT_RELEASED: "warn",
    Status.INCOMPLETE: "warn",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Times of one notebook in seconds since the first start; None if it did not run."""

    entry: Entry
    start: float | None = None
    end: float | None = None
    gate_seconds: float = 0.0
    ready: float | None = None
    """End of the last notebook that it needs."""

    @property
    def waited_seconds(self) -> float | None:
        """Time between being ready and its start: waiting for a machine, a Pod, or its turn."""
        return None if self.start is None or self.ready is None else max(0.0, self.start - self.ready)


def rows_of(report: Report) -> tuple[Row, ...]:
    """Return the rows of the timeline, in the order of the report."""
    starts = [instant(e.metrics.started_at) for e in report.entries if e.metrics and not e.metrics.reused_from]
    starts += [instant(entry.flight.started_at) for entry in report.entries if entry.flight]
    zero = min((start for start in starts if start is not None), default=0.0)
    spans = {entry.name: _span(entry, zero) for entry in report.entries}
    reused = {entry.name for entry in report.entries if entry.metrics and entry.metrics.reused_from}
    rows = []
    for entry in report.entries:
        start, end = spans[entry.name]
        ends = [spans[need][1] for need in entry.needs if need in spans and need not in reused]
        known = [moment for moment in ends if moment is not None]
        gate = entry.metrics.gate.waited_seconds if entry.metrics and entry.metrics.gate else 0.0
        ready = max(known) if known and len(known) == len(ends) else None
        rows.append(Row(entry=entry, start=start, end=end, gate_seconds=gate, ready=ready))
    return tuple(rows)


def _span(entry: Entry, zero: float) -> tuple[float | None, float | None]:
    if entry.metrics and entry.metrics.reused_from:
        return None, None  # it did not run in this run
    if entry.metrics:
        start = instant(entry.metrics.started_at)
        return (None, None) if start is None else (start - zero, start - zero + entry.metrics.wall_seconds)
    start = instant(entry.flight.started_at) if entry.flight else None
    if start is None or not entry.flight:
        return None, None
    ran = entry.flight.last_sample.time_seconds if entry.flight.last_sample else 0.0
    return start - zero, start - zero + ran


def draw(rows: Sequence[Row]) -> str:
    """Return the SVG of the timeline; empty if nothing ran."""
    ends = [row.end for row in rows if row.end is not None]
    if not ends:
        return ""
    end = max(*ends, 1e-3)
    stages = _stages(rows)
    left = 20 + _LETTER * min(_LONGEST_NAME, max(len(row.entry.name) for row in rows))
    head = FOOT if len(rows) > _TALL else HEAD
    height = head + FOOT + ROW * len(rows) + STAGE * sum(stage is not None for stage, _ in stages)
    sheet = _Sheet(canvas=Canvas("timeline-chart", WIDTH, height), left=left, pixel=end / (WIDTH - left - RIGHT))
    _grid(sheet, end, top=height - head, twice=len(rows) > _TALL)
    place = height - head
    for stage, members in stages:
        if stage is not None:
            sheet.canvas.text(0, place - STAGE * 0.55, stage[:60], "label", va="center", bold=True)
            place -= STAGE
        for row in members:
            sheet.places[row.entry.name] = place - ROW / 2
            place -= ROW
    done = {row.entry.name: row.end for row in rows}
    shown = direct_needs({row.entry.name: row.entry.needs for row in rows})
    for row in rows:
        _needs(sheet, row, shown[row.entry.name], done)
        _bar(sheet, row)
    return sheet.canvas.svg(title="Timeline of the notebooks", description=_describe(rows, end))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """Canvas and scale of the timeline."""

    canvas: Canvas
    left: float
    """Start of the time axis, after the names."""
    pixel: float
    """Seconds per pixel."""
    places: dict[str, float] = field(default_factory=dict)
    """Centre of each notebook's row."""

    def x(self, seconds: float) -> float:
        """Return the x coordinate of a time."""
        return self.left + seconds / self.pixel


def _stages(rows: Sequence[Row]) -> list[tuple[str | None, list[Row]]]:
    """Return the rows by stage in order of appearance; a plan without stages is one unnamed stage."""
    stages: dict[str | None, list[Row]] = {}
    for row in rows:
        stages.setdefault(row.entry.stage, []).append(row)
    if set(stages) == {None}:
        return [(None, list(rows))]
    return [(stage or "no stage", members) for stage, members in stages.items()]


def _grid(sheet: _Sheet, end: float, *, top: float, twice: bool) -> None:
    step = time_step(end)
    for count in range(int(end / step) + 1):
        x = sheet.x(count * step)
        look = Look(classes="grid", colour="#d5dbe3", order=0)
        sheet.canvas.line([x, x], [FOOT, top], look, width=0.7)
        sheet.canvas.text(x, FOOT - 6, clock(count * step), "soft", ha="center", va="top", size=10)
        if twice:
            sheet.canvas.text(x, top + 6, clock(count * step), "soft", ha="center", va="bottom", size=10)


def _bar(sheet: _Sheet, row: Row) -> None:
    """Draw name, wait, gate and run of one row, with its duration and, if not successful, its status."""
    entry, canvas, y = row.entry, sheet.canvas, sheet.places[row.entry.name]
    kind = _CLASS.get(entry.status, "bad")
    name = entry.name if len(entry.name) <= _LONGEST_NAME else f"{entry.name[: _LONGEST_NAME - 1]}…"
    whole = entry.name if name != entry.name else None
    canvas.text(sheet.left - 8, y, name, "name", ha="right", va="center", title=whole)
    if row.start is None or row.end is None:
        reused = entry.metrics is not None and entry.metrics.reused_from is not None
        canvas.text(sheet.left + 6, y, "reused" if reused else entry.status.value, kind, va="center", size=10)
        return
    start, end = sheet.x(row.start), sheet.x(row.end)
    if row.waited_seconds and row.ready is not None:
        title = f"{entry.name}: ready, waited {format_seconds(row.waited_seconds)} for its turn"
        look = Look(classes="wait", colour="#5c6773", title=title)
        canvas.line([sheet.x(row.ready), start], [y, y], look, width=1.2, dashes=(1, 3))
    gate = min(row.gate_seconds, row.end - row.start) / sheet.pixel
    if gate >= 1:
        title = f"{entry.name}: waited {format_seconds(row.gate_seconds)} at the gate"
        look = Look(classes="gate", colour="#d9a441", title=title)
        canvas.box(start, y - ROW * 0.16, gate, ROW * 0.32, look)
        start += gate
    length = max(end - start, _THIN)
    wall = format_seconds(row.end - row.start)
    title = f"{entry.name}: {entry.status.value}, {wall}, from {clock(round(row.start))}"
    look = Look(classes=f"run {kind}", colour=_COLOURS[kind], order=3, title=title)
    canvas.box(start, y - ROW * 0.3, length, ROW * 0.6, look)
    text = wall if entry.metrics else f"\N{GREATER-THAN OR EQUAL TO} {wall}"  # from its samples
    text = text if entry.status is Status.SUCCEEDED else f"{text} {entry.status.value}"
    canvas.text(start + length + 6, y, text, "soft" if entry.ok else kind, va="center", size=10)


def direct_needs(needs: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """Return the direct needs of each notebook, without those that another of its needs implies.

    One pass in topological order: a plan in which each notebook needs all earlier ones has too many paths to walk.
    """
    bits = {name: 1 << place for place, name in enumerate(TopologicalSorter(needs).static_order())}
    before: dict[str, int] = {}
    kept: dict[str, tuple[str, ...]] = {}
    for name in bits:
        mine = needs.get(name, ())
        implied = 0
        for need in mine:
            implied |= before[need]
        before[name] = implied
        for need in mine:
            before[name] |= bits[need]
        kept[name] = tuple(need for need in mine if not bits[need] & implied)
    return kept


def _needs(sheet: _Sheet, row: Row, needs: Sequence[str], ends: Mapping[str, float | None]) -> None:
    """Draw a connector from the end of each needed notebook to the start of this one, if it ran."""
    for need in needs:
        begun = ends.get(need)
        if begun is None or need not in sheet.places or row.start is None:
            continue
        x, y = sheet.x(begun), sheet.places[row.entry.name]
        target = sheet.x(row.start if row.ready is None else row.ready)
        look = Look(classes="need", colour="#8b97a6", order=0.5, title=f"{row.entry.name} needs {need}")
        sheet.canvas.line([x, x, target], [sheet.places[need] - ROW * 0.3, y, y], look)


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """Elements of the timeline that need a legend."""

    bars: tuple[tuple[str, str], ...]
    """Kind of a bar, and its statuses."""
    gate: bool
    wait: bool
    need: bool


def legend_of(rows: Sequence[Row]) -> Legend:
    """Return the legend of a timeline with these rows."""
    ran = [row for row in rows if row.start is not None]
    words: dict[str, dict[str, None]] = {}
    for status in Status:
        if any(row.entry.status is status for row in ran):
            words.setdefault(_CLASS.get(status, "bad"), {})[status.value] = None
    ended = {row.entry.name for row in ran}
    return Legend(
        bars=tuple((kind, ", ".join(words[kind])) for kind in _COLOURS if kind in words),
        gate=any(row.gate_seconds > 0 for row in ran),
        wait=any(row.waited_seconds for row in ran),
        need=any(need in ended for row in ran for need in row.entry.needs),
    )


def _describe(rows: Sequence[Row], end: float) -> str:
    ran = sum(row.start is not None for row in rows)
    counted = format_count(len(rows), "notebook")
    return f"{ran} of {counted} within {format_seconds(end)}; the table below lists all starts and waits."
