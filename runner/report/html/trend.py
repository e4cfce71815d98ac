# SPDX-License-Identifier: Apache-2.0
"""A line of a few points: one figure of one notebook over its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.report.html.canvas import Canvas, Look

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT, EDGE = 120.0, 28.0, 4.0


def draw_trend(key: str, values: Sequence[float | None], *, title: str, description: str, worse: bool) -> str:
    """Return the SVG of a trend, oldest left; runs without the figure leave a gap.

    The scale starts at zero, so that a change looks as large as it is.
    """
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    canvas = Canvas(key, WIDTH, HEIGHT)
    step = (WIDTH - 2 * EDGE) / max(1, len(values) - 1)
    points = [
        (EDGE + place * step, EDGE + value / top * (HEIGHT - 2 * EDGE))
        for place, value in enumerate(values)
        if value is not None
    ]
    line = Look(classes="trend", colour="#5c6773")
    canvas.line([x for x, _ in points], [y for _, y in points], line, width=1.5)
    x, y = points[-1]
    canvas.dot(
        x, y, 2.5, Look(classes="now bad" if worse else "now", colour="#b3261e" if worse else "#17743a", order=3)
    )
    return canvas.svg(title=title, description=description)
