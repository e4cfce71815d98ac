# SPDX-License-Identifier: Apache-2.0
"""Requirements and timeouts of a plan derived from measured usage; pure except for reading records.

Only successes count, and for a sweep its largest combination. GPU memory follows the need, never the memory in use,
which may be a pool.
"""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import files
from runner.core.endings import final_success
from runner.core.trials import kept_fit
from runner.core.units import format_bytes, format_seconds
from runner.machine.card_size import MARGIN_FRACTION, smallest_card_gb
from runner.plan.matrix import expanded
from runner.plan.text import read

if TYPE_CHECKING:
    from runner.core.records import Metrics
    from runner.plan.model import Plan

MEMORY_MARGIN = 1.25
TIME_MARGIN = 3.0
SHORTEST_SECONDS = 600
CPU_SHARE = 0.95
_LARGEST_BYTES = 1 << 28
MARGINS = (
    f"margins: {MARGIN_FRACTION:.0%} of a card, {CPU_SHARE:.0%} quantile of the CPUs, {MEMORY_MARGIN:g}x the memory, "
    f"{TIME_MARGIN:g}x the time, at least {SHORTEST_SECONDS // 60}m"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """A changed value of a notebook; ``text`` is the value as written in the plan."""

    position: int
    notebook: str
    path: tuple[str, ...]
    old: str | None
    text: str
    figures: str

    def __str__(self) -> str:
        return f"{self.notebook}: {self.path[-1]} {self.old or 'not set'} -> {self.text} ({self.figures})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Untuned:
    """A notebook, or one of its values, that stays unchanged."""

    notebook: str
    reason: str

    def __str__(self) -> str:
        return f"{self.notebook}: unchanged, {self.reason}"


def tune(text: str, plan: Plan, outputs: Path) -> tuple[tuple[Tuning, ...], tuple[Untuned, ...]]:
    """Return the values to change in a plan's text, and those that cannot be derived from these outputs."""
    document = read(text, "the plan").document
    tuned: list[Tuning] = []
    untuned: list[Untuned] = []
    for position, entry in enumerate(document["notebooks"]):
        names = [one["name"] for one in expanded([entry])[0]]
        records = [found for name in names if (found := final_success(outputs / f"{name}.metrics.json"))]
        if len(records) < len(names):
            untuned.append(Untuned(notebook=entry["name"], reason=f"no success in {outputs}"))
            continue
        notebook = plan.notebook(names[0])
        for path, number, value, figures in _values(outputs, records, entry["name"], untuned):
            now = notebook.timeout if path == ("timeout",) else getattr(notebook.requires, path[-1])
            if now != number:
                old = None if now is None else _duration(now) if path == ("timeout",) else f"{now:g}"
                tuned.append(
                    Tuning(position=position, notebook=entry["name"], path=path, old=old, text=value, figures=figures)
                )
    return tuple(tuned), tuple(untuned)


def _values(
    outputs: Path, records: Sequence[Metrics], notebook: str, untuned: list[Untuned]
) -> Iterator[tuple[tuple[str, ...], float, str, str]]:
    """Yield key path, number, text and figures of each value that can be derived from the records."""
    gpus = [gpu for record in records for gpu in record.gpus]
    needs = [gpu.need_bytes for gpu in gpus if gpu.need_bytes is not None]
    card = smallest_card_gb(max(needs, default=None))
    proved = [fit.smallest for record in records if (fit := kept_fit(outputs, record)) and fit.smallest]
    if len(proved) == len(records):
        largest = max(proved, key=lambda one: one.card_gb)
        took = format_seconds(largest.wall_seconds)
        yield ("requires", "gpu_memory_gb"), largest.card_gb, str(largest.card_gb), f"proved by fit: {took}"
    elif needs and len(needs) == len(gpus) and card is not None:
        yield ("requires", "gpu_memory_gb"), card, str(card), f"need {format_bytes(max(needs))}"
    elif gpus:
        why = next(iter(gpu.unavailable.get("need_bytes") for gpu in gpus if gpu.need_bytes is None), None)
        untuned.append(Untuned(notebook=notebook, reason=f"gpu_memory_gb: {why or 'no common card has that much'}"))
    cores = [cores for record in records if (cores := _cores(outputs, record)) is not None]
    if len(cores) == len(records):
        cpus = max(1, math.ceil(max(cores) - 0.05))
        yield ("requires", "cpus"), cpus, str(cpus), f"{max(cores):.1f} cores busy"
    peaks = [record.host.peak_memory_bytes for record in records if record.host and record.host.peak_memory_bytes]
    if len(peaks) == len(records):
        size = math.ceil(max(peaks) * MEMORY_MARGIN / 1e9)
        yield ("requires", "memory_gb"), size, str(size), f"peak {format_bytes(max(peaks))}"
    longest = max(record.wall_seconds - (record.held_seconds or 0) for record in records)
    seconds = max(SHORTEST_SECONDS, math.ceil(longest * TIME_MARGIN / 300) * 300)
    yield ("timeout",), seconds, _duration(seconds), f"took {format_seconds(longest)}"


def _cores(outputs: Path, record: Metrics) -> float | None:
    """Return the number of busy cores at the `CPU_SHARE` quantile of the samples."""
    percents = []
    with contextlib.suppress(OSError, ValueError, csv.Error):
        text = files.read(outputs / f"{record.notebook}.samples.csv", _LARGEST_BYTES).decode()
        # Each GPU has a line with the same time.
        moments = {row["time_seconds"]: row["host_cpu_percent"] for row in csv.DictReader(text.splitlines())}
        percents = sorted(size for percent in moments.values() if percent and math.isfinite(size := float(percent)))
    return percents[math.ceil(CPU_SHARE * len(percents)) - 1] / 100 if percents else None


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"
