# SPDX-License-Identifier: Apache-2.0
"""Advice on resources and scheduling, each line with the figures it is derived from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from runner.core.records import Status
from runner.core.units import format_bytes, format_count, format_seconds
from runner.machine.card_size import smallest_card_gb

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from runner.core.machine_records import GpuUse
    from runner.core.trials import Attempt, Forecast
    from runner.report.assemble import Entry, Report
    from runner.report.html.timeline import Row
    from runner.report.sample_series import Pool
    from runner.report.summary import NotebookSummary, Summary

GATE_TOO_HIGH = 2.0
"""A requirement this many times the need excludes cards that would suffice."""
SPARE_BYTES = 4e9
IDLE_SHARE, IDLE_SECONDS = 0.25, 60.0
NEAR_LIMIT = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One line of advice with its figures."""

    notebooks: tuple[str, ...]
    anchor: str | None
    kind: str
    text: str
    figures: str


def advise(
    report: Report, summary: Summary, rows: Sequence[Row], pools: Mapping[str, tuple[Pool, ...]]
) -> tuple[Advice, ...]:
    """Return the advice on each notebook, then on the plan."""
    found: list[Advice] = []
    for entry, nb in zip(report.entries, summary.notebooks, strict=True):
        for kind, text, figures in _notebook(entry, nb, pools.get(entry.name, ())):
            found.append(Advice(notebooks=(entry.name,), anchor=entry.anchor, kind=kind, text=text, figures=figures))
    found.extend(_shared_stages(rows, {nb.name: nb for nb in summary.notebooks}, pools))
    return tuple(found)


def _notebook(entry: Entry, nb: NotebookSummary, pools: Sequence[Pool]) -> Iterator[tuple[str, str, str]]:
    yield from _pool(entry, nb, pools)
    if not any(gpu.neighbours for gpu in (entry.metrics.gpus if entry.metrics else ())) or nb.need_bytes is not None:
        yield from _gate(
            nb, pools, entry.fit.smallest if entry.fit else None
        )  # else the peak is not this notebook's alone
    if entry.metrics and entry.forecast:
        yield from _larger_input(nb, entry.metrics.environment.parameters, entry.forecast)
    held, busy = nb.gpu_held_seconds, nb.gpu_busy_seconds
    if held and busy is not None and held >= IDLE_SECONDS and busy < IDLE_SHARE * held:
        yield (
            "idle GPU",
            "the GPU is idle most of the time it is held: move CPU work into a separate notebook",
            f"held {format_seconds(held)}, busy {format_seconds(busy)} ({busy / held:.0%})",
        )
    peak, limit = nb.peak_host_memory_bytes, nb.host_memory_limit_bytes
    if peak and limit and peak >= NEAR_LIMIT * limit:
        yield (
            "host memory",
            "the peak is close to the memory of the machine: a slightly larger input does not fit"
            if entry.metrics and entry.metrics.host and entry.metrics.host.memory_limit_source == "host"
            else "the memory limit is close to the peak: raise it before a slightly larger input ends the container",
            f"peak {format_bytes(peak)} of {format_bytes(limit)} ({peak / limit:.0%})",
        )
    cells = _failed_cells(entry)
    if len(cells) > 1 and len(set(cells)) == 1:
        yield (
            "same cell",
            f"it fails in cell {cells[0] + 1} every time: another run will not help",
            f"{len(cells)} of {len(cells)} recorded runs failed in cell {cells[0] + 1}",
        )


def _pool(entry: Entry, nb: NotebookSummary, pools: Sequence[Pool]) -> Iterator[tuple[str, str, str]]:
    if not pools:
        return
    reported = nb.peak_allocated_bytes
    uses = {gpu.uuid: gpu for gpu in (entry.metrics.gpus if entry.metrics else ())}
    yield (
        "pool",
        "the GPU memory peak is a pool and not the need: about half of the free memory was allocated in one step, as "
        "by rmm's pool allocator"
        + ("" if reported is not None else "; the allocator's figures were not recorded, so the need is unknown"),
        "; ".join(_pool_figures(pool, uses.get(pool.uuid), several=len(uses) > 1) for pool in pools),
    )


def _pool_figures(pool: Pool, use: GpuUse | None, *, several: bool) -> str:
    reported = use.allocated.peak_allocated_bytes if use and use.allocated else None
    return (
        (f"GPU {use.index if use and use.index is not None else pool.uuid}: " if several else "")
        + f"{format_bytes(pool.taken_bytes)} of {format_bytes(pool.free_bytes)} free ({pool.share:.0%}) allocated "
        f"{format_seconds(pool.at_seconds)} after the start"
        + (f"; peak allocation from the pool {format_bytes(reported)}" if reported is not None else "")
    )


