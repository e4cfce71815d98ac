# SPDX-License-Identifier: Apache-2.0
"""Prove that the GPUs are free again by comparing device memory with the baseline.

Inside a container NVML's process list is empty or shows foreign PIDs, and cleanup in the kernel only
reports what it attempted. The proof is that the memory in use falls back to its value before the
kernel started; only the end of the process does that, and the driver takes a moment.

Others may use the GPU too. Memory that NVML attributes to them is theirs. If it attributes nothing
and another user was seen, the rest cannot be attributed: the result is neither released nor held.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from runner.core import procfs
from runner.core.machine_records import GpuProcess, Process, Release
from runner.core.units import format_bytes, format_seconds
from runner.machine import processes
from runner.machine.cuda_processes import listed_on, shown, total_bytes
from runner.machine.device import InUse, memory_in_use
from runner.machine.nvml import DriverProblem

if TYPE_CHECKING:
    from runner.machine.cuda_processes import CudaProcesses
    from runner.machine.device import Gpu
    from runner.machine.run_monitor import Watch

TOLERANCE_BYTES = 64 * 2**20
"""More than the driver's figures drift while nothing runs (a few MiB), and less than the smallest
CUDA context (100 MiB and more), so a single leftover process exceeds it."""

SHARED_SECONDS = 5.0
"""How long memory that may be another user's is polled: waiting does not show whose it is."""

_POLL_SECONDS = 0.05
RELEASE_SECONDS = 30.0


class _State(NamedTuple):
    """A GPU's memory compared with its baseline."""

    kind: Literal["back", "held", "shared"]
    text: str = ""


