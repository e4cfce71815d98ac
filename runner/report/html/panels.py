# SPDX-License-Identifier: Apache-2.0
"""Panels of a notebook's chart, with their series and limits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core.units import format_bytes
from runner.report.sample_series import UNITS, envelope, means

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runner.core.machine_records import GpuUse
    from runner.core.records import Cell
    from runner.report.assemble import Entry
    from runner.report.sample_series import Floats, Samples

DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (6, 2),
    (2, 2),
    (8, 2, 2, 2),
    (1, 2),
    (10, 4),
    (4, 1.5, 1, 1.5),
    (8, 2, 1, 2, 1, 2),
)
"""Each GPU has a dash pattern in addition to its colour, for print and colour blindness."""
_COLOURS = ("#2563c9", "#b45f06", "#17743a", "#6b3fa0", "#b3261e", "#0b7285", "#8a5300", "#5c6773")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Data of a run other than its samples; little is known of a lost one."""

    name: str
    started_at: str | None = None
    wall_seconds: float = 0.0
    cells: tuple[Cell, ...] = ()
    gpus: tuple[GpuUse, ...] = ()
    asked_gpu_memory_gb: float | None = None
    host_limit_bytes: int | None = None


def scene_of(entry: Entry) -> Scene:
    """Return the scene of a notebook of the report."""
    m, flight = entry.metrics, entry.flight
    if m:
        return Scene(
            name=entry.name,
            started_at=m.started_at,
            wall_seconds=m.wall_seconds,
            cells=m.cells,
            gpus=m.gpus,
            asked_gpu_memory_gb=m.gate.asked.gpu_memory_gb if m.gate else None,
            host_limit_bytes=m.host.memory_limit_bytes if m.host else None,
        )
    if not flight:
        return Scene(name=entry.name)
    return Scene(
        name=entry.name,
        started_at=flight.started_at,
        # A cell that was running at the save may have ended since, unless it is the last known one.
        cells=tuple(c for c in flight.cells if c.wall_seconds is not None or c.index == flight.cell_index),
        host_limit_bytes=flight.memory_limit_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series of a panel."""

    label: str
    time: Floats
    values: Floats
    classes: str
    colour: str
    key: str | None = None
    """Short name for the legend of a panel with several lines."""
    dashes: tuple[float, ...] = ()
    area: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One set of axes: series in the same unit, and limits."""

    title: str
    unit: str
    height: float
    top: float
    lines: tuple[Line, ...]
    limits: tuple[tuple[float, str], ...] = ()
    named: bool = False
    """The lines are labelled after the title, as they are not GPUs, which are in the legend."""


def panels_of(scene: Scene, samples: Samples, buckets: int) -> Iterator[Panel]:
    """Return the panels of a chart, each with at least one series."""
    uses = {gpu.uuid: gpu for gpu in scene.gpus}
    memory, busy = [], []
    for position, (uuid, gpu) in enumerate(samples.gpus.items()):
        use = uses.get(uuid)
        index = use.index if use and use.index is not None else position
        number = position % 8
        plain = Line(
            label=f"GPU {index}",
            key=f"#{index}",
            time=gpu.time_seconds,
            values=gpu.memory_bytes,
            classes=f"line s{number}",
            colour=_COLOURS[number],
            dashes=DASHES[number] if len(samples.gpus) > 1 else (),
        )
        time, values = envelope(gpu.time_seconds, gpu.memory_bytes, buckets)
        if len(values):
            memory.append(dataclasses.replace(plain, time=time, values=values))
        time, values = means(gpu.time_seconds, gpu.utilization_percent, buckets)
        if len(values):
            busy.append(dataclasses.replace(plain, time=time, values=values))
    if memory:
        total = max((gpu.total_bytes or 0 for gpu in scene.gpus), default=0)
        asked = (scene.asked_gpu_memory_gb or 0) * 1e9
        limits = [(total, f"total, {format_bytes(total)}"), (asked, f"requested, {asked / 1e9:g} GB")]
        yield _memory_panel("GPU memory", memory, limits, 120)
    if busy:
        lines = tuple(busy) if len(busy) > 1 else (dataclasses.replace(busy[0], area=True),)
        yield Panel(title="GPU utilisation", unit="%", height=56, top=100, lines=lines)
    if units := list(_units(samples, buckets)):
        top = min(100.0, max(1.0, 1.15 * max(float(line.values.max()) for line in units)))
        yield Panel(title="GPU units, mean", unit="%", height=56, top=top, lines=tuple(units), named=True)
    time, values = envelope(samples.time_seconds, samples.host_memory_bytes, buckets)
    if len(values):
        limit = scene.host_limit_bytes or 0
        host = Line(label="host", time=time, values=values, classes="line host", colour="#6b3fa0")
        limits = [(limit, f"limit, {format_bytes(limit)}")]
        yield _memory_panel("Host memory", [host], limits, 56 if memory else 110)
    time, values = means(samples.time_seconds, samples.host_cpu_percent, buckets)
    if not memory and len(values):
        top = max(100.0, float(values.max()) * 1.1)
        cpu = Line(label="host", time=time, values=values, classes="line host", colour="#6b3fa0", area=True)
        yield Panel(title="Host CPU", unit="%", height=56, top=top, lines=(cpu,))


def _units(samples: Samples, buckets: int) -> Iterator[Line]:
    """Yield the activity of GPU units, as means over the GPUs that report it."""
    import numpy as np

    for number, (name, label) in enumerate(UNITS.items()):
        reported = [(gpu.time_seconds, gpu.activity[name]) for gpu in samples.gpus.values() if name in gpu.activity]
        if not reported:
            continue
        at, values = (np.concatenate(column) for column in zip(*reported, strict=True))
        known = np.isfinite(values)
        moments, which = np.unique(at[known], return_inverse=True)
        time, values = means(moments, np.bincount(which, values[known]) / np.bincount(which), buckets)
        yield Line(
            label=label,
            time=time,
            values=values,
            classes=f"line s{number + 1}",
            colour=_COLOURS[number + 1],
            dashes=DASHES[number],
        )


def _memory_panel(title: str, lines: Sequence[Line], limits: Sequence[tuple[float, str]], height: float) -> Panel:
    """Return a panel in GB, without limits so far above the peak that they would flatten the curve."""
    peak = max(float(line.values.max()) for line in lines)
    near = tuple((value / 1e9, text) for value, text in limits if peak * 0.02 < value <= max(peak * 4, 1))
    top = max([peak / 1e9, *(value for value, _ in near)]) * 1.08 or 1.0
    in_gb = tuple(dataclasses.replace(line, values=line.values / 1e9) for line in lines)
    return Panel(title=title, unit="GB", height=height, top=top, lines=in_gb, limits=near)
