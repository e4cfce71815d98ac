# SPDX-License-Identifier: Apache-2.0
"""Compare GPUs and host with a notebook's requirements: the pure half of the gate.

Sizes are decimal GB, as GPUs are sold. A "24 GB" card reports 23,028 MiB and the driver reserves
part of that, so a fraction of the requested memory (95 % by default) is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core.records import Check, GateGpu
from runner.core.requirements import Requirements, gpus_wanted
from runner.core.units import format_bytes, format_count

if TYPE_CHECKING:
    from runner.core.machine_records import GpuProcess
    from runner.machine.device import ComputeMode, Memory
    from runner.machine.host import HostLimits
    from runner.machine.visible import Identity

_MPS = "nvidia-cuda-mps-server"
_OPEN = "nvidia-smi --compute-mode=DEFAULT"
_CONTEXT_BYTES = 64 * 2**20
"""More than an idle GPU uses, less than the smallest CUDA context."""
_SHM = "/dev/shm"
_SHM_USUAL_BYTES = 900_000_000
"""UCX, NCCL and Dask need 1 GB; `--shm-size=1g` with a few files in it still passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """State of a visible GPU; ``memory`` is None if the GPU is lost."""

    identity: Identity
    memory: Memory | None
    problem: str = ""
    compute_mode: ComputeMode | None = None
    holders: tuple[GpuProcess, ...] = ()
    locked_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A visible GPU: ``gpu.good`` if it qualifies now, ``ever`` if it could qualify after waiting."""

    gpu: GateGpu
    ever: bool


def needed_bytes(asked: Requirements) -> int:
    """Return the free memory a GPU must have, 0 if any GPU qualifies."""
    return round(asked.gpu_free_fraction * (asked.gpu_memory_gb or 0) * 1e9)


def judge(asked: Requirements, seen: Sequence[Seen]) -> tuple[Candidate, ...]:
    """Compare each visible GPU with the requirements, in their order."""
    return tuple(_candidate(asked, one) for one in seen)


def best(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Return the UUIDs of the qualifying GPUs, most free memory first."""
    good = [candidate.gpu for candidate in candidates if candidate.gpu.good]
    return tuple(gpu.uuid for gpu in sorted(good, key=lambda gpu: gpu.free_bytes or 0, reverse=True))


def hopeless(asked: Requirements, candidates: Sequence[Candidate]) -> bool:
    """Return True if waiting cannot help because too few GPUs are large enough."""
    return sum(candidate.ever for candidate in candidates) < gpus_wanted(asked)


def refusal(asked: Requirements, candidates: Sequence[Candidate], note: str = "") -> str:
    """Return the requirements and why each visible GPU does or does not qualify."""
    wanted, need = gpus_wanted(asked), needed_bytes(asked)
    memory = f" with {format_bytes(need)} free ({_share(asked)})" if need else ""
    good = sum(candidate.gpu.good for candidate in candidates)
    head = f"requested {format_count(wanted, 'GPU')}{memory}, {good} of {len(candidates)} visible GPUs qualify"
    each = [
        f"GPU {gpu.index} {gpu.name} ({gpu.uuid}): {gpu.reason}" for gpu in (candidate.gpu for candidate in candidates)
    ]
    return "; ".join(filter(None, [head, note, *each]))


def mode_checks(candidates: Sequence[Candidate], seen: Sequence[Seen]) -> tuple[Check, ...]:
    """Warn about qualifying GPUs in exclusive mode whose memory is used by a process that is not visible."""
    good = {candidate.gpu.uuid for candidate in candidates if candidate.gpu.good}
    return tuple(
        Check(
            name="compute mode",
            status="warn",
            seen=f"{one.identity.uuid} allows one process at a time, {format_bytes(one.memory.used_bytes)} in use",
            needed="a GPU that no other process uses",
            hint=f"its processes are not visible from here; if CUDA reports it busy, run {_OPEN} on the host",
        )
        for one in seen
        if one.identity.uuid in good
        and one.compute_mode == "exclusive"
        and not one.holders
        and one.memory is not None
        and one.memory.reserved_bytes is not None  # else the driver's own share counts as used
        and (one.memory.used_bytes or 0) > _CONTEXT_BYTES
    )


