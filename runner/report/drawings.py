# SPDX-License-Identifier: Apache-2.0
"""All pictures of a report; one that cannot be drawn becomes a line that says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup

from runner.report.charts import notebook_chart
from runner.report.samples import read_samples
from runner.report.timeline import Row, rows_of
from runner.report.timeline import draw as draw_timeline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runner.report.model import Entry, Report

_POINTS = 18_000
"""Stretches of time that all charts of a page share, so that 500 notebooks stay one page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawings:
    """SVG of our own making, which templates print unescaped."""

    picture: Markup
    rows: tuple[Row, ...]
    charts: Mapping[str, Markup] = field(default_factory=dict)
    """By notebook; one without samples has none."""
    problems: tuple[str, ...] = ()


def draw(report: Report, folder: Path) -> Drawings:
    """Return the timeline and the chart of each notebook that left samples."""
    problems: list[str] = []
    charts: dict[str, Markup] = {}
    rows = rows_of(report)
    picture = Markup("")
    buckets = max(60, min(300, _POINTS // max(1, len(report.entries))))
    try:
        picture = Markup(draw_timeline(rows))  # noqa: S704  (our own SVG)
        for entry in report.entries:
            chart = _chart(entry, folder, buckets, problems)
            if chart:
                charts[entry.name] = Markup(chart)  # noqa: S704
    except ImportError as error:
        problems.append(f"nothing is drawn: matplotlib cannot be imported ({error})")
    return Drawings(picture=picture, rows=rows, charts=charts, problems=tuple(problems))


def _chart(entry: Entry, folder: Path, buckets: int, problems: list[str]) -> str | None:
    path = folder / entry.files.get("samples", "")
    if not entry.metrics or "samples" not in entry.files:
        return None
    try:
        samples = read_samples(path)
        if samples is None:
            return None
        if samples.left_out:
            problems.append(f"{path.name}: {samples.left_out} lines were no samples and are left out")
        return notebook_chart(f"{entry.anchor}-chart", entry.metrics, samples, buckets=buckets)
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001  (what lies in the folder must not cost the report)
        problems.append(f"{path.name} cannot be drawn: {type(error).__name__}: {error}")
        return None
