# SPDX-License-Identifier: Apache-2.0
"""Reads `NAME.samples.csv`, downsamples it without losing peaks, and detects memory pools.

`rmm.reinitialize(pool_allocator=True)` allocates half of a GPU's free memory at once, so that NVML's peak is the pool
for nearly every RAPIDS notebook. Such a step is recognizable.
"""

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
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from runner.core.machine_records import GpuUse

    Floats = NDArray[np.float64]

UNITS = {"sm_occupancy_percent": "SM occupancy", "tensor_percent": "tensor", "dram_bandwidth_percent": "DRAM bandwidth"}
"""GPU activity shown in charts."""
LARGEST_BYTES = 1 << 29
"""Largest samples file that is read: 8 GPUs for a week are below it."""


_POOL_SHARE = (0.46, 0.54)
"""Half, with a tolerance for context and libraries allocated at the same time."""
_POOL_TICKS = 2
_POOL_STAYS = 0.9
"""A pool is kept: at least this fraction of later samples must stay at the level of the step."""


class SamplesError(ValueError):
    """A samples file that cannot be drawn; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSamples:
    """Samples of one GPU; missing values are NaN."""

    time_seconds: Floats
    memory_bytes: Floats
    utilization_percent: Floats
    power_watts: Floats
    activity: Mapping[str, Floats] = field(default_factory=dict)
    """Activity of its units by the names in `GpuUse.activity`, if measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples of a run."""

    time_seconds: Floats
    host_memory_bytes: Floats
    host_cpu_percent: Floats
    gpus: Mapping[str, GpuSamples] = field(default_factory=dict)
    left_out: int = 0
    """Number of invalid lines."""


def _without_gc(read: Callable[[Path], Samples | None]) -> Callable[[Path], Samples | None]:
    """Disable the garbage collector while reading, as it scans a million new strings in vain.

    It took half of the time: 0.20 s instead of 0.10 s for 57,600 lines.
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


@_without_gc
def read_samples(path: Path) -> Samples | None:
    """Return the samples of a run; None if the file has none.

    Truncated and invalid lines are skipped and counted.

    Raises
    ------
    SamplesError
        The file is too large, lacks a column, or has no valid line.
    OSError
        It cannot be read.
    """
    import numpy as np

    if path.stat().st_size > LARGEST_BYTES:
        raise SamplesError(f"{path.name} has {path.stat().st_size:,} bytes, the limit is {LARGEST_BYTES:,}")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    header, body = lines[0].strip().split(","), lines[1:-1]  # the last line may be incomplete
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
        raise SamplesError(f"{path.name} cannot be drawn: none of its {format_count(len(body), 'line')} is valid")
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
    """Return numbers; empty and invalid fields become NaN."""
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
    """Figures of a run derived from its samples; None if not measured."""

    seconds: float
    """Time from the start to the last sample."""
    gpus: int = 0
    peak_gpu_memory_bytes: int | None = None
    """Largest peak of a single GPU."""
    gpu_utilization_mean_percent: float | None = None
    peak_host_memory_bytes: int | None = None


def seen_in(samples: Samples) -> Seen:
    """Return the figures of a run without a record."""
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
    """Return maximum or mean of the valid values."""
    import numpy as np

    known = values[np.isfinite(values) & (np.abs(values) < LARGEST)]
    return float(getattr(known, what)()) if len(known) else None


def envelope(time: Floats, values: Floats, buckets: int) -> tuple[Floats, Floats]:
    """Return at most two points per time bucket, its minimum and maximum, in order.

    The global extremes, at their times, and the first and last points are kept.
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
    """Return one point per time bucket: the means of time and value."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A step of about half of the free memory."""

    uuid: str
    at_seconds: float
    taken_bytes: int
    free_bytes: int

    @property
    def share(self) -> float:
        """Allocated fraction of the free memory."""
        return self.taken_bytes / self.free_bytes


def find_pools(gpus: Iterable[GpuUse], samples: Samples) -> tuple[Pool, ...]:
    """Return for each GPU the largest step that looks like the allocation of a pool, if any."""
    import numpy as np

    pools: list[Pool] = []
    for gpu in gpus:
        found: list[Pool] = []
        series = samples.gpus.get(gpu.uuid)
        if series is None or not gpu.total_bytes or len(series.memory_bytes) <= _POOL_TICKS:
            continue
        known = np.isfinite(series.memory_bytes)
        memory, time = series.memory_bytes[known], series.time_seconds[known]
        for ticks in range(1, _POOL_TICKS + 1):
            taken = memory[ticks:] - memory[:-ticks]
            free = np.maximum(gpu.total_bytes - memory[:-ticks], 1.0)
            fits = (taken / free >= _POOL_SHARE[0]) & (taken / free <= _POOL_SHARE[1]) & (taken > 1e9)
            for place in np.flatnonzero(fits)[:20]:
                after = memory[place + ticks :]
                if float((after >= memory[place] + _POOL_STAYS * taken[place]).mean()) >= _POOL_STAYS:
                    step = Pool(
                        uuid=gpu.uuid,
                        at_seconds=float(time[place + ticks]),
                        taken_bytes=int(taken[place]),
                        free_bytes=int(free[place]),
                    )
                    found.append(step)
        if found:
            pools.append(max(found, key=lambda pool: pool.taken_bytes))
    return tuple(pools)