def host_checks(
    asked: Requirements, *, limits: HostLimits | None, shm_free_bytes: int | None, disk_free_bytes: int | None
) -> tuple[Check, ...]:
    """Compare CPU, memory, /dev/shm and disk with the requirements; check only what is requested.

    Memory used by other processes only causes a warning: unlike a limit, it may be free a minute later.
    """
    checks: list[Check] = []
    if asked.cpus is not None and limits is not None:
        enough = limits.cpus >= asked.cpus
        hint = "" if enough else "raise the CPU limit of the container, or request fewer"
        seen, needed = f"{limits.cpus:g}", f"{asked.cpus:g}"
        checks.append(Check(name="cpus", status="pass" if enough else "fail", seen=seen, needed=needed, hint=hint))
    if asked.memory_gb is not None and limits is not None:
        checks.append(_memory_check(asked.memory_gb, limits))
    if asked.shm_gb is not None:
        hint = "docker: --shm-size; Kubernetes: an emptyDir with medium Memory at /dev/shm"
        checks.append(_free_check(_SHM, shm_free_bytes, asked.shm_gb, hint))
    elif gpus_wanted(asked) and shm_free_bytes is not None and shm_free_bytes < _SHM_USUAL_BYTES:
        seen = f"{format_bytes(shm_free_bytes)} free"
        hint = "UCX, NCCL and Dask workers need it: docker --shm-size=1g, Kubernetes an emptyDir with medium Memory"
        checks.append(Check(name=_SHM, status="warn", seen=seen, needed="1 GB", hint=hint))
    if asked.disk_gb is not None:
        checks.append(_free_check("disk", disk_free_bytes, asked.disk_gb, "free some space, or use a larger volume"))
    return tuple(checks)


def _candidate(asked: Requirements, seen: Seen) -> Candidate:
    memory, need = seen.memory, needed_bytes(asked)
    good = ever = False
    if memory is None:
        reason = seen.problem or "the GPU is lost"
    elif gpus_wanted(asked) > 1 and seen.identity.mig:
        reason = "it is a MIG slice, and CUDA gives a process at most one slice"
    elif need and (memory.total_bytes is None or memory.free_bytes is None):
        reason = f"its memory cannot be read: {memory.reason}"
    elif need and (most := (memory.total_bytes or 0) - (memory.reserved_bytes or 0)) < need:
        reason = f"too small: {format_bytes(most)} at most, {format_bytes(need)} needed ({_share(asked)})"
    elif seen.compute_mode == "prohibited":
        reason = f"busy: its compute mode is prohibited, no process may use it ({_OPEN} on the host)"
    elif seen.locked_by:
        reason, ever = f"locked by the run {seen.locked_by}", True
    elif seen.compute_mode == "exclusive" and (holders := _users(seen.holders)):
        reason, ever = f"busy: it allows one process at a time (exclusive compute mode); {_held_by(holders)}", True
    elif need and (memory.free_bytes or 0) < need:
        reason = f"{format_bytes(memory.free_bytes)} free of {_in_all(memory)}, {format_bytes(need)} needed"
        reason, ever = f"{reason}; {_held_by(seen.holders)}", True
    else:
        good = ever = True
        reason = f"{format_bytes(memory.free_bytes)} free of {_in_all(memory)}"
    gpu = GateGpu(
        uuid=seen.identity.uuid,
        index=seen.identity.index,
        name=seen.identity.name,
        total_bytes=memory.total_bytes if memory else None,
        free_bytes=memory.free_bytes if memory else None,
        good=good,
        reason=reason,
        holders=seen.holders,
    )
    return Candidate(gpu=gpu, ever=ever)


def _users(holders: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
    """Return the processes that block an exclusive GPU: none if the MPS server shares it."""
    return () if any(_MPS in (one.name or "") for one in holders) else tuple(holders)


def _in_all(memory: Memory) -> str:
    shared = " shared with the host" if memory.source == "host" else ""
    return f"{format_bytes(memory.total_bytes)}{shared}"


def _held_by(holders: Sequence[GpuProcess]) -> str:
    if not holders:
        return "the processes that use the rest are not visible from here"
    shown = [f"{one.name or 'a process'} (pid {one.pid}, {format_bytes(one.used_bytes)})" for one in holders[:5]]
    return "used by " + ", ".join(shown) + (f" and {len(holders) - 5} more" if len(holders) > 5 else "")


def _share(asked: Requirements) -> str:
    return f"{asked.gpu_free_fraction:.0%} of {asked.gpu_memory_gb:g} GB"


def _memory_check(gigabytes: float, limits: HostLimits) -> Check:
    need, limit, used = gigabytes * 1e9, limits.memory_bytes, limits.memory_used_bytes
    needed = format_bytes(need)
    if limit is None:
        return Check(name="memory", status="warn", seen="the limit is unknown", needed=needed)
    seen = f"{format_bytes(limit)} ({limits.memory_source})"
    if limit < need:
        hint = "raise the memory limit of the container, or request less"
        return Check(name="memory", status="fail", seen=seen, needed=needed, hint=hint)
    if used is not None and limit - used < need:
        seen = f"{format_bytes(limit - used)} available of {seen}"
        return Check(name="memory", status="warn", seen=seen, needed=needed, hint="other processes use memory here")
    return Check(name="memory", status="pass", seen=seen, needed=needed)


def _free_check(name: str, free_bytes: int | None, gigabytes: float, hint: str) -> Check:
    needed = format_bytes(gigabytes * 1e9)
    if free_bytes is None:
        return Check(name=name, status="warn", seen="cannot be determined", needed=needed, hint=hint)
    enough = free_bytes >= gigabytes * 1e9
    seen = f"{format_bytes(free_bytes)} free"
    return Check(name=name, status="pass" if enough else "fail", seen=seen, needed=needed, hint="" if enough else hint)
