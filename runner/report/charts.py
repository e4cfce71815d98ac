# SPDX-License-Identifier: Apache-2.0
"""The chart of one notebook: memory and utilisation over time, over bands of its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.records import CellStatus
from runner.report.canvas import Canvas
from runner.report.samples import envelope, means
from runner.report.summary import instant
from runner.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

    from runner.records import Cell, Metrics
    from runner.report.samples import Floats, Samples

WIDTH, LEFT, RIGHT = 960.0, 74.0, 14.0
_INNER = WIDTH - LEFT - RIGHT
_STEPS = (1.0, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)
_COLOURS = ("#2563c9", "#b45f06", "#17743a", "#6b3fa0", "#b3261e", "#0b7285", "#8a5300", "#5c6773")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One series of a panel."""

    label: str
    time: Floats
    values: Floats
    classes: str
    colour: str
    area: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """One set of axes: series in one unit, with lines that mark limits."""

    title: str
    unit: str
    height: float
    top: float
    lines: tuple[_Line, ...]
    limits: tuple[tuple[float, str], ...] = ()


def notebook_chart(key: str, metrics: Metrics, samples: Samples, *, buckets: int = 300) -> str:
    """Return the SVG of a notebook's samples.

    Parameters
    ----------
    key
        Unique on the page.
    buckets
        How many stretches of time a series is thinned out to; each keeps its extremes.
    """
    panels = [panel for panel in _panels(metrics, samples, buckets) if panel.lines]
    end = max(float(samples.time_seconds[-1]), metrics.wall_seconds, 1e-3)
    height = 46.0 + sum(panel.height + 30 for panel in panels)
    canvas = Canvas(key, WIDTH, height)
    place = height - 12
    for position, panel in enumerate(panels):
        place -= panel.height + 30
        axes = canvas.axes(LEFT, place, _INNER, panel.height)
        axes.set_xlim(0, end)
        axes.set_ylim(0, panel.top)
        _bands(canvas, axes, metrics, end, panel.top, numbers=position == 0)
        _scale(canvas, axes, panel, end, lift=15 if position == 0 else 5)
        _draw(canvas, axes, panel, place, height)
        if position == len(panels) - 1:
            _times(canvas, axes, end, panel)
    return canvas.svg(
        title=f"Use of GPU and host over time by {metrics.notebook}",
        description=_describe(panels, end),
        data={"seconds": f"{end / _INNER:.9g} {LEFT:g}", "key": key},
    )


def _panels(metrics: Metrics, samples: Samples, buckets: int) -> Iterator[_Panel]:
    uses = {gpu.uuid: gpu for gpu in metrics.gpus}
    memory, busy = [], []
    for position, (uuid, gpu) in enumerate(samples.gpus.items()):
        label = f"GPU {uses[uuid].index}" if uuid in uses and uses[uuid].index is not None else f"GPU {position}"
        colour, number = _COLOURS[position % 8], position % 8
        time, values = envelope(gpu.time_seconds, gpu.memory_bytes, buckets)
        if len(values):
            memory.append(_Line(label=label, time=time, values=values, classes=f"line s{number}", colour=colour))
        time, values = means(gpu.time_seconds, gpu.utilization_percent, buckets)
        if len(values):
            busy.append(_Line(label=label, time=time, values=values, classes=f"line s{number}", colour=colour))
    if memory:
        total = max((gpu.total_bytes or 0 for gpu in metrics.gpus), default=0)
        asked = (metrics.gate.asked.gpu_memory_gb or 0) * 1e9 if metrics.gate else 0
        limits = [(total, f"all of it, {format_bytes(total)}"), (asked, f"asked, {asked / 1e9:g} GB")]
        yield _memory_panel("GPU memory", memory, limits, 120)
    if busy:
        lines = tuple(busy) if len(busy) > 1 else (_area(busy[0]),)
        yield _Panel(title="GPU utilisation", unit="%", height=56, top=100, lines=lines)
    time, values = envelope(samples.time_seconds, samples.host_memory_bytes, buckets)
    if len(values):
        limit = (metrics.host.memory_limit_bytes or 0) if metrics.host else 0
        host = _Line(label="host", time=time, values=values, classes="line host", colour="#6b3fa0")
        limits = [(limit, f"limit, {format_bytes(limit)}")]
        yield _memory_panel("Host memory", [host], limits, 56 if memory else 110)
    time, values = means(samples.time_seconds, samples.host_cpu_percent, buckets)
    if not memory and len(values):
        top = max(100.0, float(values.max()) * 1.1)
        cpu = _Line(label="host", time=time, values=values, classes="line host", colour="#6b3fa0", area=True)
        yield _Panel(title="Host CPU", unit="%", height=56, top=top, lines=(cpu,))


def _area(line: _Line) -> _Line:
    return _Line(
        label=line.label, time=line.time, values=line.values, classes=line.classes, colour=line.colour, area=True
    )


def _memory_panel(title: str, lines: Sequence[_Line], limits: Sequence[tuple[float, str]], height: float) -> _Panel:
    """Return a panel in GB; a limit far above what was used would flatten the curve and is left out."""
    peak = max(float(line.values.max()) for line in lines)
    near = tuple((value / 1e9, text) for value, text in limits if peak * 0.02 < value <= max(peak * 4, 1))
    top = max([peak / 1e9, *(value for value, _ in near)]) * 1.08 or 1.0
    in_gb = tuple(
        _Line(label=line.label, time=line.time, values=line.values / 1e9, classes=line.classes, colour=line.colour)
        for line in lines
    )
    return _Panel(title=title, unit="GB", height=height, top=top, lines=in_gb, limits=near)


