# SPDX-License-Identifier: Apache-2.0
"""The allocator probe of one run, brought together with the GPUs that the run has.

The probe knows the notebook and no NVML, the watch knows the devices and no notebook; here their
figures meet and become records.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.machine_records import AllocatorProbe, DeviceShortage, GpuUse
from runner.core.records import Cause, Cell, Failure
from runner.machine import device_memory
from runner.machine.allocator_probe import probe
from runner.machine.allocator_probe.allocation import Account, Device, account, overhead_bytes, with_need

if TYPE_CHECKING:
    from runner.machine.run_monitor import Watch
    from runner.machine.usage import Span

OFF = "the allocator probe was switched off (--allocator-probe off)"
NOT_STARTED = "the allocator probe runs in IPython kernels only, and this kernel did not start it"
_WORKERS = "the notebook started a Dask cluster (dask_cuda), whose workers are processes with allocators of their own"


class Probing:
    """What the allocators of a run's kernel tell.

    Parameters
    ----------
    mode
        How much to measure.
    watch
        Who watches the GPUs of the run.
    """

    def __init__(self, mode: probe.Mode, watch: Watch) -> None:
        self.mode = mode
        self.startup = probe.startup(mode)
        """Lines for the kernel to start with."""
        self._watch = watch
        self._allocations = probe.Allocations()

    def variables(self) -> dict[str, str]:
        """Return what the kernel's environment needs."""
        return probe.variables(self.mode, len(self._watch.gpus))

    def collect(self, folder: Path) -> None:
        """Read what the kernel wrote into its private folder."""
        self._allocations = probe.read(folder)

    @property
    def warning(self) -> str | None:
        """What to tell when the probe had to step aside."""
        trouble = self._allocations.trouble
        return f"the allocator probe stepped aside: {trouble}" if trouble else None

    def record(self) -> AllocatorProbe:
        """Return what was measured with."""
        return self._allocations.record(self.mode)

    def join(
        self, cells: Sequence[Cell], uses: Sequence[GpuUse], spans: Sequence[Span]
    ) -> tuple[tuple[Cell, ...], tuple[GpuUse, ...]]:
        """Return the records of cells and GPUs with what was allocated."""
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
        """Return which other processes have memory on the GPUs, in words."""
        shown = ", ".join(f"{name} (pid {pid})" for pid, name in list(self._watch.users.names.items())[:8])
        if shown:
            return f"other processes of this run use CUDA too, {shown}"
        return _WORKERS if self._allocations.workers else None

    def explain(self, failure: Failure) -> Failure:
        """Return a failure for want of device memory with the figures of that moment, others unchanged."""
        if failure.cause is not Cause.DEVICE_MEMORY:
            return failure
        seen = device_memory.shortage(failure.message, self._shortage())
        return dataclasses.replace(failure, device_memory=seen, hint=device_memory.explain(failure.message, seen))

    def _shortage(self) -> DeviceShortage:
        """Return what was known when the kernel wrote its last row, else what the last sample shows."""
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
