# SPDX-License-Identifier: Apache-2.0
"""Checks of the GPUs: present, large enough for each notebook, and healthy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner.core.records import Check
from runner.core.requirements import Requirements, gpus_wanted
from runner.core.units import format_bytes
from runner.plan.model import requirements
from runner.stages.gate.criteria import Candidate, Seen, best, hopeless, judge, refusal

if TYPE_CHECKING:
    from runner.machine.health import Health
    from runner.machine.nvml import DriverProblem
    from runner.validate.result import Level, ValidationRequest

_HOT_CELSIUS = 85.0
"""For GPUs that do not report their slowdown temperature, usually 87 to 92."""
_NEAR_CELSIUS = 3.0
_ABSENT = {"no-library", "no-driver", "no-device"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """The visible GPUs, or why there are none."""

    seen: tuple[Seen, ...] = ()
    health: Mapping[str, Health]
    problem: DriverProblem | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def driver_major(self) -> int | None:
        """Major version of the driver."""
        first = (self.driver_version or "").partition(".")[0]
        return int(first) if first.isdigit() else None


def look(environ: Mapping[str, str]) -> Gpus:
    """Read all data for the checks from the driver."""
    from runner.machine.gpus import DriverProblem, open_driver
    from runner.machine.health import read_health

    try:
        driver = open_driver()
    except DriverProblem as problem:
        return Gpus(problem=problem, health={})
    with driver:
        visible = driver.resolve(environ)
        seen: list[Seen] = []
        health: dict[str, Health] = {}
        for gpu in driver.visible(environ):
            try:
                memory, mode = gpu.memory(), gpu.compute_mode()
                seen.append(Seen(identity=gpu.identity, memory=memory, compute_mode=mode, holders=gpu.processes()))
                health[gpu.uuid] = read_health(gpu)
            except DriverProblem as problem:
                seen.append(Seen(identity=gpu.identity, memory=None, problem=problem.message))
        return Gpus(
            seen=tuple(seen),
            health=health,
            driver_version=driver.driver_version,
            cuda_version=driver.cuda_version,
            notes=tuple(filter(None, [visible.note, *driver.notes])),
        )


def checks(gpus: Gpus, request: ValidationRequest) -> tuple[Check, ...]:
    """Return the checks of all GPUs and of each notebook's GPU requirements."""
    return (
        _presence(gpus, needed=most_gpus(request)),
        *(Check(name="devices", status="warn", seen=note) for note in gpus.notes),
        *(check for one in gpus.seen for check in _device_checks(one, gpus.health.get(one.identity.uuid))),
        *_needs(gpus.seen, request),
    )


def most_gpus(request: ValidationRequest) -> int:
    """Return the number of GPUs required by the options and by notebooks that are not optional."""
    notebooks = request.plan.notebooks if request.plan else []
    notebooks = [nb for nb in notebooks if not nb.optional and not nb.requires.cpu_fallback]
    return max([gpus_wanted(request.requirements), *(requirements(nb.requires).gpus for nb in notebooks)])


def _presence(gpus: Gpus, needed: int) -> Check:
    wanted = f"{needed} or more" if needed else ""
    if gpus.problem is not None:
        # A missing GPU is fine for notebooks that need none; a broken driver never is.
        absent = gpus.problem.kind in _ABSENT
        hint = gpus.problem.hint or ""
        status: Level = "warn" if absent and not needed else "fail"
        return Check(name="gpus", status=status, seen=gpus.problem.message, needed=wanted, hint=hint)
    count = len(gpus.seen)
    names = sorted({one.identity.name for one in gpus.seen})
    seen = f"{count} visible: {', '.join(names)}" if count else "none visible"
    if count < needed:
        hint = "give the container more GPUs (docker run --gpus all, a nvidia.com/gpu limit), or skip these notebooks"
        return Check(name="gpus", status="fail", seen=seen, needed=wanted, hint=hint)
    hint = "" if count else "check CUDA_VISIBLE_DEVICES"
    return Check(name="gpus", status="pass" if count else "warn", seen=seen, needed=wanted, hint=hint)


def _device_checks(one: Seen, health: Health | None) -> list[Check]:
    label = f"gpu {one.identity.index}"
    if one.memory is None:
        hint = "check the host's kernel log for Xid messages; the GPU needs a reset or the host a reboot"
        return [Check(name=label, status="fail", seen=one.problem or "GPU is lost", hint=hint)]
    free = f"{format_bytes(one.memory.free_bytes)} free of {format_bytes(one.memory.total_bytes)}"
    shared = ", shared with the host" if one.memory.source == "host" else ""
    mig = ", a MIG slice" if one.identity.mig else ""
    names = [f"{holder.name or 'a process'} (pid {holder.pid})" for holder in one.holders[:3]]
    held = f"; held by {', '.join(names)}" if names else ""
    memory = Check(name=f"{label} memory", status="pass", seen=f"{one.identity.name}{mig}: {free}{shared}{held}")
    mode = [_compute_mode(f"{label} compute mode", one)] if one.compute_mode not in {None, "default"} else []
    if health is None:
        return [memory, *mode]
    return [
        memory,
        *mode,
        _errors(f"{label} memory errors", health),
        _heat(f"{label} temperature", health),
        _throttling(f"{label} throttling", health),
        _persistence(f"{label} persistence", health),
    ]