def _larger_input(
    nb: NotebookSummary, parameters: Mapping[str, object], forecast: Forecast
) -> Iterator[tuple[str, str, str]]:
    """Advise on the card for a larger input if a forecast exceeds the requirement."""
    peak, ran = forecast.gpu_bytes, parameters.get(forecast.parameter)
    if peak is None or (isinstance(ran, int | float) and ran >= forecast.size):
        return
    card = smallest_card_gb(int(peak.high))
    if card and card > (nb.asked_gpu_memory_gb or 0):
        yield (
            "larger input",
            f"with {forecast.parameter} = {forecast.size:,.10g} it needs a {card} GB card: raise the gate accordingly",
            f"forecast {format_bytes(peak.value)} ({format_bytes(peak.low)} to {format_bytes(peak.high)}) from runs at "
            + ", ".join(f"{size:,.10g}" for size in forecast.measured),
        )


def _gate(nb: NotebookSummary, pools: Sequence[Pool], proved: Attempt | None) -> Iterator[tuple[str, str, str]]:
    """Compare the gate with the card proved by `fit`, else with the need.

    If the need is unknown, NVML's peak is used, unless it is a pool.
    """
    need, word = (nb.need_bytes, "need") if nb.need_bytes is not None else (nb.peak_gpu_memory_bytes, "peak")
    if nb.status is not Status.SUCCEEDED:
        return
    asked, factor = (nb.asked_gpu_memory_gb or 0) * 1e9, GATE_TOO_HIGH
    card = proved.card_gb if proved else smallest_card_gb(need) if need is not None else None
    figures = f"requested {f'{nb.asked_gpu_memory_gb:g} GB' if asked else 'nothing'}, "
    if proved:
        need, factor = proved.card_gb * 10**9, 1.0
        figures += f"proved on {card} GB by fit: {format_seconds(proved.wall_seconds)}"
        bad, enough = "were not proved", f": request {card} GB"
    elif need is None or (word == "peak" and pools):
        return
    else:
        figures += f"{word} {format_bytes(need)}"
        bad, enough = "are too small", f"; {card} GB would suffice" if card else ""
    if asked and need > asked:
        yield "gate too low", f"the gate accepts cards that {bad}{enough}", figures
    elif asked > factor * need and asked - need > SPARE_BYTES and card and card * 1e9 < asked:
        yield "gate too high", f"the gate rejects cards that would suffice{enough}", figures
    elif not asked and need > SPARE_BYTES:
        yield "no gate", f"it requests no GPU memory and may start on a nearly full GPU{enough}", figures


def _failed_cells(entry: Entry) -> list[int]:
    """Return the failed cell of each recorded run; empty if any of them did not fail in a cell."""
    records = [*entry.attempts, *([entry.metrics] if entry.metrics else [])]
    cells = [
        record.failure.cell_index for record in records if record.failure and record.failure.cell_index is not None
    ]
    return cells if len(cells) == len(records) else []


def _shared_stages(
    rows: Sequence[Row], figures: Mapping[str, NotebookSummary], pools: Mapping[str, tuple[Pool, ...]]
) -> Iterator[Advice]:
    """Advise on independent notebooks that ran sequentially."""
    needs = {row.entry.name: set(row.entry.needs) for row in rows}
    if not any(needs.values()):
        return  # a plan without needs says nothing about the order
    depth = depths(needs)
    levels: dict[int, list[Row]] = {}
    for row in rows:
        if row.start is not None and row.entry.status is Status.SUCCEEDED:
            levels.setdefault(depth[row.entry.name], []).append(row)
    for level in levels.values():
        ordered = sorted(level, key=lambda row: row.start or 0)
        serial = all((b.start or 0) >= (a.end or 0) for a, b in itertools.pairwise(ordered))
        walls = [(row.end or 0) - (row.start or 0) for row in ordered]
        saved = sum(walls) - max(walls, default=0)
        if len(ordered) < 2 or not serial or saved < 60:
            continue
        names = tuple(row.entry.name for row in ordered)
        where = _placement(names, figures, pools)
        yield Advice(
            notebooks=names,
            anchor=None,
            kind="one stage",
            text=f"{', '.join(names)} do not depend on each other: run them in parallel{where}",
            figures=f"in sequence {format_seconds(sum(walls))}, the longest alone {format_seconds(max(walls))}",
        )


def depths(needs: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Return the length of the longest chain of needs of each notebook."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(needs).static_order():
        found[name] = max((1 + found[need] for need in needs.get(name, ())), default=0)
    return found


def _placement(
    names: Sequence[str], figures: Mapping[str, NotebookSummary], pools: Mapping[str, tuple[Pool, ...]]
) -> str:
    known = [
        figures[name].need_bytes if figures[name].need_bytes is not None else figures[name].peak_gpu_memory_bytes
        for name in names
        if name not in pools or figures[name].need_bytes is not None
    ]
    totals = [total for name in names if (total := figures[name].gpu_total_bytes) is not None]
    needs = [need for need in known if need is not None]
    if not totals:
        return ""
    single = all(figures[name].gpus == 1 for name in names)
    if single and len(needs) == len(names) and sum(needs) <= 0.9 * min(totals):
        return f", even on one GPU ({format_bytes(sum(needs))} together of {format_bytes(min(totals))})"
    return f" on {format_count(sum(figures[name].gpus for name in names), 'GPU')}"
