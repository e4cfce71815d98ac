# SPDX-License-Identifier: Apache-2.0
"""Who uses the GPUs of a run: its own processes beside the kernel, and neighbours.

NVML lists the processes of a device. In a container that list may be empty, or hold pids of the host,
which mean nothing here. So a neighbour counts only where its pid exists here and is not one of the run's,
or where it was listed before the kernel started. A process of the run that has begun with CUDA holds
the driver's memory device open, which shows in /proc; so may a fork of the kernel that never uses it,
and NVML decides where it lists the kernel itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runner.core.units import format_bytes
from runner.machine.nvml import DriverProblem

if TYPE_CHECKING:
    from runner.core.machine_records import GpuProcess
    from runner.machine.processes import Family

MOVES_BYTES = 64 * 2**20
"""More than the figures of an idle process wander, less than the smallest CUDA context."""

_DEVICE = "/dev/nvidia-uvm"
_EVERY = 10
"""NVML is asked at every tenth look: listing processes costs more than all figures of a device."""
_EVERY_BESIDE = 2
"""While processes beside the kernel, such as Dask workers, use the GPUs."""


class Gpu(Protocol):
    """A GPU that can be asked for its processes."""

    @property
    def uuid(self) -> str:
        """Full UUID."""

    def processes(self) -> tuple[GpuProcess, ...]:
        """Return the processes that NVML lists; raises when the GPU is lost."""


@dataclass(slots=True)
class _Neighbours:
    """What was seen on one GPU of others."""

    before: tuple[GpuProcess, ...] = ()
    seen: dict[int, GpuProcess] = field(default_factory=dict)
    totals: list[int | None] = field(default_factory=list)
    """Smallest and largest sum of their memory; None where NVML does not tell one of them."""


class CudaProcesses:
    """Remembers who was seen to use the GPUs of a run.

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
        """Ever members of the run: while one ends, /proc and NVML still list it, but it is not a member any more."""
        self.names: dict[int, str] = {}
        """Processes of the run beside the kernel, by pid."""
        self._peaks: dict[str, dict[int, GpuProcess]] = {gpu.uuid: {} for gpu in gpus}

    def look(self, *, at_once: bool = False) -> None:
        """Look again; the first look must come before the kernel starts.

        Parameters
        ----------
        at_once
            Ask NVML now, whenever it was asked last.
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
                self.names[pid] = self._name(pid)
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
        """Return the run's processes that NVML listed on a GPU, each with its largest memory."""
        return tuple(self._peaks[uuid].values())

    def strangers(self, uuid: str, processes: Iterable[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Return those of the processes on a GPU that are certainly none of the run's, by the last look."""
        before = {one.pid for one in self.before(uuid)}
        return tuple(
            one
            for one in processes
            if one.pid in before or (one.pid not in self._ours and (self._proc / str(one.pid)).exists())
        )

    def members(self) -> frozenset[int]:
        """Return the pids of the run's processes that are alive now."""
        self._family.observe()
        return self._members()

    def _members(self) -> frozenset[int]:
        members = self._family.members()
        self._ours |= members
        return members

    def before(self, uuid: str) -> tuple[GpuProcess, ...]:
        """Return who was on a GPU before the kernel started."""
        return self._on[uuid].before

    def neighbours(self, uuid: str) -> tuple[GpuProcess, ...]:
        """Return the others that were seen on a GPU, each with the last figure of its memory."""
        return tuple(self._on[uuid].seen.values())

    def moved(self, uuid: str) -> str | None:
        """Describe which others took or gave back memory of a GPU; None if nobody was seen to."""
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
                return any(os.readlink(entry.path) == _DEVICE for entry in entries)  # noqa: PTH115  (a Path each costs)
        except OSError:
            return False

    def _name(self, pid: int) -> str:
        try:
            return (self._proc / str(pid) / "comm").read_text(errors="replace").strip()
        except OSError:
            return "a process"


def listed_on(gpu: Gpu) -> tuple[GpuProcess, ...]:
    """Return what NVML lists on a GPU; nothing where the GPU is lost, which others report."""
    try:
        return gpu.processes()
    except DriverProblem:
        return ()


def total_bytes(processes: Iterable[GpuProcess]) -> int | None:
    """Return the memory of processes together; None where one of them is unknown."""
    sizes = [process.used_bytes for process in processes]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def shown(processes: Sequence[GpuProcess], most: int = 5) -> str:
    """Return processes in words."""
    sizes = ["" if one.used_bytes is None else f", {format_bytes(one.used_bytes)}" for one in processes]
    each = [
        f"{one.name or 'a process'} (pid {one.pid}{size})" for one, size in zip(processes[:most], sizes, strict=False)
    ]
    return ", ".join(each) + (f" and {len(processes) - most} more" if len(processes) > most else "")
