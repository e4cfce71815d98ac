# SPDX-License-Identifier: Apache-2.0
"""Machines, GPUs, software and totals of a run, without repetitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.core.machine_records import GpuUse
    from runner.core.records import Metrics
    from runner.report.assemble import Report
    from runner.report.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine or container that notebooks ran on."""

    hostname: str
    cpus: float | None
    memory_limit_bytes: int | None
    memory_limit_source: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """GPUs of the same kind used by notebooks."""

    name: str
    total_bytes: int | None
    driver_version: str | None
    cuda_version: str | None
    mig: bool
    members: tuple[tuple[str, int | None], ...]
    """UUID and index of each GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The machine and software section of the report."""

    machines: tuple[Machine, ...]
    devices: tuple[Device, ...]
    unmeasured_gpus: bool
    """Whether a kernel could use GPUs that were not measured."""
    images: tuple[str, ...]
    commits: tuple[str, ...]
    """Commits that contain the notebooks as they were run, and the reasons for notebooks without one."""
    pythons: tuple[str, ...]
    platforms: tuple[str, ...]
    versions: tuple[tuple[str, tuple[str, ...]], ...]
    """Package and its versions; more than one if notebooks differ."""
    sampling: str | None
    success_rate_percent: float | None
    busy_percent: float | None
    """Busy GPU time as a percentage of the GPU time held."""


def gather(report: Report, summary: Summary) -> Facts:
    """Return the facts from all records."""
    records = [entry.metrics for entry in report.entries if entry.metrics]
    held, busy = summary.gpu_held_seconds, summary.gpu_busy_seconds
    succeeded = report.counts.get("succeeded", 0)
    return Facts(
        machines=tuple(dict.fromkeys(_machine(m) for m in records if m.host)),
        devices=_devices(records),
        unmeasured_gpus=any(m.environment.gpu_visibility == "all" and not m.gpus for m in records),
        images=_distinct(m.environment.image for m in records),
        commits=_commits(records),
        pythons=_distinct(m.environment.python for m in records),
        platforms=_distinct(m.environment.platform for m in records),
        versions=_versions(records),
        sampling=_sampling(records),
        success_rate_percent=100 * succeeded / len(report.entries) if report.entries else None,
        busy_percent=100 * busy / held if held and busy is not None else None,
    )


def _distinct(values: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))


def _commits(records: Iterable[Metrics]) -> tuple[str, ...]:
    """Return the distinct commits, then the notebooks without one with their reasons."""
    records = list(records)
    none = [(m.notebook, m.source.unavailable["commit"]) for m in records if "commit" in m.source.unavailable]
    return (*_distinct(m.source.commit for m in records), *(f"none for {name}: {reason}" for name, reason in none))


def _machine(m: Metrics) -> Machine:
    assert m.host is not None
    return Machine(
        hostname=m.host.hostname,
        cpus=m.host.cpus,
        memory_limit_bytes=m.host.memory_limit_bytes,
        memory_limit_source=m.host.memory_limit_source,
    )


def _devices(records: Iterable[Metrics]) -> tuple[Device, ...]:
    """Return the distinct GPUs by kind."""
    last: dict[str, tuple[GpuUse, Device]] = {}
    for m in records:
        for gpu in m.gpus:
            kind = Device(
                name=gpu.name,
                total_bytes=gpu.total_bytes,
                driver_version=gpu.driver_version or (m.gate.driver_version if m.gate else None),
                cuda_version=gpu.cuda_version or (m.gate.cuda_version if m.gate else None),
                mig=gpu.mig,
                members=(),
            )
            last[gpu.uuid] = (gpu, kind)
    kinds: dict[Device, list[tuple[str, int | None]]] = {}
    for gpu, kind in last.values():
        kinds.setdefault(kind, []).append((gpu.uuid, gpu.index))
    return tuple(dataclasses.replace(kind, members=tuple(members)) for kind, members in kinds.items())


def _versions(records: Iterable[Metrics]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    versions: dict[str, dict[str, None]] = {}
    for m in records:
        for package, version in m.versions.items():
            versions.setdefault(package, {})[version] = None
    return tuple((package, tuple(versions[package])) for package in sorted(versions, key=str.lower))


def _sampling(records: Iterable[Metrics]) -> str | None:
    intervals = sorted({m.sampler.interval_seconds for m in records if m.sampler})
    return " and ".join(f"every {interval:g} s" for interval in intervals) or None
