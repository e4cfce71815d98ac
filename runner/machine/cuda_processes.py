# SPDX-License-Identifier: Apache-2.0
"""Processes on the GPUs of a run: its own besides the kernel, and neighbours.

NVML lists the processes of a device. In a container that list may be empty, or contain pids of the host,
which are meaningless here. So a process counts as a neighbour only if its pid exists here and does not belong to
the run, or if it was listed before the kernel started. A process of the run that uses CUDA has the driver's memory
device open, visible in /proc; so may a fork of the kernel that never uses it, so NVML decides if it lists the
kernel itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core.units import format_bytes
from runner.machine.nvml import DriverProblem

if TYPE_CHECKING:
    from runner.core.machine_records import GpuProcess
    from runner.machine.device import Gpu
    from runner.machine.processes import Family

MOVES_BYTES = 64 * 2**20
"""More than the fluctuation of an idle process, less than the smallest CUDA context."""

_DEVICE = "/dev/nvidia-uvm"
_EVERY = 10
"""NVML is queried every tenth time: listing processes costs more than reading all values of a device."""
_EVERY_BESIDE = 2
"""Used while processes besides the kernel, such as Dask workers, use the GPUs."""


@dataclass(slots=True)
class _Neighbours:
    """Neighbours seen on one GPU."""

    before: tuple[GpuProcess, ...] = ()
    seen: dict[int, GpuProcess] = field(default_factory=dict)
    totals: list[int | None] = field(default_factory=list)
    """Smallest and largest sum of their memory; None if NVML does not report one of them."""


class CudaProcesses:
    """Tracks the processes that use the GPUs of a run.

    Parameters
    ----------
    family
        The run's processes.
    gpus
        The run's GPUs.
    """

    def __init__(self, family: Family, gpus: Sequence[Gpu] = (), *, proc: Path = Path("/proc")) -> None:
        self._family = family
        self._gpus = tuple(gpus)
        self._proc = proc
        self._looks = 0
        self._on: dict[str, _Neighbours] = {gpu.uuid: _Neighbours() for gpu in gpus}
        self._ours: set[int] = set()
        """All members of the run so far: /proc and NVML still list an exiting one that is no longer a member."""
        self.names: dict[int, str] = {}
        """Processes of the run besides the kernel, by pid."""
        self._peaks: dict[str, dict[int, GpuProcess]] = {gpu.uuid: {} for gpu in gpus}

    def look(self, *, at_once: bool = False) -> None:
        """Update; the first call must precede the start of the kernel.

        Parameters
        ----------
        at_once
            Query NVML in any case.
        """
        first, every = self._looks == 0, _EVERY_BESIDE if self.names else _EVERY
        regular = at_once or self._looks % every == 0
        self._looks += 1
        new = [pid for pid in self._family.others() if pid not in self.names]
        if not (regular or new):
            return
        members = self._members()
        listed = {gpu.uuid: listed_on(gpu) for gpu in self._gpus}
        pids = {process.pid for processes in listed.values() for process in processes}
        knows_kernel = bool((members - set(self._family.others())) & pids)
        for pid in new:
            if pid in pids if knows_kernel else self._uses_cuda(pid):
                try:
                    name = (self._proc / str(pid) / "comm").read_text(errors="replace").strip()
                except OSError:
                    name = "a process"
                self.names[pid] = name
        for uuid, processes in listed.items():
            if first:
                self._on[uuid].before = processes
            self._note(self._on[uuid], self.strangers(uuid, processes))
            peaks = self._peaks[uuid]
            for one in processes:
                if one.pid in members and (
                    one.pid not in peaks or (one.used_bytes or 0) > (peaks[one.pid].used_bytes or 0)
                ):
                    peaks[one.pid] = one

    def ours(self, uuid: str) -> tuple[GpuProcess, ...]:
        """Return the run's processes that NVML listed on a GPU, with their peak memory."""
        return tuple(self._peaks[uuid].values())

    def strangers(self, uuid: str, processes: Iterable[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Return the processes on a GPU that certainly do not belong to the run, as of the last update."""
        before = {one.pid for one in self.before(uuid)}
        return tuple(
            one
            for one in processes
            if one.pid in before or (one.pid not in self._ours and (self._proc / str(one.pid)).exists())
        )

    def members(self) -> frozenset[int]:
        """Return the pids of the run's live processes."""
        self._family.observe()
        return self._members()

    def _members(self) -> frozenset[int]:
        members = self._family.members()
        self._ours |= members
        return members

    def before(self, uuid: str) -> tuple[GpuProcess, ...]:
        """Return the processes on a GPU before the kernel started."""
        return self._on[uuid].before

    def neighbours(self, uuid: str) -> tuple[GpuProcess, ...]:
        """Return the neighbours seen on a GPU, with their last known memory."""
        return tuple(self._on[uuid].seen.values())

    def moved(self, uuid: str) -> str | None:
        """Describe the neighbours that allocated or freed memory of a GPU; None if none did."""
        on = self._on[uuid]
        known = [total for total in on.totals if total is not None]
        still = len(known) == len(on.totals) and (not known or max(known) - min(known) <= MOVES_BYTES)
        return None if still else f"others used this GPU too, {shown(self.neighbours(uuid))}"

    def _note(self, on: _Neighbours, strangers: tuple[GpuProcess, ...]) -> None:
        on.seen |= {process.pid: process for process in strangers}
        total = total_bytes(strangers)
        known = [one for one in (*on.totals, total) if one is not None]
        unknown = total is None or None in on.totals
        on.totals = [*([None] if unknown else []), *({min(known), max(known)} if known else ())]

    def _uses_cuda(self, pid: int) -> bool:
        try:
            with os.scandir(self._proc / str(pid) / "fd") as entries:
                return any(os.readlink(entry.path) == _DEVICE for entry in entries)  # noqa: PTH115  (a Path per entry is slow)
        except OSError:
            return False


def listed_on(gpu: Gpu) -> tuple[GpuProcess, ...]:
    """Return the processes that NVML lists on a GPU; empty if the GPU is lost, which is reported elsewhere."""
    try:
        return gpu.processes()
    except DriverProblem:
        return ()


def total_bytes(processes: Iterable[GpuProcess]) -> int | None:
    """Return the total memory of processes; None if one is unknown."""
    sizes = [process.used_bytes for process in processes]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def shown(processes: Sequence[GpuProcess]) -> str:
    """Return a readable list of processes, at most five of them."""
    most = 5
    sizes = ["" if one.used_bytes is None else f", {format_bytes(one.used_bytes)}" for one in processes]
    each = [
        f"{one.name or 'a process'} (pid {one.pid}{size})" for one, size in zip(processes[:most], sizes, strict=False)
    ]
    return ", ".join(each) + (f" and {len(processes) - most} more" if len(processes) > most else "")
