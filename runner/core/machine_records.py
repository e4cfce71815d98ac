# SPDX-License-Identifier: Apache-2.0
"""Records of the machine that a notebook ran on: GPUs, allocators, host, processes, environment.

Parts of `runner.core.records.Metrics`, which describes the conventions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that NVML reports on a device; ``pid`` may belong to another namespace."""

    pid: int
    used_bytes: int | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """Bytes allocated on one device as the allocator, not NVML, reports them.

    ``source`` is ``rmm | cupy-hook | cupy-pool-bound | none``; ``reason`` explains ``none``.
    ``overhead_bytes`` is device memory outside the pool (context, libraries) at the peak.
    """

    uuid: str
    source: Literal["rmm", "cupy-hook", "cupy-pool-bound", "none"]
    peak_allocated_bytes: int | None = None
    end_allocated_bytes: int | None = None
    pool_bytes: int | None = None
    overhead_bytes: int | None = None
    managed: bool = False
    """Managed memory, which may be partly on the host."""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocatorProbe:
    """Mode and cost of the allocator probe.

    ``hook_calls`` and ``hook_seconds`` are of the allocation hook that ``exact`` adds.
    """

    mode: Literal["off", "on", "exact"]
    libraries: dict[str, str] = field(default_factory=dict)
    """Versions of the measured libraries."""
    hook_calls: int | None = None
    hook_seconds: float | None = None
    trouble: str | None = None
    """Why the probe was disabled, if it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShortage:
    """Device memory at the moment a cell ran out of it; None if unknown."""

    asked_bytes: int | None = None
    allocated_bytes: int | None = None
    pool_bytes: int | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    outside_bytes: int | None = None
    """In use on the device outside the run's pool, less the memory in use before the run."""
    baseline_bytes: int | None = None
    """In use by others before the run."""
    managed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUse:
    """Usage of one GPU by the run."""

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
    """Energy used since the start of the kernel."""
    energy_seconds: float | None = None
    """Period of ``energy_joules``."""
    energy_idle_joules: float | None = None
    """Energy over the same period at the power drawn before the kernel started."""
    held_seconds: float | None = None
    busy_seconds: float | None = None
    temperature_max_celsius: float | None = None
    activity: dict[str, float] = field(default_factory=dict)
    """Mean activity of units and buses over the kernel's lifetime; Hopper and newer."""
    driver_version: str | None = None
    cuda_version: str | None = None
    mig: bool = False
    neighbours: tuple[GpuProcess, ...] = ()
    """Processes of others that NVML reported on this GPU during the run; its peaks include their memory."""
    processes: tuple[GpuProcess, ...] = ()
    """Processes of the run on this GPU, such as Dask workers, with their peak memory; empty in containers where NVML
    lists pids of the host."""
    allocated: Allocated | None = None
    need_bytes: int | None = None
    """Peak allocation plus the memory outside the pool at that moment."""
    smallest_card_gb: int | None = None
    """Smallest common card on which the need fits; None also if it fits on none."""
    card_margin_fraction: float | None = None
    """Fraction of that card that stays free beyond the need."""
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The memory guard: its limit, and the memory at which it acted."""

    fraction: float
    limit_bytes: int | None
    peak_unreclaimable_bytes: int | None = None
    acted_at_bytes: int | None = None
    cpu_seconds: float | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine or container, and its usage by the kernel's process tree."""

    hostname: str
    cpus: float | None = None
    memory_limit_bytes: int | None = None
    memory_limit_source: str | None = None
    peak_memory_bytes: int | None = None
    """Peak RSS of the kernel's process tree."""
    container_peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    disk_read_bytes: int | None = None
    """Bytes the process tree read from disks and other block devices, not from the page cache."""
    disk_written_bytes: int | None = None
    oom_kills: int | None = None
    """Kills by the kernel's OOM killer in this container during the run."""
    guard: Guard | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that outlived the kernel of the run."""

    pid: int
    name: str
    started_at: str | None = None
    ended_by: Literal["itself", "SIGTERM", "SIGKILL", "survived"] = "survived"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Whether the GPUs are free again: device memory compared with the baseline."""

    released: bool | None
    reason: str
    seconds: float | None = None
    tolerance_bytes: int | None = None
    baseline_bytes: dict[str, int | None] = field(default_factory=dict)
    after_bytes: dict[str, int | None] = field(default_factory=dict)
    swept: tuple[Process, ...] = ()
    """Processes of the run that were still alive after the kernel had ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Interval and cost of sampling."""

    interval_seconds: float
    ticks: int = 0
    cpu_seconds: float | None = None
    left_out_ticks: int = 0
    """Ticks omitted from the samples file, which is thinned out for long runs."""
    stopped: str | None = None
    """Why sampling of the GPUs stopped early, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Environment of the run; values of secrets never appear."""

    image: str | None = None
    python: str | None = None
    platform: str | None = None
    cwd: str | None = None
    kernel: str | None = None
    transport: str | None = None
    gpu_visibility: Literal["chosen", "all"] | None = None
    """Whether the kernel could use only the GPUs chosen by the gate, or all visible ones."""
    command: tuple[str, ...] = ()
    """The command line of the run; URLs without user, password and query."""
    variables: dict[str, str] = field(default_factory=dict)
    """Variables set for the kernel by the plan or an option."""
    secrets: tuple[str, ...] = ()
    """Names only."""
    parameters: dict[str, Any] = field(default_factory=dict)
