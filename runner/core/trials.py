# SPDX-License-Identifier: Apache-2.0
"""Results of `fit` and `forecast`, stored next to a notebook's outputs for the report and `plan tune`.

They are only valid for the same source and parameters.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.core import files
from runner.core.records import Status
from runner.core.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import TypeAdapter

    from runner.core.records import Metrics

FIT, FORECAST = ".fit.json", ".forecast.json"
_LARGEST_BYTES = 1 << 24
FARTHEST = 1000
"""Largest multiple of the full size that is predicted."""
_SHOWN_CELLS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run with the memory of a smaller card."""

    card_gb: int
    left_bytes: int
    """Memory available to the notebook."""
    status: str
    wall_seconds: float
    need_bytes: int | None = None
    cell: int | None = None
    """The cell that failed, counted from 1."""
    asked_bytes: int | None = None
    reason: str | None = None

    @property
    def fits(self) -> bool:
        """Whether the notebook succeeded."""
        return self.status == Status.SUCCEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Result of `runner fit`."""

    notebook: str
    gpu: str
    attempts: tuple[Attempt, ...]
    full_seconds: float | None = None
    """Duration with the full memory, if known."""
    source_sha256: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def smallest(self) -> Attempt | None:
        """The smallest card on which the notebook succeeded."""
        return min((one for one in self.attempts if one.fits), key=lambda one: one.card_gb, default=None)

    def lines(self) -> Iterator[str]:
        """Yield one line for each attempt, smallest card first."""
        for one in sorted(self.attempts, key=lambda each: each.card_gb):
            if one.fits:
                times = f" ({one.wall_seconds / self.full_seconds:.1f}x)" if self.full_seconds else ""
                yield f"proved on {one.card_gb} GB: {format_seconds(one.wall_seconds)}{times}"
            else:
                where = f"fails in cell {one.cell}" if one.cell else "fails"
                asked = f" allocating {format_bytes(one.asked_bytes)}" if one.asked_bytes else f": {one.reason}"
                yield f"{one.card_gb} GB: {where}{asked}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A prediction with an interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CellForecast:
    """One cell at full size."""

    index: int
    title: str | None
    seconds: Estimate
    time_law: str
    gpu_bytes: Estimate | None = None
    host_bytes: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A notebook at full size; the peaks are those of its largest cell."""

    notebook: str
    parameter: str
    size: float
    measured: tuple[float, ...]
    seconds: Estimate
    cells: tuple[CellForecast, ...]
    gpu_bytes: Estimate | None = None
    gpu_source: str = "need"
    """``need``, or the reason why it is the memory in use on the device, which may be a pool."""
    host_bytes: Estimate | None = None
    largest: dict[int, float | None] = field(default_factory=dict)
    """Largest size for each common card in decimal GB; None if it is beyond `FARTHEST`."""
    source_sha256: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    """All other parameters."""

    def lines(self) -> Iterator[str]:
        """Yield lines for a terminal: the longest cells, the one with the memory peak, and the totals."""
        measured = ", ".join(f"{size:,.10g}" for size in self.measured)
        yield f"{self.notebook} at {self.parameter} = {self.size:,.10g}, measured at {measured}"
        longest = sorted(self.cells, key=lambda cell: -cell.seconds.value)[:_SHOWN_CELLS]
        top = max(self.cells, key=lambda cell: cell.gpu_bytes.value if cell.gpu_bytes else 0.0, default=None)
        for cell in self.cells:
            if cell in longest or cell is top:
                memory = f", GPU {_memory(cell.gpu_bytes)}" if cell.gpu_bytes else ""
                title = f"  {cell.title[:50]}" if cell.title else ""
                yield f"cell {cell.index + 1}: {_time(cell.seconds)}, grows as {cell.time_law}{memory}{title}"
        parts = [_time(self.seconds)]
        if self.gpu_bytes:
            source = "" if self.gpu_source == "need" else f" (in use, which may be a pool: {self.gpu_source})"
            parts.append(f"GPU peak {_memory(self.gpu_bytes)}{source}")
        if self.host_bytes:
            parts.append(f"host peak {_memory(self.host_bytes)}")
        yield f"whole notebook: {', '.join(parts)}"
        for card, size in self.largest.items():
            most = f"any size up to {FARTHEST} times that" if size is None else f"up to {size:,.0f}"
            yield f"{card} GB: {most}"


def keep(path: Path, found: Fit | Forecast) -> None:
    """Write a result."""
    files.make_folder(path.parent)
    files.write(path, json.dumps(dataclasses.asdict(found), indent=1) + "\n")


def kept_fit(folder: Path, record: Metrics) -> Fit | None:
    """Return the stored fit of a notebook if source and parameters match its record."""
    found: Fit | None = _read(Fit, folder / f"{record.notebook}{FIT}")
    return found if found and (found.source_sha256, found.parameters) == _inputs(record) else None


def kept_forecast(folder: Path, record: Metrics) -> Forecast | None:
    """Return the stored forecast of a notebook if source and parameters, except the size, match its record."""
    found: Forecast | None = _read(Forecast, folder / f"{record.notebook}{FORECAST}")
    return found if found and (found.source_sha256, found.parameters) == _inputs(record, found.parameter) else None


def _inputs(record: Metrics, but: str | None = None) -> tuple[str | None, dict[str, Any]]:
    return record.source.sha256, {key: value for key, value in record.environment.parameters.items() if key != but}


def _read(kind: Any, path: Path) -> Any:
    with contextlib.suppress(OSError, ValueError):
        return _adapter(kind).validate_json(files.read(path, _LARGEST_BYTES))
    return None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _time(seconds: Estimate) -> str:
    return f"{format_seconds(seconds.value)} ({format_seconds(seconds.low)} to {format_seconds(seconds.high)})"


def _memory(size: Estimate) -> str:
    return f"{format_bytes(size.value)} ({format_bytes(size.low)} to {format_bytes(size.high)})"
