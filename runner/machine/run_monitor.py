# SPDX-License-Identifier: Apache-2.0
"""Monitoring of the machine while a notebook runs: samples, memory guard, processes.

`Watch` starts them before the kernel, follows the kernel once it has a pid, and provides the records
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from runner.core.machine_records import GpuUse, Host, Sampling
from runner.machine import processes
from runner.machine.activity import ActivityMeter
from runner.machine.cuda_processes import CudaProcesses
from runner.machine.device import read_baseline
from runner.machine.guard import MemoryGuard
from runner.machine.host import Container, read_limits
from runner.machine.processes import Family
from runner.machine.sampler import Sampled, Sampler
from runner.machine.usage import CellUse, GpuFigures, Span, per_cell, per_run

INTERVAL_SECONDS = 0.5


class Watch:
    """Monitors one run.

    Parameters
    ----------
    tag
        Unique tag of the run's processes.
    samples
        File for the samples.
    started_monotonic
        Start of the run.
    gpus
        The GPUs chosen by the gate.
    guard_fraction
        Share of the container's memory at which the guard acts.
    on_breach
        Called by the guard with the bytes in use; must kill immediately.
    """

    def __init__(
        self,
        *,
        tag: str,
        samples: Path,
        started_monotonic: float,
        gpus: Sequence[Any],
        guard_fraction: float,
        on_breach: Callable[[int], None],
    ) -> None:
        self.tag = tag
        self.gpus = tuple(gpus)
        self.started_monotonic = started_monotonic
        self.baseline: dict[str, int | None] = {}
        self._readings: dict[str, Any] = {}
        self.container = Container()
        self._kills_before = self.container.oom_kills()
        self.family = Family(self.tag, adopts=processes.adopt_orphans())
        self.sampler = Sampler(
            path=samples,
            started_monotonic=started_monotonic,
            interval_seconds=INTERVAL_SECONDS,
            gpus=self.gpus,
            family=self.family,
        )
        self.users = CudaProcesses(self.family, self.gpus)
        if self.gpus:
            self.sampler.on_tick.append(lambda _: self.users.look())
        self.guard = MemoryGuard(self.container, guard_fraction, on_breach)
        self._meters = {gpu.uuid: ActivityMeter(gpu, self.sampler.series(gpu.uuid)) for gpu in self.gpus}
        self._activity: dict[str, dict[str, float]] = {}
        self.sampled: Sampled | None = None

    def kernel_environment(self) -> dict[str, str]:
        """Return the environment variables that identify the kernel and its descendants."""
        return {processes.RUN_TAG: self.tag}

    def __enter__(self) -> Self:
        for gpu in self.gpus:
            self._readings[gpu.uuid] = gpu.read()
        self.baseline = read_baseline(self.gpus)
        if self.gpus:
            self.users.look()  # before any process of the run exists
        self.sampler.start()
        self.guard.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def free_before(self) -> dict[str, int | None]:
        """Return the free memory of each GPU before the kernel started."""
        return {uuid: reading.free_bytes for uuid, reading in self._readings.items()}

    def follow(self, pid: int) -> None:
        """Start following a kernel."""
        self.sampler.watch(pid)
        self.sampler.meters = self._meters

    def oom_kills(self) -> int:
        """Return the number of OOM kills in this container since the run started."""
        now = self.container.oom_kills()
        return max(0, now - self._kills_before) if now is not None and self._kills_before is not None else 0

    def stop(self) -> Sampled:
        """Stop sampling and guard; further calls have no effect."""
        if self.sampled is None:
            self.guard.stop()
            self.sampled = self.sampler.stop()
            self._activity = {
                uuid: {} if self.sampler.given_up else meter.stop() for uuid, meter in self._meters.items()
            }
        return self.sampled

    def cells(self, spans: Sequence[Span]) -> dict[int, CellUse]:
        """Join the samples with the times of cells."""
        return per_cell(self.stop(), spans)

    def gpu_uses(self, driver: Any, *, held_seconds: float) -> tuple[GpuUse, ...]:
        """Return the usage of each GPU.

        Parameters
        ----------
        held_seconds
            How long this run held the GPUs.
        """
        use = per_run(self.stop())
        uses = []
        for gpu in self.gpus:
            figures = use.gpus.get(gpu.uuid, GpuFigures())
            uses.append(
                GpuUse(
                    uuid=gpu.uuid,
                    index=gpu.index,
                    name=gpu.name,
                    total_bytes=gpu.total_bytes,
                    memory_api=self._readings[gpu.uuid].memory_api,
                    memory_source=self._readings[gpu.uuid].memory_source,
                    baseline_bytes=self.baseline[gpu.uuid],
                    peak_gpu_memory_bytes=figures.peak_gpu_memory_bytes,
                    utilization_mean_percent=figures.utilization_mean_percent,
                    utilization_max_percent=figures.utilization_max_percent,
                    energy_joules=figures.energy_joules,
                    energy_seconds=figures.energy_seconds,
                    energy_idle_joules=figures.idle_joules(self._readings[gpu.uuid].power_watts),
                    held_seconds=round(held_seconds, 3),
                    busy_seconds=figures.busy_seconds,
                    temperature_max_celsius=figures.temperature_max_celsius,
                    activity=self._activity[gpu.uuid],
                    driver_version=driver.driver_version if driver else None,
                    cuda_version=driver.cuda_version if driver else None,
                    mig=gpu.mig,
                    neighbours=self.users.neighbours(gpu.uuid),
                    processes=self.users.ours(gpu.uuid),
                    unavailable=_reasons(self._readings[gpu.uuid].unavailable)
                    | ({} if self._activity[gpu.uuid] else {"activity": self._meters[gpu.uuid].reason}),
                )
            )
        return tuple(uses)

    def host(self) -> Host:
        """Return the host's limits and the run's usage."""
        sampled = self.stop()
        limits, disk = read_limits(), sampled.disk
        unavailable = dict(self.container.unavailable)
        if disk is None:
            unavailable["disk_read_bytes"] = "/proc/PID/io cannot be read here"
        return Host(
            hostname=limits.hostname,
            cpus=limits.cpus,
            memory_limit_bytes=limits.memory_bytes,
            memory_limit_source=limits.memory_source,
            peak_memory_bytes=per_run(sampled).peak_host_memory_bytes,
            container_peak_memory_bytes=self.container.peak_bytes(),
            cpu_seconds=sampled.host_cpu_seconds,
            disk_read_bytes=disk.read_bytes if disk else None,
            disk_written_bytes=disk.written_bytes if disk else None,
            oom_kills=self.oom_kills(),
            guard=self.guard.record(),
            unavailable=unavailable,
        )

    def sampling(self) -> Sampling:
        """Return how the samples were taken."""
        return self.sampler.record()


# Value of a reading -> figures of the record derived from it.
_MADE_FROM = {
    "utilization_percent": ("utilization_mean_percent", "utilization_max_percent", "busy_seconds"),
    "energy_joules": ("energy_joules", "energy_seconds", "energy_idle_joules"),
    "power_watts": ("power_watts", "energy_idle_joules"),
    "used_bytes": ("baseline_bytes", "peak_gpu_memory_bytes"),
    "temperature_celsius": ("temperature_max_celsius",),
}


def _reasons(unavailable: Mapping[str, str]) -> dict[str, str]:
    """Return the reasons for missing figures of a record, from those for missing values of a reading."""
    return {name: reason for key, reason in unavailable.items() for name in _MADE_FROM.get(key, (key,))}
