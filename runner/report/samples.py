# SPDX-License-Identifier: Apache-2.0
"""Reads `NAME.samples.csv` and makes it small enough to draw without losing a peak."""

from __future__ import annotations

import csv
import functools
import gc
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LARGEST_BYTES = 1 << 29
"""A samples file beyond this is not read: 8 GPUs for a week stay below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSamples:
    """One GPU over time; what was not measured is NaN."""

    time_seconds: Floats
    memory_bytes: Floats
    utilization_percent: Floats
    power_watts: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """A whole run over time."""

    time_seconds: Floats
    host_memory_bytes: Floats
    host_cpu_percent: Floats
    gpus: Mapping[str, GpuSamples] = field(default_factory=dict)
    left_out: int = 0
    """Lines that were no samples."""


def _unburdened(read: Callable[[Path], Samples | None]) -> Callable[[Path], Samples | None]:
    """Keep the garbage collector out of the reading, where it looks at a million new strings in vain.

    It took half of the time: 0.20 s against 0.10 s for 57,600 lines.
    """

    @functools.wraps(read)
    def without_collection(path: Path) -> Samples | None:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return read(path)
        finally:
            if was_enabled:
                gc.enable()

    return without_collection


@_unburdened
def read_samples(path: Path) -> Samples | None:
    """Return the samples of a run; None when the file holds none.

    Lines that are cut off or hold no numbers are left out and counted.

    Raises
    ------
    ValueError
        The file is too large or lacks a column.
    OSError
        It cannot be read.
    """
    import numpy as np

    if path.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, the report reads up to {LARGEST_BYTES:,}")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    header, body = lines[0].strip().split(","), lines[1:-1]  # behind the last newline is half a line at most
    rows = [row for row in csv.reader(body) if len(row) == len(header)]
    if not rows:
        return None
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    missing = {"time_seconds", "gpu_uuid", "gpu_memory_used_bytes", "host_memory_bytes"} - set(columns)
    if missing:
        raise ValueError(f"{path.name} has no column {', '.join(sorted(missing))}")
    uuids = np.array(columns.pop("gpu_uuid"))
    numbers = {name: _floats(column) for name, column in columns.items()}
    good = np.isfinite(numbers["time_seconds"])
    order = np.flatnonzero(good)[np.argsort(numbers["time_seconds"][good], kind="stable")]
    numbers = {name: column[order] for name, column in numbers.items()}
    uuids, time = uuids[order], numbers["time_seconds"]
    nothing = np.full(len(time), np.nan)
    ticks = np.concatenate(([True], np.diff(time) > 0)) if len(time) else np.zeros(0, bool)
    return Samples(
        time_seconds=time[ticks],
        host_memory_bytes=numbers["host_memory_bytes"][ticks],
        host_cpu_percent=numbers.get("host_cpu_percent", nothing)[ticks],
        gpus={
            str(uuid): GpuSamples(
                time_seconds=time[uuids == uuid],
                memory_bytes=numbers["gpu_memory_used_bytes"][uuids == uuid],
                utilization_percent=numbers.get("gpu_utilization_percent", nothing)[uuids == uuid],
                power_watts=numbers.get("power_watts", nothing)[uuids == uuid],
            )
            for uuid in dict.fromkeys(uuids.tolist())
            if uuid
        },
        left_out=len(body) - len(order),
    )


def _floats(column: Sequence[str]) -> Floats:
    """Return numbers; empty and unreadable fields become NaN."""
    import numpy as np

    try:
        values = np.array([value or "nan" for value in column], dtype=np.float64)
    except ValueError:
        values = np.array([_float(value) for value in column], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def _float(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")


def envelope(time: Floats, values: Floats, buckets: int) -> tuple[Floats, Floats]:
    """Return at most two points a bucket of time: its smallest and its largest value, in order.

    The largest and the smallest value of the whole stay, each at its own time, and so do the
    first and the last point.
    """
    import numpy as np

    known = np.isfinite(values)
    time, values = time[known], values[known]
    if len(values) <= 2 * buckets:
        return time, values
    edges = _edges(time, buckets)
    keep = {0, len(values) - 1}
    for first, last in itertools.pairwise(edges):
        if last > first:
            part = values[first:last]
            keep.update((first + int(part.argmin()), first + int(part.argmax())))
    chosen = np.array(sorted(keep))
    return time[chosen], values[chosen]


def means(time: Floats, values: Floats, buckets: int) -> tuple[Floats, Floats]:
    """Return one point a bucket of time: the middle and the mean of what was measured in it."""
    import numpy as np

    known = np.isfinite(values)
    time, values = time[known], values[known]
    if len(values) <= buckets:
        return time, values
    edges = _edges(time, buckets)
    starts = edges[:-1][edges[1:] > edges[:-1]]
    counts = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(time, starts) / counts, np.add.reduceat(values, starts) / counts


def _edges(time: Floats, buckets: int) -> NDArray[np.intp]:
    import numpy as np

    return np.searchsorted(time, np.linspace(time[0], np.nextafter(time[-1], np.inf), buckets + 1))
