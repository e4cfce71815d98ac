# SPDX-License-Identifier: Apache-2.0
"""Checks of host and container: CPUs, memory and OOM behaviour, limits, /dev/shm, clock, caches."""

from __future__ import annotations

import ctypes
import os
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.core.records import Check
from runner.core.requirements import Requirements
from runner.core.units import format_bytes
from runner.machine.host import Container, disk_free_bytes, read_limits, shm_free_bytes
from runner.plan.model import Plan, Requires, requirements
from runner.stages.gate.criteria import host_checks

_STACK_BYTES = 67_108_864
_SHM_BYTES = 900_000_000
_STA_UNSYNC = 0x40
_CACHES = ("HOME", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "CUPY_CACHE_DIR")


def checks(
    plan: Plan | None, wanted: Requirements, disk: Path, environ: Mapping[str, str], *, gpu: bool
) -> list[Check]:
    """Return the checks, which are stricter with ``gpu``: if GPUs are present or required."""
    return [
        *resources(),
        *requirement_checks(plan, wanted, disk),
        shared_memory(gpu=gpu),
        *limits(gpu=gpu),
        *caches(environ),
        clock(),
    ]


def resources() -> list[Check]:
    """Report the container's CPUs and memory, and what happens when memory runs out."""
    seen = read_limits()
    container = Container()
    try:
        whole, measured = container.whole_container_oom(), container.unreclaimable_bytes()
    finally:
        container.close()
    cpus = Check(name="cpus", status="pass", seen=f"{seen.cpus:g}")
    used = f", {format_bytes(seen.memory_used_bytes)} used" if seen.memory_used_bytes is not None else ""
    memory = Check(name="memory", status="pass", seen=f"{format_bytes(seen.memory_bytes)} ({seen.memory_source}){used}")
    return [cpus, memory, _oom(whole, limited=container.limit_bytes is not None, measured=measured is not None)]


def _oom(whole: bool | None, *, limited: bool, measured: bool) -> Check:
    name = "out of memory"
    kills = {True: "kills the whole container", False: "kills one process", None: "kills processes chosen by the host"}
    if not limited:
        return Check(name=name, status="pass", seen="no limit below the machine's memory")
    if not measured:
        hint = "mount /sys/fs/cgroup into the container; otherwise a run may be killed without a record"
        seen = f"{kills[whole]}, and memory use cannot be read"
        return Check(name=name, status="warn", seen=seen, needed="cgroup", hint=hint)
    return Check(name=name, status="pass", seen=f"{kills[whole]}; the memory guard acts first")


def requirement_checks(plan: Plan | None, wanted: Requirements, disk: Path) -> list[Check]:
    """Compare the host with the notebooks' largest requirements; those of optional notebooks only lead to warnings."""
    must = _most([nb.requires for nb in plan.notebooks if not nb.optional] if plan else [], wanted)
    may = _most([nb.requires for nb in plan.notebooks] if plan else [], wanted)
    failing = {check.name: check for check in _compare(must, disk)}
    found = []
    for check in _compare(may, disk):
        required = failing.get(check.name)
        if check.status == "fail" and (required is None or required.status != "fail"):
            hint = f"optional notebooks will be skipped; {check.hint}"
            found.append(replace(check, name=f"{check.name} for the plan", status="warn", hint=hint))
        else:
            found.append(replace(check, name=f"{check.name} for the plan"))
    return found


def _most(every: Sequence[Requires], wanted: Requirements) -> Requirements:
    """Return the maximum of each requirement, except GPUs, which have their own checks."""
    records = [requirements(one) for one in every]
    figures: dict[str, Any] = {}
    for name in ("cpus", "memory_gb", "disk_gb", "shm_gb"):
        values = [value for record in (*records, wanted) if (value := getattr(record, name)) is not None]
        figures[name] = max(values, default=None)
    return Requirements(**figures)


def _compare(wants: Requirements, disk: Path) -> tuple[Check, ...]:
    return host_checks(
        wants, limits=read_limits(), shm_free_bytes=shm_free_bytes(), disk_free_bytes=disk_free_bytes(disk)
    )


def shared_memory(*, gpu: bool) -> Check:
    """Check /dev/shm, used by UCX, NCCL and Dask workers; docker's default is 64 MB."""
    free, name = shm_free_bytes(), "/dev/shm"
    seen = f"{format_bytes(free)} free" if free is not None else "missing"
    if gpu and (free is None or free < _SHM_BYTES):
        hint = "docker: --shm-size=1g; Kubernetes: an emptyDir with medium Memory at /dev/shm"
        return Check(name=name, status="warn", seen=seen, needed="1 GB", hint=hint)
    return Check(name=name, status="pass", seen=seen)


def limits(*, gpu: bool) -> list[Check]:
    """Check the limits of locked memory and stack, needed by RDMA, UCX and deep CUDA recursion."""
    memlock, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    endless = resource.RLIM_INFINITY
    return [
        _limit("memlock", memlock, "unlimited", gpu and memlock != endless, "--ulimit memlock=-1"),
        _limit(
            "stack",
            stack,
            str(_STACK_BYTES),
            gpu and stack != endless and stack < _STACK_BYTES,
            "--ulimit stack=" + str(_STACK_BYTES),
        ),
    ]


def _limit(name: str, value: int, needed: str, short: bool, option: str) -> Check:
    seen = "unlimited" if value == resource.RLIM_INFINITY else format_bytes(value)
    if short:
        hint = f"docker: {option}; Kubernetes: the node's container runtime sets it"
        return Check(name=f"limit {name}", status="warn", seen=seen, needed=needed, hint=hint)
    return Check(name=f"limit {name}", status="pass", seen=seen)


def caches(environ: Mapping[str, str]) -> list[Check]:
    """Check the folders that Jupyter, matplotlib, numba and cupy write to, and the temporary folder."""
    places = {"temp": tempfile.gettempdir(), **{name: environ[name] for name in _CACHES if environ.get(name)}}
    closed = {name: path for name, path in places.items() if not _creatable(Path(path))}
    if not closed:
        return [Check(name="caches", status="pass", seen=f"{len(places)} folders writable")]
    hint = "with a read-only root, provide a writable /tmp (docker: --tmpfs /tmp; Kubernetes: an emptyDir)"
    seen = ", ".join(f"{name} {path}" for name, path in closed.items())
    return [Check(name="caches", status="warn", seen=f"not writable: {seen}", needed="writable folders", hint=hint)]


def _creatable(folder: Path) -> bool:
    nearest = next((part for part in (folder, *folder.parents) if part.exists()), None)
    return nearest is not None and nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def clock() -> Check:
    """Check that the time is later than that of our own files, and that the clock is synchronised."""
    import runner

    made = Path(runner.__file__).stat().st_mtime
    now = time.time()
    seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    if now < made - 86400:
        hint = "set the clock: certificates will be rejected, and times in reports are wrong"
        return Check(name="clock", status="fail", seen=f"{seen}, earlier than this software", hint=hint)
    if _synchronised() is False:
        hint = "run an NTP client on the host; times of several machines are not comparable"
        return Check(name="clock", status="warn", seen=f"{seen}, not synchronised", needed="NTP", hint=hint)
    return Check(name="clock", status="pass", seen=seen)


def _synchronised() -> bool | None:
    """Return the state from ``adjtimex``; None if a sandbox forbids the call."""
    words = (ctypes.c_long * 64)()  # struct timex: `modes` first, `status` after five longs
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(words))
    except AttributeError:
        return None
    if state < 0:
        return None
    return not ctypes.cast(words, ctypes.POINTER(ctypes.c_int))[10] & _STA_UNSYNC
