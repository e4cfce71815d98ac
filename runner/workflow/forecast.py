# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a notebook at full size, from runs at fractions of it."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.errors import UsageError, did_you_mean
from runner.core.records import Cell, Metrics, Status
from runner.core.trials import FARTHEST, FORECAST, CellForecast, Estimate, Forecast, keep
from runner.machine.card_size import CARDS_GB, MARGIN_FRACTION
from runner.run.trial import run_trial, scratch
from runner.workflow.growth import Growth, growth

if TYPE_CHECKING:
    from runner.plan.job import Job, Options

_TIME_NOISE, _GPU_NOISE, _HOST_NOISE = 0.01, 0.002, 0.01
_BESIDE_NOISE = 0.1
"""Starting, saving and releasing take about as long whatever the size."""
_TIME_FLOOR, _MEMORY_FLOOR = 0.1, 16e6


def full_size(job: Job, parameter: str) -> float:
    """Return the size that a run has without a forecast: given, of the plan, or the notebook's own.

    Raises
    ------
    UsageError
        The notebook has no such number.
    """
    from runner.core.notebook_document import read_notebook
    from runner.stages.prepare.parameter_list import parameters_of
    from runner.stages.prepare.prepare import prepare

    value = job.parameters.get(parameter)
    if parameter not in job.parameters:
        found = {one.name: one for one in parameters_of(prepare(read_notebook(job.source), name=job.name).notebook)}
        if parameter not in found:
            hint = f"{did_you_mean(parameter, list(found))}`runner parameters` lists what it has"
            raise UsageError(f"{job.name} assigns no variable {parameter!r}", hint=hint)
        try:
            value = ast.literal_eval(found[parameter].default)
        except (ValueError, SyntaxError):
            value = found[parameter].default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(
            f"{parameter} is {value!r:.80}, not a number above 0", hint=f"give the full size: -p {parameter} 1000000"
        )
    return value


def forecast(options: Options, *, parameter: str, fractions: Sequence[Fraction]) -> Forecast:
    """Run a notebook at fractions of its size, in scratch folders, and predict and keep the whole.

    The smallest runs twice: the first run fills caches and compiles kernels, and is not counted.

    Raises
    ------
    UsageError
        A run did not succeed, or fractions of the size are one and the same.
    """
    from runner.plan.job import resolve

    job = resolve(options)
    size = full_size(job, parameter)
    sizes = sorted({max(1, round(size * part)) if isinstance(size, int) else float(size * part) for part in fractions})
    if len(sizes) < 3:
        raise UsageError(
            f"{parameter} = {size:g} at {', '.join(map(str, fractions))} makes {len(sizes)} sizes, 3 are needed",
            hint="give more fractions, or a larger full size",
        )
    records = []
    for one in (sizes[0], *sizes):
        log.info("forecast", nb=job.name, **{parameter: one})
        with scratch(job) as trial:
            record = run_trial(dataclasses.replace(trial, parameters={**options.parameters, parameter: one}))
        if record.status is not Status.SUCCEEDED:
            raise UsageError(
                f"{job.name} ended {record.status.value} with {parameter} = {one:g}: {record.reason}",
                hint="let it succeed with `runner run` first, or forecast from smaller fractions",
            )
        records.append(record)
    found = predicted(records[1:], parameter=parameter, sizes=sizes, size=size)
    keep(job.path(FORECAST), found)
    return found


