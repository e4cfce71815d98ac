# SPDX-License-Identifier: Apache-2.0
"""What is recorded of the machine that a notebook ran on: GPUs, allocators, host, processes, environment.

Parts of `runner.core.records.Metrics`, by the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that NVML reports on a device; ``pid`` may be of another namespace."""

    pid: int
    used_bytes: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """Bytes really allocated on one device, reported by the allocator and not by NVML.

    ``source`` is ``rmm | cupy-hook | cupy-pool-bound | none``; ``reason`` says why ``none``.
    ``overhead_bytes`` is what the device held outside the pool (context, libraries) at the peak.
    """

    uuid: str
    source: Literal["rmm", "cupy-hook", "cupy-pool-bound", "none"]
    peak_allocated_bytes: int | None = None
    end_allocated_bytes: int | None = None
    pool_bytes: int | None = None
    overhead_bytes: int | None = None
    managed: bool = False
    """Managed memory, which may lie on the host in part."""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorProbe:
    """What the allocator probe measured with, and what it cost where it can tell.

    ``hook_calls`` and ``hook_seconds`` are those of the allocation hook that ``exact`` adds.
    """

    mode: Literal["off", "on", "exact"]
    libraries: dict[str, str] = field(default_factory=dict)
    """Libraries that were measured, with their versions."""
    hook_calls: int | None = None
    hook_seconds: float | None = None
    trouble: str | None = None
    """Why it stepped aside, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShortage:
    """Device memory at the moment when a cell ran out of it; None where unknown."""

    asked_bytes: int | None = None
    allocated_bytes: int | None = None
    pool_bytes: int | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    outside_bytes: int | None = None
    """In use on the device, but neither by the run's pool nor before the run."""
    baseline_bytes: int | None = None
    """In use before the run, by others."""
    managed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """What one GPU of the run did."""

    uuid: str
    index: int | None
    name: str
    total_bytes: int | None
    memory_api: Literal["v2", "v1"] | None = None
    memory_source: Literal["nvml", "host", "none"] = "none"
    baseline_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    utilization_mean_percent: float | None = None
    utilization_max_percent: float | None = None
    energy_joules: float | None = None
    """Drawn from the start of the kernel on."""
    energy_seconds: float | None = None
    """The time in which it was drawn."""
    energy_idle_joules: float | None = None
    """What the GPU would have drawn in that time at its power before the kernel."""
    held_seconds: float | None = None
    busy_seconds: float | None = None
    temperature_max_celsius: float | None = None
    activity: dict[str, float] = field(default_factory=dict)
    """Means from the kernel's start to its end, of units and buses; on Hopper and newer."""
    driver_version: str | None = None
    cuda_version: str | None = None
    mig: bool = False
    neighbours: tuple[GpuProcess, ...] = ()
    """Processes of others that NVML showed on this GPU during the run; its peaks hold their memory too."""
    processes: tuple[GpuProcess, ...] = ()
    """Processes of the run on this GPU, such as Dask workers, each with its largest memory; empty in containers
    where NVML lists pids of the host."""
    allocated: Allocated | None = None
    need_bytes: int | None = None
    """Largest allocated peak plus what lay outside the pool at that moment."""
    smallest_card_gb: int | None = None
    """Smallest common card that the need fits; None also when it fits none."""
    card_margin_fraction: float | None = None
    """Share of that card which stays free beyond the need."""
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The memory guard: where it would have acted, and whether it did."""

    fraction: float
    limit_bytes: int | None
    peak_unreclaimable_bytes: int | None = None
    acted_at_bytes: int | None = None
    cpu_seconds: float | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine or container, and what the kernel's process tree used of it."""

    hostname: str
    cpus: float | None = None
    memory_limit_bytes: int | None = None
    memory_limit_source: str | None = None
    peak_memory_bytes: int | None = None
    """Largest RSS over the kernel's process tree."""
    container_peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    disk_read_bytes: int | None = None
    """What that process tree read from disks and other block devices; the page cache is none."""
    disk_written_bytes: int | None = None
    oom_kills: int | None = None
    """Kills by the kernel's OOM killer in this container during the run."""
    guard: Guard | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the run that outlived the kernel."""

    pid: int
    name: str
    started_at: str | None = None
    ended_by: Literal["itself", "SIGTERM", "SIGKILL", "survived"] = "survived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Proof that the GPUs are free again: device memory against the baseline."""

    released: bool | None
    reason: str
    seconds: float | None = None
    tolerance_bytes: int | None = None
    baseline_bytes: dict[str, int | None] = field(default_factory=dict)
    after_bytes: dict[str, int | None] = field(default_factory=dict)
    swept: tuple[Process, ...] = ()
    """Processes of the run that were still there when the kernel had ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the samples were taken and what taking them cost."""

    interval_seconds: float
    ticks: int = 0
    cpu_seconds: float | None = None
    left_out_ticks: int = 0
    """Ticks that the samples file does not hold, because a long run is thinned out there."""
    stopped: str | None = None
    """Why sampling of the GPUs ended early, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where and with what the notebook ran; values of secrets never appear."""

    image: str | None = None
    python: str | None = None
    platform: str | None = None
    cwd: str | None = None
    kernel: str | None = None
    transport: str | None = None
    gpu_visibility: Literal["chosen", "all"] | None = None
    """Whether the kernel saw the GPUs that the gate chose, if any, or all that are visible here."""
    command: tuple[str, ...] = ()
    """The command line that ran the notebook; addresses without user, password and query."""
    variables: dict[str, str] = field(default_factory=dict)
    """Variables that the plan or an option gave the kernel."""
    secrets: tuple[str, ...] = ()
    """Names only."""
    parameters: dict[str, Any] = field(default_factory=dict)
