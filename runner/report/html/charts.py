# SPDX-License-Identifier: Apache-2.0
"""The chart of one notebook: memory and utilisation over time, with bands for its cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core.records import CellStatus
from runner.core.units import format_bytes, format_seconds, instant
from runner.report.html.canvas import Canvas, Look
from runner.report.html.panels import panels_of
from runner.report.sample_series import SamplesError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.core.records import Cell
    from runner.report.html.panels import Line, Panel, Scene
    from runner.report.sample_series import Samples

WIDTH, LEFT, RIGHT = 960.0, 74.0, 14.0
HEAD, GAP, FOOT, LEGEND = 42.0, 30.0, 24.0, 18.0
_LETTER = 7.4
"""Width of a bold letter of a title, in pixels."""
_SWATCH = 26.0
_MOST_KEYS = 17
"""Keys that fit in the legend; other lines show their names on hover."""
LIMIT_DASHES: tuple[tuple[float, ...], ...] = ((5, 3), (2, 2))
_INNER = WIDTH - LEFT - RIGHT
_STEPS = (1.0, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Position and value range of a panel in the picture."""

    bottom: float
    height: float
    end: float
    top: float

    def x(self, seconds: float) -> float:
        """Return the x coordinate of a time."""
        return LEFT + seconds / self.end * _INNER

    def y(self, value: float) -> float:
        """Return the y coordinate of a value."""
        return self.bottom + value / self.top * self.height


def notebook_chart(key: str, scene: Scene, samples: Samples, *, buckets: int = 300) -> str:
    """Return the SVG of a notebook's samples.

    Parameters
    ----------
    key
        Unique on the page.
    buckets
        Time buckets to which a series is downsampled; each keeps its extremes.

    Raises
    ------
    SamplesError
        The samples contain no values.
    """
    panels = list(panels_of(scene, samples, buckets))
    if not panels:
        raise SamplesError(f"{scene.name}.samples.csv cannot be drawn: its samples contain no values")
    end = max(float(samples.time_seconds[-1]), scene.wall_seconds, 1e-3)
    many = [line for line in panels[0].lines if len(panels[0].lines) > 1]
    top = FOOT + sum(panel.height for panel in panels) + GAP * (len(panels) - 1)
    canvas = Canvas(key, WIDTH, top + HEAD + (LEGEND if many else 0))
    _bands(canvas, scene, end, bottom=FOOT, top=top)
    _legend(canvas, many, y=top + HEAD + LEGEND / 2 - 4)
    bottom = top + GAP
    for position, panel in enumerate(panels):
        bottom -= panel.height + GAP
        frame = Frame(bottom=bottom, height=panel.height, end=end, top=panel.top)
        _scale(canvas, frame, panel, lift=15 if position == 0 else 5)
        _draw(canvas, frame, panel)
    _times(canvas, end)
    return canvas.svg(
        title=f"GPU and host usage of {scene.name} over time",
        description=_describe(panels, end),
        data={"seconds": f"{end / _INNER:.9g} {LEFT:g}", "key": key},
    )


def _bands(canvas: Canvas, scene: Scene, end: float, *, bottom: float, top: float) -> None:
    """Shade every second cell and failed ones; very narrow cells are not drawn.

    An interrupted cell without a duration extends to the end.
    """
    start = instant(scene.started_at)
    numbered = False
    for cell in scene.cells:
        began = instant(cell.started_at)
        ran = end if cell.wall_seconds is None and cell.status is CellStatus.INTERRUPTED else cell.wall_seconds
        if start is None or began is None or ran is None:
            continue
        left, length = began - start, min(ran, end - (began - start))
        x, width = LEFT + left / end * _INNER, length / end * _INNER
        if width < 0.7:
            continue
        bad = cell.status in {CellStatus.FAILED, CellStatus.INTERRUPTED}
        classes = f"band{' bad' if bad else ' odd' if cell.index % 2 else ''}"
        colour = "#f6d5d2" if bad else ("#f4f6f9", "#dfe6ef")[cell.index % 2]
        look = Look(classes=classes, colour=colour, order=0, title=_cell_title(cell))
        canvas.box(x, bottom, width, top - bottom, look)
        if width > 20:
            canvas.text(x + width / 2, top + 2, str(cell.index + 1), "soft", ha="center", va="bottom", size=9)
            numbered = True
    if numbered:
        canvas.text(LEFT - 6, top + 2, "cell", "soft", ha="right", va="bottom", size=9)


def _cell_title(cell: Cell) -> str:
    peak = max((value for value in cell.peak_gpu_memory_bytes.values() if value is not None), default=None)
    parts = [f"cell {cell.index + 1}", cell.status.value]
    if cell.wall_seconds is not None:
        parts.append(format_seconds(cell.wall_seconds))
    if peak is not None:
        parts.append(f"GPU peak {format_bytes(peak)}")
    return " · ".join([*parts, (cell.title or "")[:80]]).rstrip(" ·")