def predicted(records: Sequence[Metrics], *, parameter: str, sizes: Sequence[float], size: float) -> Forecast:
    """Return what the records of runs at these sizes say about another one."""
    needed = all(gpu.need_bytes is not None for record in records for gpu in record.gpus)
    why = next(
        (gpu.unavailable.get("need_bytes") for record in records for gpu in record.gpus if gpu.need_bytes is None), None
    )
    gpus = [[_gpu_bytes(record, cell, needed=needed) for cell in record.cells] for record in records]
    cells, gpu_growth = [], []
    for index, cell in enumerate(records[-1].cells):
        same = [record.cells[index] for record in records]
        times = growth(sizes, [one.wall_seconds or 0.0 for one in same], noise=_TIME_NOISE, floor=_TIME_FLOOR)
        memory = _memory_growth(sizes, [of_run[index] for of_run in gpus], _GPU_NOISE)
        host = _memory_growth(sizes, [one.peak_host_memory_bytes for one in same], _HOST_NOISE)
        gpu_growth += [memory] if memory else []
        cells.append(
            CellForecast(
                index=cell.index,
                title=cell.title,
                seconds=times.at(size),
                time_law=times.law,
                gpu_bytes=memory.at(size) if memory else None,
                host_bytes=host.at(size) if host else None,
            )
        )
    rest = [max(0.0, record.wall_seconds - sum(one.wall_seconds or 0.0 for one in record.cells)) for record in records]
    beside = growth(sizes, rest, noise=_BESIDE_NOISE, floor=_TIME_FLOOR).at(size)
    return Forecast(
        notebook=records[0].notebook,
        parameter=parameter,
        size=size,
        measured=tuple(sizes),
        seconds=_sum([beside, *(cell.seconds for cell in cells)]),
        cells=tuple(cells),
        gpu_bytes=_peak([cell.gpu_bytes for cell in cells]),
        gpu_source="need" if needed else why or "the allocator reported nothing",
        host_bytes=_peak([cell.host_bytes for cell in cells]),
        largest={card: _largest(gpu_growth, card, size) for card in CARDS_GB} if gpu_growth else {},
        source_sha256=records[0].source.sha256,
        parameters={key: value for key, value in records[0].environment.parameters.items() if key != parameter},
    )


def _gpu_bytes(record: Metrics, cell: Cell, *, needed: bool) -> float | None:
    """Return what a cell needed of the fullest GPU, else what was in use there beyond the baseline."""
    uses = {gpu.uuid: gpu for gpu in record.gpus}
    found: list[float] = []
    if needed:
        for one in cell.allocated:
            use = uses.get(one.uuid)
            if one.peak_allocated_bytes is not None and use and use.allocated and use.need_bytes is not None:
                beside = use.need_bytes - (use.allocated.peak_allocated_bytes or 0)
                found.append(one.peak_allocated_bytes + beside)
    else:
        found = [
            used - (uses[uuid].baseline_bytes or 0)
            for uuid, used in cell.peak_gpu_memory_bytes.items()
            if used is not None and uuid in uses
        ]
    return max(found, default=None)


def _memory_growth(sizes: Sequence[float], costs: Sequence[float | None], noise: float) -> Growth | None:
    known = [cost for cost in costs if cost is not None]
    return growth(sizes, known, noise=noise, floor=_MEMORY_FLOOR) if len(known) == len(sizes) else None


def _peak(estimates: Sequence[Estimate | None]) -> Estimate | None:
    known = [one for one in estimates if one is not None]
    if not known:
        return None
    return Estimate(**{key: max(getattr(one, key) for one in known) for key in ("value", "low", "high")})


def _sum(estimates: Sequence[Estimate]) -> Estimate:
    """Add estimates whose errors have nothing to do with each other."""
    value = sum(one.value for one in estimates)
    below = math.hypot(*(one.value - one.low for one in estimates))
    above = math.hypot(*(one.high - one.value for one in estimates))
    return Estimate(value=value, low=max(0.0, value - below), high=value + above)


def _largest(curves: Sequence[Growth], card_gb: int, size: float) -> float | None:
    """Return the largest size whose peak leaves the margin of a card free; None far beyond the full size."""
    room = card_gb * 1e9 * (1 - MARGIN_FRACTION)
    low, high = 0.0, size * FARTHEST
    if max(curve.at(high).value for curve in curves) <= room:
        return None
    while high - low > 1e-4 * high and high > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if max(curve.at(middle).value for curve in curves) <= room else (low, middle)
    return low