def prove(
    gpus: Sequence[Gpu],
    baseline: Mapping[str, int | None],
    *,
    users: CudaProcesses | None = None,
    deadline_seconds: float,
    seconds_left: Callable[[], float] = lambda: math.inf,
    tolerance_bytes: int = TOLERANCE_BYTES,
    swept: tuple[Process, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> Release:
    """Poll the device memory until it is back at the baseline or the deadline passes.

    Parameters
    ----------
    gpus
        The GPUs of the run.
    baseline
        Memory in use before the kernel started, from `read_baseline`.
    users
        Processes seen on the GPUs.
    deadline_seconds
        How long the driver may take to release the memory.
    seconds_left
        Total time left, read at each poll because it may shrink.
    tolerance_bytes
        Memory that may be in use beyond the baseline.
    swept
        Processes of the run that had to be ended, for the record.
    sleep
        Waits between two polls.

    Returns
    -------
    A record whose ``released`` is None if memory could not be compared; ``seconds`` run until the
    last GPU was back, or until the deadline.
    """
    started = time.monotonic()
    now: dict[str, InUse] = {}
    states: dict[str, _State] = {}
    watched = list(gpus)
    while True:
        now |= {gpu.uuid: memory_in_use(gpu) for gpu in watched}
        for gpu in watched:
            states[gpu.uuid] = _state(gpu, baseline.get(gpu.uuid), now[gpu.uuid], users, tolerance_bytes)
        passed = time.monotonic() - started
        patience = {"back": 0.0, "shared": min(SHARED_SECONDS, deadline_seconds), "held": deadline_seconds}
        watched = [gpu for gpu in watched if passed < patience[states[gpu.uuid].kind]]
        left = min(deadline_seconds - passed, seconds_left())
        if not watched or left <= 0:
            break
        sleep(min(left, _POLL_SECONDS))
    seconds = time.monotonic() - started
    released, reason = _verdict(states, seconds)
    unknown = [
        f"{uuid}: {used.reason or 'its memory before the run is unknown'}"
        for uuid, used in now.items()
        if used.reason or baseline.get(uuid) is None
    ]
    if released and (unknown or not gpus):
        released, reason = None, "; ".join(unknown) or "the run was given no GPU"
    return Release(
        released=released,
        reason=reason,
        seconds=seconds if gpus else None,
        tolerance_bytes=tolerance_bytes,
        baseline_bytes={gpu.uuid: baseline.get(gpu.uuid) for gpu in gpus},
        after_bytes={uuid: used.bytes for uuid, used in now.items()},
        swept=swept,
    )


def _verdict(states: Mapping[str, _State], seconds: float) -> tuple[bool | None, str]:
    texts = {
        kind: "; ".join(state.text for state in states.values() if state.kind == kind and state.text)
        for kind in ("back", "held", "shared")
    }
    if texts["held"]:
        return False, f"not back after {format_seconds(seconds)}: {texts['held']}"
    if texts["shared"]:
        return None, f"cannot be attributed after {format_seconds(seconds)}: {texts['shared']}"
    note = f", apart from others' memory: {texts['back']}" if texts["back"] else ""
    return True, f"device memory is back at the baseline after {format_seconds(seconds)}{note}"


def _state(gpu: Gpu, before: int | None, now: InUse, users: CudaProcesses | None, tolerance_bytes: int) -> _State:
    """Compare a GPU with its baseline and attribute the excess to its users."""
    if before is None or now.bytes is None or now.bytes - before <= tolerance_bytes:
        return _State("back")
    listed = listed_on(gpu)
    members = users.members() if users is not None else frozenset()
    text = f"{gpu.uuid} has {format_bytes(now.bytes)} in use, {format_bytes(before)} before the run"
    if users is None or any(one.pid in members for one in listed):
        return _State("held", f"{text}; {_on_it(listed)}")
    strangers = users.strangers(gpu.uuid, listed)
    theirs, earlier = total_bytes(strangers), total_bytes(users.before(gpu.uuid))
    grown = None if theirs is None or earlier is None else theirs - earlier
    if grown is not None and now.bytes - before - grown <= tolerance_bytes:
        return _State("back", f"{gpu.uuid} is used by {shown(strangers)}")
    if grown is not None and abs(grown) <= tolerance_bytes and len(strangers) == len(listed) and strangers:
        return _State("held", f"{text}; {_on_it(listed)}, but their memory has not grown since before the run")
    if not members and (who := _somebody_else(gpu, listed, before)):
        return _State("shared", f"{text}, and others use it: {who}")
    return _State("held", f"{text}; {_on_it(listed)}")


def _somebody_else(gpu: Gpu, listed: Sequence[GpuProcess], before: int) -> str:
    """Return the evidence that others use a GPU after all processes of the run ended, or an empty text."""
    if listed:
        return shown(listed)
    if before > TOLERANCE_BYTES and gpu.memory_api == "v2":  # version 1 counts the driver's own share as used
        return f"{format_bytes(before)} were in use before the run, by processes not visible from here"
    try:
        busy = gpu.read(energy=False).utilization_percent
    except DriverProblem:
        return ""
    return f"it is busy ({busy:.0f} %) though this run has ended" if busy else ""


def _on_it(listed: Sequence[GpuProcess]) -> str:
    return f"on it now: {shown(listed)}" if listed else "the processes that use it are not visible from here"


def sweep_and_prove(monitor: Watch, *, cleanup: bool, seconds_left: Callable[[], float]) -> Release:
    """End the processes that the kernel left and prove that the GPUs are free.

    Parameters
    ----------
    monitor
        The run's processes, its GPUs and their memory before the kernel started.
    cleanup
        If False, only list the processes.
    seconds_left
        Time left; at most `RELEASE_SECONDS` are used.
    """
    if monitor.gpus:
        monitor.users.look(at_once=True)  # a short run may end before the first regular poll
    family = monitor.family
    if cleanup:
        swept = family.sweep(processes.TERM_SECONDS, processes.KILL_SECONDS)
    else:
        left = filter(None, (procfs.read_stat(identity.pid) for identity in family.survivors()))
        swept = tuple(Process(pid=stat.pid, name=stat.name, ended_by="survived") for stat in left)
    return prove(
        monitor.gpus,
        monitor.baseline,
        users=monitor.users,
        deadline_seconds=RELEASE_SECONDS,
        seconds_left=seconds_left,
        swept=swept,
    )
