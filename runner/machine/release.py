# SPDX-License-Identifier: Apache-2.0
"""Proof that the GPUs are free again: the device's own memory against the baseline.

NVML's process list is empty or foreign inside a container, and clean-up in the kernel only says
what it tried. What counts is that the memory in use falls back to what it was before the kernel
started; only the end of the process does that, and the driver takes a moment for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from runner.machine.nvml import DriverProblem
from runner.records import Process, Release
from runner.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from runner.machine.device import Gpu

TOLERANCE_BYTES = 64 * 2**20
"""More than the driver's own figures wander while nothing runs (a few MiB), and less than the
smallest CUDA context, which takes 100 MiB and more: one process left behind does not fit in."""

_POLL_SECONDS = 0.05


class _Used(NamedTuple):
    """Memory in use on a GPU, or why it is not known."""

    bytes: int | None
    reason: str = ""


def read_baseline(gpus: Sequence[Gpu]) -> dict[str, int | None]:
    """Return the memory in use on each GPU now; None where there is nothing to compare with.

    Memory that is shared with the host moves for many reasons and proves nothing.
    """
    return {gpu.uuid: _used(gpu).bytes for gpu in gpus}


def prove(
    gpus: Sequence[Gpu],
    baseline: Mapping[str, int | None],
    *,
    deadline_seconds: float,
    seconds_left: Callable[[], float] = lambda: math.inf,
    tolerance_bytes: int = TOLERANCE_BYTES,
    swept: tuple[Process, ...] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> Release:
    """Watch the device memory until it is back at the baseline or the deadline passes.

    Parameters
    ----------
    gpus
        The GPUs of the run.
    baseline
        Memory in use before the kernel started, from `read_baseline`.
    deadline_seconds
        How long the driver may take to give the memory back.
    seconds_left
        How much time there is in all, asked at each look: it may become less meanwhile.
    tolerance_bytes
        What may be in use beyond the baseline.
    swept
        Processes of the run that had to be ended; they go into the record.
    sleep
        Waits between two looks.

    Returns
    -------
    A record whose ``released`` is True or False only where memory was compared; with ``seconds``
    until the last GPU was back, or until the deadline.
    """
    started = time.monotonic()
    now: dict[str, _Used] = {}
    held = list(gpus)
    while True:
        now |= {gpu.uuid: _used(gpu) for gpu in held}
        held = [gpu for gpu in held if _excess_bytes(baseline.get(gpu.uuid), now[gpu.uuid]) > tolerance_bytes]
        left = min(deadline_seconds - (time.monotonic() - started), seconds_left())
        if not held or left <= 0:
            break
        sleep(min(left, _POLL_SECONDS))
    seconds = time.monotonic() - started
    unknown = [f"{uuid}: {why}" for uuid in now if (why := _unknown(baseline.get(uuid), now[uuid]))]
    released: bool | None = not held
    if held:
        each = "; ".join(_still_held(gpu, baseline[gpu.uuid], now[gpu.uuid]) for gpu in held)
        reason = f"not back after {format_seconds(seconds)}: {each}"
    elif unknown or not gpus:
        released, reason = None, "; ".join(unknown) or "no GPU was asked for"
    else:
        reason = f"device memory is back at the baseline after {format_seconds(seconds)}"
    return Release(
        released=released,
        reason=reason,
        seconds=seconds if gpus else None,
        tolerance_bytes=tolerance_bytes,
        baseline_bytes={gpu.uuid: baseline.get(gpu.uuid) for gpu in gpus},
        after_bytes={uuid: used.bytes for uuid, used in now.items()},
        swept=swept,
    )


def _used(gpu: Gpu) -> _Used:
    try:
        memory = gpu.memory()
    except DriverProblem as problem:
        return _Used(None, problem.message)
    if memory.source != "nvml":
        return _Used(None, memory.reason)
    return _Used(memory.used_bytes)


def _excess_bytes(before: int | None, now: _Used) -> int:
    return 0 if before is None or now.bytes is None else now.bytes - before


def _unknown(before: int | None, now: _Used) -> str:
    """Return why nothing can be said of a GPU, or an empty text."""
    return now.reason or ("its memory before the run is not known" if before is None else "")


def _still_held(gpu: Gpu, before: int | None, now: _Used) -> str:
    text = f"{gpu.uuid} has {format_bytes(now.bytes)} in use, {format_bytes(before)} before the run"
    try:
        holders = gpu.processes()
    except DriverProblem:
        holders = ()
    shown = ", ".join(f"{one.name or 'a process'} (pid {one.pid})" for one in holders[:5])
    return f"{text}; on it now: {shown}" if shown else f"{text}; who holds it is not visible from here"
