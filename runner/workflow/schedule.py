# SPDX-License-Identifier: Apache-2.0
"""Scheduling of the notebooks of a plan by dependencies and the capacity of the machine.

Pure: the caller reports starts and ends. Whether a notebook is skipped is decided by `runner run` from the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.core.requirements import gpus_wanted
from runner.plan.sharing import shared_products

if TYPE_CHECKING:
    from runner.plan.job import Job
    from runner.plan.model import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Resources that one notebook uses while it runs."""

    name: str
    needs: frozenset[str] = frozenset()
    gpus: int = 0
    gpu_bytes: float = 0.0
    cpus: float = 0.0
    memory_gb: float = 0.0
    shares: frozenset[str] = frozenset()
    """Products that other notebooks write as well: until one exists, only one notebook at a time may run."""
    seconds: float = 1.0
    """Duration of an earlier run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Capacity of the machine; None if unlimited or unknown."""

    jobs: int
    gpu_bytes: tuple[float, ...] = ()
    """Memory of each visible GPU."""
    cpus: float | None = None
    memory_gb: float | None = None


@dataclass(slots=True, kw_only=True)
class Schedule:
    """The notebooks still to run.

    Parameters
    ----------
    tasks
        In the plan's order, which is kept if only one may run at a time.
    """

    machine: Machine
    tasks: Sequence[Task]
    running: dict[str, Task] = field(default_factory=dict)
    warm: set[str] = field(default_factory=set)
    """Shared products that a notebook of this run has written, which any number of notebooks may use."""
    _waiting: dict[str, Task] = field(init=False)
    _gpus_of: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        length = critical_paths(self.tasks)
        in_order = self.machine.jobs == 1
        order = self.tasks if in_order else sorted(self.tasks, key=lambda task: -length[task.name])
        self._waiting = {task.name: task for task in order}

    @property
    def over(self) -> bool:
        """Whether all notebooks have ended."""
        return not self.running and not self._waiting

    def next(self) -> str | None:
        """Return the notebook to start now, None if there is none."""
        if len(self.running) >= self.machine.jobs:
            return None
        for task in self._waiting.values():
            open_needs = task.needs & {*self._waiting, *self.running}
            if not open_needs and self._fits(task):
                return task.name
        return None

    def start(self, name: str) -> None:
        """Record the start of a notebook."""
        task = self._waiting.pop(name)
        self._gpus_of[name] = self._free_gpus()[: task.gpus]
        self.running[name] = task

    def end(self, name: str, *, succeeded: bool) -> None:
        """Record its end."""
        task = self.running.pop(name)
        self._gpus_of.pop(name)
        if succeeded:
            self.warm |= task.shares

    def drop(self) -> None:
        """Drop all waiting notebooks."""
        self._waiting.clear()

    def _fits(self, task: Task) -> bool:
        """Return True if the machine has room; a single notebook may always start, as the gate checks it anyway."""
        if not self.running:
            return True
        free, busy = self._free_gpus(), self.running.values()
        if len(free) < task.gpus or any(size < task.gpu_bytes for size in free[: task.gpus]):
            return False
        if any(task.shares & other.shares - self.warm for other in busy):
            return False
        machine = self.machine
        cpus = sum(other.cpus for other in busy) + task.cpus
        memory = sum(other.memory_gb for other in busy) + task.memory_gb
        return (machine.cpus is None or cpus <= machine.cpus) and (
            machine.memory_gb is None or memory <= machine.memory_gb
        )

    def _free_gpus(self) -> list[float]:
        """Return the sizes of GPUs that are not in use by this run, largest first, as the gate chooses them."""
        free = sorted(self.machine.gpu_bytes, reverse=True)
        for held in self._gpus_of.values():
            for size in held:
                free.remove(size)
        return free


def critical_paths(tasks: Iterable[Task]) -> dict[str, float]:
    """Return for each notebook the length of the longest chain of notebooks that starts with it, in seconds."""
    found: dict[str, float] = {}
    tasks = list(tasks)
    for task in reversed(tasks):  # a plan lists notebooks after those that they need
        after = [found[other.name] for other in tasks if task.name in other.needs and other.name in found]
        found[task.name] = task.seconds + max(after, default=0.0)
    return found


def tasks_of(plan: Plan, jobs: Sequence[Job], seconds: Mapping[str, float], *, count_all: bool) -> list[Task]:
    """Return the resources of the notebooks of a plan.

    Parameters
    ----------
    seconds
        Durations of earlier runs; notebooks without one count as the mean of the others.
    count_all
        Count one CPU for a notebook without a requirement.
    """
    names = {job.name for job in jobs}
    shared = shared_products(plan)
    usual = sum(seconds.values()) / len(seconds) if seconds else 1.0
    return [
        Task(
            name=job.name,
            needs=frozenset(job.needs) & names,
            gpus=gpus_wanted(job.asked),
            gpu_bytes=(job.asked.gpu_memory_gb or 0) * 1e9 * job.asked.gpu_free_fraction,
            cpus=job.asked.cpus or float(count_all),
            memory_gb=job.asked.memory_gb or 0.0,
            shares=frozenset(key for key, sharers in shared.items() if job.name in sharers),
            seconds=seconds.get(job.name, usual),
        )
        for job in jobs
    ]