def _bands(canvas: Canvas, axes: Axes, metrics: Metrics, end: float, top: float, *, numbers: bool) -> None:
    """Shade every second cell and the one that went wrong; a cell narrower than a hair is not drawn."""
    start = instant(metrics.started_at)
    for cell in metrics.cells:
        began = instant(cell.started_at)
        if start is None or began is None or cell.wall_seconds is None:
            continue
        left, width = began - start, min(cell.wall_seconds, end - (began - start))
        if width / end * _INNER < 0.7:
            continue
        bad = cell.status in {CellStatus.FAILED, CellStatus.INTERRUPTED}
        colour = "#f6d5d2" if bad else ("#f3f5f8", "#e6eaf0")[cell.index % 2]
        band = axes.axvspan(left, left + width, facecolor=colour, edgecolor="none")
        canvas.mark(band, f"band{' bad' if bad else ' odd' if cell.index % 2 else ''}", title=_cell_title(cell))
        if numbers and width / end * _INNER > 20:
            canvas.text(axes, left + width / 2, top, str(cell.index + 1), "soft", ha="center", va="bottom", size=9)


def _cell_title(cell: Cell) -> str:
    peak = max((value for value in cell.peak_gpu_memory_bytes.values() if value is not None), default=None)
    parts = [f"cell {cell.index + 1}", cell.status.value, format_seconds(cell.wall_seconds or 0)]
    if peak is not None:
        parts.append(f"GPU peak {format_bytes(peak)}")
    return " · ".join([*parts, (cell.title or "")[:80]]).rstrip(" ·")


def _scale(canvas: Canvas, axes: Axes, panel: _Panel, end: float, *, lift: float) -> None:
    """Write the title, two or three values of the y axis, and the limits."""
    canvas.text(
        axes, 0, panel.top * (1 + lift / panel.height), panel.title, "label", va="bottom", ha="left", weight="bold"
    )
    step = _nice(panel.top / 3)
    for count in range(int(panel.top / step) + 1):
        line = axes.axhline(count * step, color="#c5ccd6", linewidth=0.6)
        canvas.mark(line, "grid")
        x = -6 / _INNER * end
        canvas.text(axes, x, count * step, f"{count * step:g} {panel.unit}", "soft", ha="right", va="center", size=10)
    for value, text in panel.limits:
        canvas.mark(axes.axhline(value, color="#1b2430", linewidth=1, linestyle=(0, (5, 3))), "limit")
        canvas.text(axes, end, value + panel.top * 0.015, text, "soft", ha="right", va="bottom", size=9)


def _draw(canvas: Canvas, axes: Axes, panel: _Panel, place: float, height: float) -> None:
    """Draw the series; `data-value` holds the step and the origin that turn y back into a value."""
    scale = f"{panel.top / panel.height:.9g} {height - place:g}"
    for line in panel.lines:
        if line.area:
            canvas.mark(
                axes.fill_between(line.time, line.values, color=line.colour, alpha=0.25, linewidth=0),
                f"area {line.classes}",
            )
        (drawn,) = axes.plot(line.time, line.values, color=line.colour, linewidth=1.4)
        label = panel.title if len(panel.lines) == 1 else f"{panel.title}, {line.label}"
        canvas.mark(
            drawn, line.classes, series=label, unit=panel.unit, value=scale, peak=f"{float(line.values.max()):.9g}"
        )


def _times(canvas: Canvas, axes: Axes, end: float, panel: _Panel) -> None:
    step = time_step(end)
    below = -panel.top * 6 / panel.height
    for count in range(int(end / step) + 1):
        at = count * step
        side = "right" if at > 0.97 * end else "center"
        canvas.text(axes, at, below, clock(at), "soft", ha=side, va="top", size=10)


def time_step(end: float) -> float:
    """Return the step of a time axis that makes at most nine of them, in units people count in."""
    if end < 5:
        return _nice(end / 5)
    return next((step for step in _STEPS if end / step <= 9), _nice(end / 6))


def clock(seconds: float) -> str:
    """Return a time on an axis, such as `0`, `0.5s`, `30s`, `1m30`, `5m`, `2h05`."""
    if seconds < 60:
        return f"{seconds:g}s" if seconds else "0"
    large, small, unit = (
        (seconds // 3600, seconds % 3600 // 60, "h") if seconds >= 3600 else (seconds // 60, seconds % 60, "m")
    )
    return f"{large:.0f}{unit}{small:02.0f}" if small else f"{large:.0f}{unit}"


def _nice(value: float) -> float:
    """Return the nearest of 1, 2, 5 times a power of ten at or above a value."""
    power = 10.0 ** _floor_log10(value)
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)


def _floor_log10(value: float) -> int:
    import math

    return math.floor(math.log10(value)) if value > 0 else 0


def _describe(panels: Sequence[_Panel], end: float) -> str:
    """Say in words what the picture shows: for each series its peak, when it was, and the mean."""
    said = []
    for panel in panels:
        for line in panel.lines:
            at = float(line.time[int(line.values.argmax())])
            said.append(
                f"{panel.title}{f' of {line.label}' if len(panel.lines) > 1 else ''}: "
                f"peak {line.values.max():.1f} {panel.unit} at {format_seconds(at)}."
            )
        said.extend(f"Line: {text}." for _, text in panel.limits)
    return f"{format_seconds(end)} long. " + " ".join(said)
