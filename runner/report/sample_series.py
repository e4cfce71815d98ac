# SPDX-License-Identifier: Apache-2.0
"""Reads `NAME.samples.csv` and makes it small enough to draw without losing a peak."""

from __future__ import annotations

import csv
import functools
import gc
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from runner.core.units import format_count
from runner.report.validation import LARGEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

UNITS = {"sm_occupancy_percent": "SM occupancy", "tensor_percent": "tensor", "dram_bandwidth_percent": "DRAM bandwidth"}
"""What is drawn of what a GPU's units did."""
LARGEST_BYTES = 1 << 29
"""A samples file beyond this is not read: 8 GPUs for a week stay below it."""


class SamplesError(ValueError):
    """A samples file from which nothing can be drawn; the message is a sentence that names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSamples:
    """One GPU over time; what was not measured is NaN."""

    time_seconds: Floats
    memory_bytes: Floats
    utilization_percent: Floats
    power_watts: Floats
    activity: Mapping[str, Floats] = field(default_factory=dict)
    """What its units did, by the names in `GpuUse.activity`; nothing of what was never measured."""


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
    """Return the samples of a run; None when the file holds no line of them.

    Lines that are cut off or hold no numbers are left out and counted.

    Raises
    ------
    SamplesError
        The file is too large, lacks a column, or none of its lines is a sample.
    OSError
        It cannot be read.
    """
    import numpy as np

    if path.stat().st_size > LARGEST_BYTES:
        large = f"{path.stat().st_size:,} bytes"
        raise SamplesError(f"{path.name} has {large}, the report reads up to {LARGEST_BYTES:,}")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    header, body = lines[0].strip().split(","), lines[1:-1]  # behind the last newline is half a line at most
    if not any(body):
        return None
    missing = {"time_seconds", "gpu_uuid", "gpu_memory_used_bytes", "host_memory_bytes"} - set(header)
    if missing:
        raise SamplesError(f"{path.name} has no column {', '.join(sorted(missing))}")
    rows = [row for row in csv.reader(body) if len(row) == len(header)]
    columns = dict(zip(header, zip(*rows, strict=True) if rows else [()] * len(header), strict=True))
    uuids = np.array(columns.pop("gpu_uuid"))
    numbers = {name: _floats(column) for name, column in columns.items()}
    good = np.isfinite(numbers["time_seconds"])
    if not good.any():
        counted = format_count(len(body), "line")
        raise SamplesError(f"{path.name}: nothing is drawn of it, as none of its {counted} is a sample")
    order = np.flatnonzero(good)[np.argsort(numbers["time_seconds"][good], kind="stable")]
    numbers = {name: column[order] for name, column in numbers.items()}
    uuids, time = uuids[order], numbers["time_seconds"]
    nothing = np.full(len(time), np.nan)
    ticks = np.concatenate(([True], np.diff(time) > 0))
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
                activity={
                    name.removeprefix("gpu_"): values
                    for name in (f"gpu_{one}" for one in UNITS)
                    if name in numbers and np.isfinite(values := numbers[name][uuids == uuid]).any()
                },
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The figures of a run as far as its samples tell; None where they do not."""

    seconds: float
    """From the start to the last sample."""
    gpus: int = 0
    peak_gpu_memory_bytes: int | None = None
    """The largest of any one GPU."""
    gpu_utilization_mean_percent: float | None = None
    peak_host_memory_bytes: int | None = None


def seen_in(samples: Samples) -> Seen:
    """Return what samples tell of a run that left no record."""
    busy = [value for gpu in samples.gpus.values() if (value := _known(gpu.utilization_percent, "mean")) is not None]
    peaks = [value for gpu in samples.gpus.values() if (value := _known(gpu.memory_bytes, "max")) is not None]
    host = _known(samples.host_memory_bytes, "max")
    return Seen(
        seconds=max(0.0, float(samples.time_seconds[-1])),
        gpus=len(samples.gpus),
        peak_gpu_memory_bytes=int(max(peaks)) if peaks else None,
        gpu_utilization_mean_percent=sum(busy) / len(busy) if busy else None,
        peak_host_memory_bytes=int(host) if host is not None else None,
    )


def _known(values: Floats, what: Literal["max", "mean"]) -> float | None:
    """Return the largest or the mean of what was measured; what no machine has is no measure."""
    import numpy as np

    known = values[np.isfinite(values) & (np.abs(values) < LARGEST)]
    return float(getattr(known, what)()) if len(known) else None


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