def _scale(canvas: Canvas, frame: Frame, panel: Panel, *, lift: float) -> None:
    """Draw the title, two or three ticks of the y axis, and the limits.

    The labels of limits follow the title: next to their lines they would overlap with curves, and on a narrow screen
    they would be out of view.
    """
    left, right, above = LEFT, LEFT + _INNER, frame.y(panel.top) + lift
    canvas.text(left, above, panel.title, "label", va="bottom", bold=True)
    at = left + _LETTER * len(panel.title) + 14
    for (_, text), dashes in zip(panel.limits, LIMIT_DASHES, strict=False):
        canvas.line([at, at + _SWATCH], [above + 5, above + 5], Look(classes="limit"), dashes=dashes)
        canvas.text(at + _SWATCH + 5, above, text, "soft", va="bottom", size=10)
        at += _SWATCH + 24 + 5.6 * len(text)
    for line in panel.lines if panel.named else ():
        look = Look(classes=line.classes, colour=line.colour)
        canvas.line([at, at + _SWATCH], [above + 5, above + 5], look, width=1.8, dashes=line.dashes)
        canvas.text(at + _SWATCH + 5, above, line.label, "soft", va="bottom", size=10)
        at += _SWATCH + 24 + 5.6 * len(line.label)
    step = _nice(panel.top / 3)
    for count in range(int(panel.top / step) + 1):
        y = frame.y(count * step)
        canvas.line([left, right], [y, y], Look(classes="grid", colour="#c5ccd6", order=1), width=0.6)
        canvas.text(left - 6, y, f"{count * step:g} {panel.unit}", "soft", ha="right", va="center", size=10)
    for (value, text), dashes in zip(panel.limits, LIMIT_DASHES, strict=False):
        y = frame.y(value)
        canvas.line([left, right], [y, y], Look(classes="limit", title=text), dashes=dashes)


def _legend(canvas: Canvas, lines: Sequence[Line], *, y: float) -> None:
    """Draw the legend of the GPUs."""
    step = min(64.0, _INNER / max(1, min(len(lines), _MOST_KEYS)))
    for place, line in enumerate(lines[:_MOST_KEYS]):
        x = LEFT + step * place
        look = Look(classes=line.classes, colour=line.colour, order=3)
        canvas.line([x, x + _SWATCH], [y, y], look, width=1.8, dashes=line.dashes)
        canvas.text(x + _SWATCH + 5, y, line.key or line.label, "key-name", va="center", size=10)


def _draw(canvas: Canvas, frame: Frame, panel: Panel) -> None:
    """Draw the series; `data-value` contains the scale and origin that convert y back into a value."""
    scale = f"{panel.top / panel.height:.9g} {canvas.height - frame.bottom:g}"
    for line in panel.lines:
        xs, ys = LEFT + line.time / frame.end * _INNER, frame.bottom + line.values / frame.top * frame.height
        if line.area:
            canvas.area(xs, ys, frame.bottom, Look(classes=f"area {line.classes}", colour=line.colour))
        label = panel.title if len(panel.lines) == 1 else f"{panel.title}, {line.label}"
        data = {"series": label, "unit": panel.unit, "value": scale, "peak": f"{float(line.values.max()):.9g}"}
        look = Look(classes=line.classes, colour=line.colour, order=3, data=data)
        canvas.line(xs, ys, look, width=1.4, dashes=line.dashes)


def _times(canvas: Canvas, end: float) -> None:
    step = time_step(end)
    for count in range(int(end / step) + 1):
        at = count * step
        x = LEFT + at / end * _INNER
        canvas.text(x, FOOT - 6, clock(at), "soft", ha="right" if at > 0.97 * end else "center", va="top", size=10)


def time_step(end: float) -> float:
    """Return a round step for a time axis with at most nine intervals."""
    if end < 5:
        return _nice(end / 5)
    return next((step for step in _STEPS if end / step <= 9), _nice(end / 6))


def clock(seconds: float) -> str:
    """Format a time on an axis: `0`, `0.5s`, `30s`, `1m30`, `5m`, `2h05`."""
    if seconds < 60:
        return f"{seconds:g}s" if seconds else "0"
    large, small, unit = (
        (seconds // 3600, seconds % 3600 // 60, "h") if seconds >= 3600 else (seconds // 60, seconds % 60, "m")
    )
    return f"{large:.0f}{unit}{small:02.0f}" if small else f"{large:.0f}{unit}"


def _nice(value: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten at or above a value."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)


def _describe(panels: Sequence[Panel], end: float) -> str:
    """Describe the chart in words: duration, peak of each series with its time, and limits."""
    parts = []
    for panel in panels:
        for line in panel.lines:
            at = float(line.time[int(line.values.argmax())])
            parts.append(
                f"{panel.title}{f' of {line.label}' if len(panel.lines) > 1 else ''}: "
                f"peak {line.values.max():.1f} {panel.unit} at {format_seconds(at)}."
            )
        parts.extend(f"Limit: {text}." for _, text in panel.limits)
    return f"Duration {format_seconds(end)}. " + " ".join(parts)