def _compute_mode(name: str, one: Seen) -> Check:
    hint = "run nvidia-smi --compute-mode=DEFAULT on the host"
    if one.compute_mode == "prohibited":
        return Check(name=name, status="fail", seen="prohibited: no process may use it", needed="default", hint=hint)
    return Check(name=name, status="warn", seen="exclusive: one process at a time", needed="default", hint=hint)


def _errors(name: str, health: Health) -> Check:
    counts = {
        "uncorrected errors": health.uncorrected_errors,
        "retired pages": health.retired_pages,
        "remapped rows": health.remapped_rows,
    }
    known = [f"{count} {text}" for text, count in counts.items() if count is not None]
    ecc = {True: "ECC on", False: "ECC off", None: "ECC state unknown"}[health.ecc]
    seen = ", ".join([ecc, *known])
    if health.remapping_failed:
        hint = "the memory of this GPU is failing: take the node out of service and have the GPU replaced"
        return Check(name=name, status="fail", seen=f"{seen}, a row could not be remapped", hint=hint)
    if health.uncorrected_errors:
        hint = "results of this GPU cannot be trusted: drain the node and reset the GPU; replace it if errors recur"
        return Check(name=name, status="fail", seen=seen, needed="no uncorrected errors", hint=hint)
    if health.remapping_pending:
        hint = "reset the GPU or reboot the host to remap the damaged memory"
        return Check(name=name, status="warn", seen=f"{seen}, remapping pending until a reset", hint=hint)
    return Check(name=name, status="pass", seen=seen)


def _heat(name: str, health: Health) -> Check:
    celsius = health.temperature_celsius
    if celsius is None:
        return Check(name=name, status="pass", seen=_unknown(health, "temperature_celsius"))
    limit = health.slowdown_celsius - _NEAR_CELSIUS if health.slowdown_celsius else _HOT_CELSIUS
    seen, needed = f"{celsius:g} °C", f"below {limit:g} °C"
    if celsius >= limit:
        hint = "it will slow down: check the cooling, or wait until other jobs have finished"
        return Check(name=name, status="warn", seen=seen, needed=needed, hint=hint)
    return Check(name=name, status="pass", seen=seen, needed=needed)


def _throttling(name: str, health: Health) -> Check:
    if health.throttled_by is None:
        return Check(name=name, status="pass", seen=_unknown(health, "throttled_by"))
    if health.throttled_by:
        hint = "it runs below full speed: check cooling and power supply; times of this run are not comparable"
        return Check(name=name, status="warn", seen=", ".join(health.throttled_by), needed="none", hint=hint)
    return Check(name=name, status="pass", seen="none")


def _persistence(name: str, health: Health) -> Check:
    if health.persistence is None:
        return Check(name=name, status="pass", seen=_unknown(health, "persistence"))
    if health.persistence:
        return Check(name=name, status="pass", seen="on")
    hint = "the driver is loaded on each first use: run nvidia-persistenced on the host"
    return Check(name=name, status="warn", seen="off", needed="on", hint=hint)


def _unknown(health: Health, name: str) -> str:
    return f"cannot be determined: {health.unavailable.get(name, 'no answer')}"


def _needs(seen: Sequence[Seen], request: ValidationRequest) -> list[Check]:
    """Compare the GPUs with the options, and with each notebook of the plan that needs one."""
    found = []
    if request.requirements.gpu_memory_gb:
        found.append(_need("gpu memory", request.requirements, seen, optional=False))
    for notebook in request.plan.notebooks if request.plan else ():
        wants = replace(requirements(notebook.requires), gpu_free_fraction=request.requirements.gpu_free_fraction)
        if wants.gpus:
            found.append(_need(f"for {notebook.name}", wants, seen, optional=notebook.optional))
    return found


def _need(name: str, wants: Requirements, seen: Sequence[Seen], *, optional: bool) -> Check:
    candidates: tuple[Candidate, ...] = judge(wants, seen)
    count = gpus_wanted(wants)
    memory = f" with {wants.gpu_memory_gb:g} GB" if wants.gpu_memory_gb else ""
    needed = f"{count} GPU{'s' if count > 1 else ''}{memory}"
    good = best(candidates)
    if len(good) >= count:
        return Check(name=name, status="pass", seen=f"{len(good)} qualify", needed=needed)
    seen_text = refusal(wants, candidates)
    if not hopeless(wants, candidates):
        hint = "another process holds the memory: end it, or let the run wait (--wait 10m)"
        return Check(name=name, status="warn", seen=seen_text, needed=needed, hint=hint)
    if wants.cpu_fallback:
        return Check(
            name=name, status="warn", seen=seen_text, needed=needed, hint="it will run on the CPU (cpu_fallback)"
        )
    if optional:
        hint = "the notebook is optional and will be skipped"
        return Check(name=name, status="warn", seen=seen_text, needed=needed, hint=hint)
    return Check(name=name, status="fail", seen=seen_text, needed=needed, hint="use larger GPUs, or omit it")
