# SPDX-License-Identifier: Apache-2.0
"""Resource usage of each cell and of the whole run, computed from the samples; pure.

Rules. A peak is the largest sample within the cell, or up to `END_SECONDS` after it but before the next
cell, because the sample requested at a cell's end is taken slightly later. A cell without samples uses the
last one before it. Utilisation applies from the previous sample to its own, since drivers report the time
since the last call; so it is weighted by time, and extra samples do not distort it. Energy is the difference
of the device's counter, which is read rarely and interpolated with the measured power, and linearly between
the samples around each end of the cell; for the run it starts with the kernel. Missing values are None,
never 0.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.machine.samples import GpuSeries, Sampled

END_SECONDS = 0.02
SHORTEST_ACTIVITY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Span:
    """Start and end of a cell, in seconds from the start of the run."""

    index: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CellUse:
    """Resource usage of a cell."""

    peak_gpu_memory_bytes: dict[str, int | None] = field(default_factory=dict)
    gpu_utilization_mean_percent: float | None = None
    """Mean over time, and over the GPUs of the run that report it."""
    gpu_energy_joules: float | None = None
    """Sum over the GPUs of the run; None if one of them has no counter."""
    peak_host_memory_bytes: int | None = None
    gpu_activity: dict[str, float] = field(default_factory=dict)
    """Activity of the GPUs' units, mean over time and over the GPUs of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFigures:
    """Usage of one GPU over the whole run."""

    peak_gpu_memory_bytes: int | None = None
    utilization_mean_percent: float | None = None
    utilization_max_percent: float | None = None
    energy_joules: float | None = None
    """From the start of the kernel on: energy used during gate and preparation does not count."""
    energy_seconds: float | None = None
    """Duration of that energy measurement."""
    busy_seconds: float | None = None
    """Time with work running on the device: the integral of its utilisation."""
    lowest_watts: float | None = None
    temperature_max_celsius: float | None = None

    def idle_joules(self, watts_before: float | None) -> float | None:
        """Return the GPU's idle share of the energy, at its lowest power.

        The lowest is used because just after another run the power before the kernel is not idle yet.
        """
        watts = min((one for one in (watts_before, self.lowest_watts) if one is not None), default=None)
        if watts is None or self.energy_joules is None or self.energy_seconds is None:
            return None
        return min(self.energy_joules, watts * self.energy_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunUse:
    """Resource usage of the whole run."""

    gpus: dict[str, GpuFigures] = field(default_factory=dict)
    peak_host_memory_bytes: int | None = None


def per_cell(sampled: Sampled, spans: Iterable[Span]) -> dict[int, CellUse]:
    """Return the usage of each cell, by index."""
    ordered = sorted(spans, key=lambda span: span.start_seconds)
    nexts = (*(span.start_seconds for span in ordered[1:]), math.inf)
    counters = [energy_counter(sampled.seconds, series) for series in sampled.gpus.values()]
    return {span.index: _cell(sampled, span, until, counters) for span, until in zip(ordered, nexts, strict=False)}


def per_run(sampled: Sampled) -> RunUse:
    """Return the run's usage."""
    times = sampled.seconds[:]
    return RunUse(
        gpus={uuid: _gpu(times, series, sampled.kernel_seconds or 0.0) for uuid, series in sampled.gpus.items()},
        peak_host_memory_bytes=_whole(_largest(sampled.host_memory_bytes)),
    )


def _cell(sampled: Sampled, span: Span, until: float, counters: Sequence[Sequence[float]]) -> CellUse:
    low, high = _within(sampled.seconds, span, until)
    utilization = [_mean(sampled.seconds, series.utilization_percent, span) for series in sampled.gpus.values()]
    energy = [_energy(sampled.seconds, counter, span) for counter in counters]
    known = [percent for percent in utilization if percent is not None]
    joules = [used for used in energy if used is not None]
    return CellUse(
        peak_gpu_memory_bytes={
            uuid: _peak(series, low, high, span.start_seconds, min(span.end_seconds + END_SECONDS, until))
            for uuid, series in sampled.gpus.items()
        },
        gpu_utilization_mean_percent=sum(known) / len(known) if known else None,
        gpu_energy_joules=sum(joules) if joules and len(joules) == len(energy) else None,
        peak_host_memory_bytes=_whole(_largest(sampled.host_memory_bytes[low:high])),
        gpu_activity=_activity(tuple(sampled.gpus.values()), span),
    )


def _activity(gpus: Sequence[GpuSeries], span: Span) -> dict[str, float]:
    """Return the means within a cell, empty if it is shorter than the interval of the counters."""
    if span.end_seconds - span.start_seconds < SHORTEST_ACTIVITY_SECONDS:
        return {}
    found: dict[str, list[float]] = {}
    for series in gpus:
        for name, values in series.activity.items():
            total, measured = _integral(series.activity_seconds, values, span.start_seconds, span.end_seconds)
            if measured:
                found.setdefault(name, []).append(total / measured)
    return {name: sum(means) / len(means) for name, means in found.items()}


def energy_counter(seconds: Sequence[float], series: GpuSeries) -> Sequence[float]:
    """Return the energy counter at each tick, interpolated between two readings with the power."""
    joules = list(series.energy_joules)
    for start, end in pairwise([tick for tick, value in enumerate(joules) if not math.isnan(value)]):
        steps = [series.power_watts[tick] * (seconds[tick] - seconds[tick - 1]) for tick in range(start + 1, end + 1)]
        total = sum(steps)
        if total > 0:  # False for NaN
            for tick, step in zip(range(start + 1, end), steps, strict=False):
                joules[tick] = joules[tick - 1] + (joules[end] - joules[start]) * step / total
    return joules


def _gpu(times: Sequence[float], series: GpuSeries, kernel_seconds: float) -> GpuFigures:
    count = len(times)  # an abandoned sampler may still append
    utilization = series.utilization_percent[:count]
    mean, measured = _integral(times, utilization)
    counter = energy_counter(times, series)[:count]
    counted = [when for when, value in zip(times, counter, strict=True) if not math.isnan(value)]
    start, end = (max(counted[0], kernel_seconds), counted[-1]) if len(counted) > 1 else (0.0, 0.0)
    used = _energy(times, counter, Span(0, start, end)) if end > start else None
    first, last = (times[0], times[-1]) if count else (0.0, -1.0)
    return GpuFigures(
        peak_gpu_memory_bytes=_peak(series, 0, count, first, last),
        utilization_mean_percent=mean / measured if measured else None,
        utilization_max_percent=_largest(utilization),
        energy_joules=used,
        energy_seconds=None if used is None else end - start,
        busy_seconds=mean / 100 if measured else None,
        lowest_watts=min((watts for watts in series.power_watts[:count] if not math.isnan(watts)), default=None),
        temperature_max_celsius=_largest(series.temperature_celsius[:count]),
    )


def _peak(series: GpuSeries, low: int, high: int, start: float, end: float) -> int | None:
    """Return the peak memory of the samples and of the polls between them."""
    moved = slice(bisect_left(series.moved_seconds, start), bisect_right(series.moved_seconds, end))
    return _whole(_largest([*series.used_bytes[low:high], *series.moved_bytes[moved]]))


def _within(seconds: Sequence[float], span: Span, until: float) -> tuple[int, int]:
    """Return the range of the samples for a cell; ``until`` is the start of the next one."""
    low = bisect_left(seconds, span.start_seconds)
    high = bisect_right(seconds, min(span.end_seconds + END_SECONDS, until))
    if low < high or not len(seconds):
        return low, high
    # A later sample may already belong to the next cell.
    previous = max(low - 1, 0)
    return previous, previous + 1


def _integral(
    seconds: Sequence[float], values: Sequence[float], start: float = -math.inf, end: float = math.inf
) -> tuple[float, float]:
    """Return the integral of values over time, each from the previous sample to its own, and the measured time."""
    total = measured = 0.0
    for position in range(max(1, bisect_right(seconds, start)), len(seconds)):
        if seconds[position - 1] >= end:
            break
        width = min(seconds[position], end) - max(seconds[position - 1], start)
        if width > 0 and not math.isnan(values[position]):
            total += values[position] * width
            measured += width
    return total, measured


def _mean(seconds: Sequence[float], values: array[float], span: Span) -> float | None:
    total, measured = _integral(seconds, values, span.start_seconds, span.end_seconds)
    if measured:
        return total / measured
    low, high = _within(seconds, span, math.inf)
    return _largest(values[low:high])


def _energy(seconds: Sequence[float], counter: Sequence[float], span: Span) -> float | None:
    known = [(when, value) for when, value in zip(seconds, counter, strict=True) if not math.isnan(value)]
    if len(known) < 2 or span.end_seconds <= known[0][0] or span.start_seconds >= known[-1][0]:
        return None
    times, values = zip(*known, strict=True)
    used = _at(times, values, span.end_seconds) - _at(times, values, span.start_seconds)
    return used if used >= 0 else None  # a counter that was reset is useless


def _at(seconds: Sequence[float], values: Sequence[float], when: float) -> float:
    """Return the value at a time by linear interpolation."""
    position = min(max(bisect_left(seconds, when), 1), len(seconds) - 1)
    before, after = seconds[position - 1], seconds[position]
    share = min(1.0, max(0.0, (when - before) / (after - before))) if after > before else 1.0
    return values[position - 1] + share * (values[position] - values[position - 1])


def _largest(values: Iterable[float]) -> float | None:
    return max((value for value in values if not math.isnan(value)), default=None)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
