# SPDX-License-Identifier: Apache-2.0
"""Combines the allocator probe of a run with the run's GPUs.

The probe measures the notebook without NVML, the watch measures the devices without the notebook; here their
figures are joined into records.

Rules. A cell's peak is the largest of the rows written while it ran; a cell during which the kernel died has
none. Memory outside the pools is the device's free memory before the run, minus its free memory at the end of
the cell with the peak, minus the memory held by the allocators at that time; it is unknown if another program
allocated or freed memory of the GPU meanwhile. Pages of managed memory count for an allocator before they are
on the device, so a single cell's value is too small, and the largest of all cells is used. Processes besides
the kernel, such as Dask workers, have their own allocators: their memory is only part of the device's figure,
so the need is unknown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.machine_records import Allocated, AllocatorProbe, DeviceShortage, GpuUse
from runner.core.records import Cause, Cell, Failure
from runner.core.units import format_bytes
from runner.machine import device_memory
from runner.machine.allocator_probe import probe
from runner.machine.card_size import MARGIN_FRACTION, need_bytes, smallest_card_gb

if TYPE_CHECKING:
    from runner.machine.allocator_probe.probe import Allocation, Allocations
    from runner.machine.run_monitor import Watch
    from runner.machine.usage import Span

OFF = "the allocator probe was switched off (--allocator-probe off)"
NOT_STARTED = "the allocator probe runs in IPython kernels only, and this kernel did not start it"
_WORKERS = "the notebook started a Dask cluster (dask_cuda), whose workers are processes with their own allocators"
_CONTEXT_BYTES = 2 * 10**9
"""More than the size of a CUDA context with the modules of its libraries."""
NOT_REPORTED = "the kernel ended before the cell did, so its allocators reported nothing"
NO_LIBRARY = "the notebook's kernel imported neither rmm nor cupy"
NOTHING = "rmm and cupy allocated nothing on this GPU in the kernel's process"


class Probing:
    """The allocator probe of a run.

    Parameters
    ----------
    mode
        How much to measure.
    watch
        Monitor of the run's GPUs.
    """

    def __init__(self, mode: probe.Mode, watch: Watch) -> None:
        self.mode = mode
        self.startup = probe.startup(mode)
        """Startup lines for the kernel."""
        self._watch = watch
        self._allocations = probe.Allocations()

    def variables(self) -> dict[str, str]:
        """Return the variables for the kernel's environment."""
        return probe.variables(self.mode, len(self._watch.gpus))

    def collect(self, folder: Path) -> None:
        """Read the kernel's rows from its private folder."""
        self._allocations = probe.read(folder)

    @property
    def warning(self) -> str | None:
        """Why the probe removed itself, None if it did not."""
        trouble = self._allocations.trouble
        return f"the allocator probe was disabled: {trouble}" if trouble else None

    def record(self) -> AllocatorProbe:
        """Return the settings and versions of the measurement."""
        return self._allocations.record(self.mode)

    def join(
        self, cells: Sequence[Cell], uses: Sequence[GpuUse], spans: Sequence[Span]
    ) -> tuple[tuple[Cell, ...], tuple[GpuUse, ...]]:
        """Return the records of cells and GPUs with their allocations."""
        found = self._account(spans)
        return (
            tuple(dataclasses.replace(cell, allocated=found.cells.get(cell.index, ())) for cell in cells),
            tuple(with_need(use, found.gpus.get(use.uuid)) for use in uses),
        )

    def _account(self, spans: Sequence[Span]) -> Account:
        free = self._watch.free_before()
        return account(
            self._allocations,
            spans=spans,
            started_monotonic=self._watch.started_monotonic,
            devices=[
                Device(
                    uuid=gpu.uuid,
                    free_before_bytes=free.get(gpu.uuid),
                    neighbours=self._watch.users.moved(gpu.uuid),
                )
                for gpu in self._watch.gpus
            ],
            none_reason=self._absent(),
            others=self._others(),
        )

    def _absent(self) -> str | None:
        if self.mode == "off":
            return OFF
        return None if self._allocations.started or self._allocations.trouble else NOT_STARTED

    def _others(self) -> str | None:
        """Return a description of the run's other processes on the GPUs, or None."""
        shown = ", ".join(f"{name} (pid {pid})" for pid, name in list(self._watch.users.names.items())[:8])
        if shown:
            return f"other processes of this run use CUDA too, {shown}"
        return _WORKERS if self._allocations.workers else None

    def explain(self, failure: Failure) -> Failure:
        """Return an out-of-memory failure with the figures at that time; other failures unchanged."""
        if failure.cause is not Cause.DEVICE_MEMORY:
            return failure
        seen = device_memory.shortage(failure.message, self._shortage())
        return dataclasses.replace(failure, device_memory=seen, hint=device_memory.explain(failure.message, seen))

    def _shortage(self) -> DeviceShortage:
        """Return the figures of the kernel's last row, else of the last sample."""
        gpus = self._watch.gpus
        row = self._allocations.rows[-1] if self._allocations.rows else None
        gpu = gpus[row.device] if row is not None and row.device < len(gpus) else next(iter(gpus), None)
        uuid = gpu.uuid if gpu is not None else ""
        free_before = self._watch.free_before().get(uuid)
        latest = self._watch.sampler.latest
        used = latest.gpu_used_bytes.get(uuid) if latest else None
        total = gpu.total_bytes if gpu is not None else None
        free = row.free_bytes if row is not None else None
        if free is None and used is not None and total is not None:
            free = max(0, total - used)
        return DeviceShortage(
            allocated_bytes=row.end_bytes if row is not None else None,
            pool_bytes=row.pool_bytes if row is not None else None,
            free_bytes=free,
            total_bytes=total if total is not None or row is None else row.total_bytes,
            outside_bytes=overhead_bytes(row, free_before) if row is not None else None,
            baseline_bytes=self._watch.baseline.get(uuid),
            managed=row.managed if row is not None else False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What is known about a GPU outside the kernel."""

    uuid: str
    free_before_bytes: int | None = None
    """Free before the kernel started."""
    neighbours: str | None = None
    """Other programs that allocated or freed its memory during the run; None if there were none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Allocations of a run by cell and by GPU."""

    cells: Mapping[int, tuple[Allocated, ...]] = field(default_factory=dict)
    gpus: Mapping[str, Allocated] = field(default_factory=dict)


def account(
    allocations: Allocations,
    *,
    spans: Sequence[Span],
    started_monotonic: float,
    devices: Sequence[Device],
    none_reason: str | None = None,
    others: str | None = None,
) -> Account:
    """Return the allocations of each cell and of the run.

    Parameters
    ----------
    allocations
        Data of the probe.
    spans
        Start and end of the cells, relative to the run's start.
    started_monotonic
        The run's start.
    devices
        The run's GPUs in the kernel's order.
    none_reason
        Why the probe did not run.
    others
        Other processes of the run on the GPUs; None if there are none.
    """
    reason = none_reason or allocations.trouble or (None if allocations.libraries else NO_LIBRARY)
    by_uuid = _by_uuid(allocations.rows, devices)
    cells: dict[int, list[Allocated]] = {}
    gpus = {device.uuid: Allocated(uuid=device.uuid, source="none", reason=reason or NOTHING) for device in devices}
    for uuid, rows in by_uuid.items():
        device = next((device for device in devices if device.uuid == uuid), Device(uuid=uuid))
        before = None if device.neighbours else device.free_before_bytes
        reported = {span.index: _cell(uuid, _within(rows, span, started_monotonic), before) for span in spans}
        found = {index: one for index, one in reported.items() if one is not None}
        for index, one in found.items():
            cells.setdefault(index, []).append(one)
        gpus[uuid] = _run(
            uuid, list(found.values()), rows, others=others or device.neighbours, trouble=allocations.trouble
        )
    return Account(cells={index: tuple(each) for index, each in cells.items()}, gpus=gpus)


def with_need(use: GpuUse, allocated: Allocated | None) -> GpuUse:
    """Return a GPU's record with its allocations, the need, and the smallest card for it."""
    if allocated is None:
        return use
    grown = (use.peak_gpu_memory_bytes or 0) - (use.baseline_bytes or 0)
    if allocated.reason == NOTHING and grown > _CONTEXT_BYTES:
        reason = f"{NOTHING}, yet its memory in use grew by {format_bytes(grown)}: another library or process took it"
        allocated = dataclasses.replace(allocated, reason=reason)
    need = need_bytes(allocated.peak_allocated_bytes, allocated.overhead_bytes)
    why = {} if need is not None else {"need_bytes": allocated.reason or "the memory outside the pool is unknown"}
    return dataclasses.replace(
        use,
        allocated=allocated,
        need_bytes=need,
        smallest_card_gb=smallest_card_gb(need),
        card_margin_fraction=None if need is None else MARGIN_FRACTION,
        unavailable={**use.unavailable, **why},
    )


def _by_uuid(rows: Iterable[Allocation], devices: Sequence[Device]) -> dict[str, list[Allocation]]:
    """Group rows by GPU: by UUID if the kernel reported it, since a notebook may change the order, else by number."""
    digits = {device.uuid.partition("-")[2].replace("-", "").lower(): device.uuid for device in devices}
    found: dict[str, list[Allocation]] = {}
    numbers: dict[int, str] = {}
    for row in rows:
        if row.uuid is not None:
            parts = (row.uuid[:8], row.uuid[8:12], row.uuid[12:16], row.uuid[16:20], row.uuid[20:])
            numbers[row.device] = digits.get(row.uuid) or f"GPU-{'-'.join(parts)}"
        elif row.device not in numbers and row.device < len(devices):
            numbers[row.device] = devices[row.device].uuid
        if row.device in numbers:
            found.setdefault(numbers[row.device], []).append(row)
    return found


def _within(rows: Sequence[Allocation], span: Span, started_monotonic: float) -> list[Allocation]:
    start, end = started_monotonic + span.start_seconds, started_monotonic + span.end_seconds
    return [row for row in rows if start <= row.monotonic <= end]


def _cell(uuid: str, rows: Sequence[Allocation], free_before: int | None) -> Allocated | None:
    if not rows:
        return None
    last = rows[-1]
    if last.at != "end":
        return Allocated(uuid=uuid, source="none", reason=NOT_REPORTED)
    return Allocated(
        uuid=uuid,
        source=last.source,
        peak_allocated_bytes=max(row.peak_bytes for row in rows),
        end_allocated_bytes=last.end_bytes,
        pool_bytes=last.pool_bytes,
        overhead_bytes=overhead_bytes(last, free_before),
        managed=last.managed,
    )


def overhead_bytes(row: Allocation, free_before: int | None) -> int | None:
    """Return the device memory held outside the allocators, None if unknown."""
    if row.free_bytes is None or row.held_bytes is None or free_before is None:
        return None
    outside = free_before - row.free_bytes - row.held_bytes
    return outside if outside >= 0 else None  # others freed memory, or managed pages are not on the device


def _run(
    uuid: str, cells: Sequence[Allocated], rows: Sequence[Allocation], *, others: str | None, trouble: str | None
) -> Allocated:
    """Return the run's figures, those of the cell with the largest peak."""
    reported = [(one.peak_allocated_bytes, one) for one in cells if one.peak_allocated_bytes is not None]
    if not reported:
        return Allocated(uuid=uuid, source="none", reason=trouble or NOT_REPORTED)
    peak, top = max(reported, key=lambda pair: pair[0])
    known = [one.overhead_bytes for one in cells if one.overhead_bytes is not None]
    overhead = max(known, default=None) if top.managed or top.overhead_bytes is None else top.overhead_bytes
    reason = trouble or (NOT_REPORTED if any(one.source == "none" for one in cells) else None)
    if others is not None:
        overhead, reason = None, f"{others}: their memory is in the device's figure only"
    return Allocated(
        uuid=uuid,
        source=top.source,
        peak_allocated_bytes=peak,
        end_allocated_bytes=rows[-1].end_bytes,
        pool_bytes=top.pool_bytes,
        overhead_bytes=overhead,
        managed=top.managed,
        reason=reason,
    )
