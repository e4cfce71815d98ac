# SPDX-License-Identifier: Apache-2.0
"""Time and memory of a notebook at full size, extrapolated from runs at fractions of it.

Time and memory of an analysis are sums of a constant and of terms in n, n log n, n^1.5, n^2 or n^3. Combinations of
terms are fitted by least squares of the relative errors, without negative terms. Of the models that explain the
measurements the one with the slowest growth is used, and the interval covers the predictions of the others.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from runner.core import log
from runner.core.errors import UsageError, did_you_mean
from runner.core.records import Cell, Metrics, Status
from runner.core.trials import FARTHEST, FORECAST, CellForecast, Estimate, Forecast, keep
from runner.core.units import format_count
from runner.machine.card_size import CARDS_GB, MARGIN_FRACTION
from runner.run.trial import run_trial, scratch

if TYPE_CHECKING:
    from runner.plan.job import Job, Options

_TIME_NOISE, _GPU_NOISE, _HOST_NOISE = 0.01, 0.002, 0.01
_BESIDE_NOISE = 0.1
"""Start, saving and release, which hardly depend on the size."""
_TIME_FLOOR, _MEMORY_FLOOR = 0.1, 16e6


def full_size(job: Job, parameter: str) -> float:
    """Return the full size: from an option, the plan, or the notebook's default.

    Raises
    ------
    UsageError
        The notebook has no such parameter, or it is not a positive number.
    """
    from runner.core.notebook_document import read_notebook
    from runner.stages.prepare.parameter_list import parameters_of
    from runner.stages.prepare.prepare import prepare

    value = job.parameters.get(parameter)
    if parameter not in job.parameters:
        found = {one.name: one for one in parameters_of(prepare(read_notebook(job.source), name=job.name).notebook)}
        if parameter not in found:
            hint = f"{did_you_mean(parameter, list(found))}`runner parameters` lists them"
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
    """Run a notebook at fractions of its size in scratch folders, and store a prediction for the full size.

    The smallest size runs twice: the first run fills caches and compiles kernels, and does not count.

    Raises
    ------
    UsageError
        A run failed, or there are fewer than three distinct sizes.
    """
    from runner.plan.job import resolve

    job = resolve(options)
    size = full_size(job, parameter)
    sizes = sorted({max(1, round(size * part)) if isinstance(size, int) else float(size * part) for part in fractions})
    if len(sizes) < 3:
        given = f"{parameter} = {size:g} at {', '.join(map(str, fractions))}"
        raise UsageError(
            f"{given} gives {format_count(len(sizes), 'size')}, 3 are required",
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
                hint="make it succeed with `runner run` first, or use smaller fractions",
            )
        records.append(record)
    found = predicted(records[1:], parameter=parameter, sizes=sizes, size=size)
    keep(job.path(FORECAST), found)
    return found


def predicted(records: Sequence[Metrics], *, parameter: str, sizes: Sequence[float], size: float) -> Forecast:
    """Return the prediction for another size from the records of runs at these sizes."""
    needed = all(gpu.need_bytes is not None for record in records for gpu in record.gpus)
    why = next(
        (gpu.unavailable.get("need_bytes") for record in records for gpu in record.gpus if gpu.need_bytes is None), None
    )
    gpus = [[_gpu_bytes(record, cell, needed=needed) for cell in record.cells] for record in records]
    cells, gpu_growth = [], []
    for index, cell in enumerate(records[-1].cells):
        same = [record.cells[index] for record in records]
        times = growth(sizes, [one.wall_seconds or 0.0 for one in same], noise=_TIME_NOISE, floor=_TIME_FLOOR)
        memory = _memory_growth(sizes, [by_cell[index] for by_cell in gpus], _GPU_NOISE)
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
    """Return a cell's need on the GPU with the highest one, else the memory in use there above the baseline."""
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
    """Add estimates with independent errors."""
    value = sum(one.value for one in estimates)
    below = math.hypot(*(one.value - one.low for one in estimates))
    above = math.hypot(*(one.high - one.value for one in estimates))
    return Estimate(value=value, low=max(0.0, value - below), high=value + above)


def _largest(curves: Sequence[Growth], card_gb: int, size: float) -> float | None:
    """Return the largest size whose peak fits a card with its margin; None if beyond `FARTHEST`."""
    room = card_gb * 1e9 * (1 - MARGIN_FRACTION)
    low, high = 0.0, size * FARTHEST
    if max(curve.at(high).value for curve in curves) <= room:
        return None
    while high - low > 1e-4 * high and high > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if max(curve.at(middle).value for curve in curves) <= room else (low, middle)
    return low


TERMS: dict[str, Callable[[float], float]] = {
    "1": lambda _: 1.0,
    "n": lambda n: n,
    "n log n": lambda n: n * math.log(n + 1),
    "n^1.5": lambda n: n**1.5,
    "n^2": lambda n: n**2,
    "n^3": lambda n: n**3,
}
"""From slow to fast growth."""
_MODELS: list[tuple[str, ...]] = [("1",), *((term,) for term in list(TERMS)[1:])]
_MODELS += [("1", term) for term in list(TERMS)[1:]] + [("n", term) for term in list(TERMS)[2:]] + [("1", "n", "n^2")]


@dataclass(frozen=True, slots=True)
class _Model:
    terms: tuple[str, ...]
    factors: tuple[float, ...]
    error: float

    def at(self, size: float) -> float:
        return sum(factor * TERMS[term](size) for term, factor in zip(self.terms, self.factors, strict=True))


@dataclass(frozen=True, slots=True)
class Growth:
    """Models that explain the measurements, best first."""

    models: tuple[_Model, ...]
    noise: float

    @property
    def law(self) -> str:
        """The dominant term."""
        return self.models[0].terms[-1]

    def at(self, size: float) -> Estimate:
        """Return the cost at a size."""
        found = [model.at(size) for model in self.models]
        spread = 3 * (self.noise + self.models[0].error) * found[0]
        return Estimate(
            value=found[0], low=max(0.0, min(*found, found[0] - spread)), high=max(*found, found[0] + spread)
        )


def growth(sizes: Sequence[float], costs: Sequence[float], *, noise: float, floor: float) -> Growth:
    """Fit models of growth to measured costs.

    Parameters
    ----------
    noise
        Relative error of a measurement. A faster growth must be better by this much for each step of `TERMS`.
    floor
        Costs below it are negligible.
    """
    costs_array = np.asarray(costs, dtype=float)
    weights = 1 / np.maximum(costs_array, floor)
    scored: list[tuple[float, _Model]] = []
    for terms in _MODELS:
        matrix = np.array([[TERMS[term](size) for term in terms] for size in sizes])
        scale = matrix.max(axis=0)
        found = np.linalg.lstsq(matrix / scale * weights[:, None], costs_array * weights, rcond=None)[0]
        if (found >= 0).all():
            factors = found / scale
            error = float(np.sqrt(np.mean(((matrix @ factors - costs_array) * weights) ** 2)))
            steps = max(
                0, list(TERMS).index(terms[-1]) + len(terms) // 3 - 1
            )  # a constant is not simpler than a flat line
            scored.append((error + noise * steps / 2, _Model(terms, tuple(map(float, factors)), error)))
    scored.sort(key=lambda pair: pair[0])
    return Growth(tuple(model for score, model in scored if score <= scored[0][0] + 2 * noise), noise)
