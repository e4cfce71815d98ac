# SPDX-License-Identifier: Apache-2.0
"""Checks of the GPUs: they are there, large enough for each notebook, and healthy."""

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
    from runner.validate.result import Asked, Level

_HOT_CELSIUS = 85.0
"""For GPUs that do not tell at which temperature they slow down; most do so at 87 to 92."""
_NEAR_CELSIUS = 3.0
_ABSENT = {"no-library", "no-driver", "no-device"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """The visible GPUs at one moment, or why there are none."""

    seen: tuple[Seen, ...] = ()
    health: Mapping[str, Health]
    problem: DriverProblem | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def driver_major(self) -> int | None:
        """The first number of the driver's version."""
        first = (self.driver_version or "").partition(".")[0]
        return int(first) if first.isdigit() else None


def look(environ: Mapping[str, str]) -> Gpus:
    """Ask the driver once for everything that the checks need, and leave it."""
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


def checks(gpus: Gpus, asked: Asked) -> tuple[Check, ...]:
    """Return the checks of all GPUs and of what each notebook asks of them."""
    return (
        _presence(gpus, needed=most_gpus(asked)),
        *(Check(name="devices", status="warn", seen=note) for note in gpus.notes),
        *(check for one in gpus.seen for check in _device_checks(one, gpus.health.get(one.identity.uuid))),
        *_needs(gpus.seen, asked),
    )


def most_gpus(asked: Asked) -> int:
    """Return how many GPUs must be here: what is asked, or the most of a notebook that is not optional."""
    notebooks = asked.plan.notebooks if asked.plan else []
    notebooks = [nb for nb in notebooks if not nb.optional and not nb.requires.cpu_fallback]
    return max([gpus_wanted(asked.requirements), *(requirements(nb.requires).gpus for nb in notebooks)])


def _presence(gpus: Gpus, needed: int) -> Check:
    wanted = f"{needed} or more" if needed else ""
    if gpus.problem is not None:
        # A machine without a GPU is fine for notebooks that ask for none; a driver that is broken never is.
        absent = gpus.problem.kind in _ABSENT
        hint = gpus.problem.hint or ""
        status: Level = "warn" if absent and not needed else "fail"
        return Check(name="gpus", status=status, seen=gpus.problem.message, needed=wanted, hint=hint)
    count = len(gpus.seen)
    names = sorted({one.identity.name for one in gpus.seen})
    seen = f"{count} visible: {', '.join(names)}" if count else "none visible"
    if count < needed:
        hint = "give the container more GPUs (docker run --gpus all, a nvidia.com/gpu limit), or skip what needs them"
        return Check(name="gpus", status="fail", seen=seen, needed=wanted, hint=hint)
    hint = "" if count else "look at CUDA_VISIBLE_DEVICES"
    return Check(name="gpus", status="pass" if count else "warn", seen=seen, needed=wanted, hint=hint)


def _device_checks(one: Seen, health: Health | None) -> list[Check]:
    label = f"gpu {one.identity.index}"
    if one.memory is None:
        hint = "look for Xid messages in the host's kernel log; the GPU needs a reset or the host a reboot"
        return [Check(name=label, status="fail", seen=one.problem or "it is lost", hint=hint)]
    free = f"{format_bytes(one.memory.free_bytes)} free of {format_bytes(one.memory.total_bytes)}"
    shared = ", shared with the host" if one.memory.source == "host" else ""
    mig = ", a MIG slice" if one.identity.mig else ""
    names = [f"{holder.name or 'a process'} (pid {holder.pid})" for holder in one.holders[:3]]
    held = f"; held by {', '.join(names)}" if names else ""
    memory = Check(name=f"{label} memory", status="pass", seen=f"{one.identity.name}{mig}: {free}{shared}{held}")
    mode = [_mode(f"{label} compute mode", one)] if one.compute_mode not in {None, "default"} else []
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


def _mode(name: str, one: Seen) -> Check:
    hint = "nvidia-smi --compute-mode=DEFAULT on the host admits programs again"
    if one.compute_mode == "prohibited":
        return Check(name=name, status="fail", seen="prohibited: no program may use it", needed="default", hint=hint)
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
        hint = "results of this GPU cannot be trusted: drain the node and reset the GPU; replace it if they come back"
        return Check(name=name, status="fail", seen=seen, needed="no uncorrected errors", hint=hint)
    if health.remapping_pending:
        hint = "reset the GPU or reboot the host, so that the damaged memory is taken out of use"
        return Check(name=name, status="warn", seen=f"{seen}, remapping waits for a reset", hint=hint)
    return Check(name=name, status="pass", seen=seen)


def _heat(name: str, health: Health) -> Check:
    celsius = health.temperature_celsius
    if celsius is None:
        return Check(name=name, status="pass", seen=_unknown(health, "temperature_celsius"))
    limit = health.slowdown_celsius - _NEAR_CELSIUS if health.slowdown_celsius else _HOT_CELSIUS
    seen, needed = f"{celsius:g} °C", f"below {limit:g} °C"
    if celsius >= limit:
        hint = "it will slow down: look at the cooling, or wait until other work is done"
        return Check(name=name, status="warn", seen=seen, needed=needed, hint=hint)
    return Check(name=name, status="pass", seen=seen, needed=needed)


def _throttling(name: str, health: Health) -> Check:
    if health.throttled_by is None:
        return Check(name=name, status="pass", seen=_unknown(health, "throttled_by"))
    if health.throttled_by:
        hint = "it runs slower than it should: look at cooling and power supply; times of this run do not compare"
        return Check(name=name, status="warn", seen=", ".join(health.throttled_by), needed="none", hint=hint)
    return Check(name=name, status="pass", seen="none")


def _persistence(name: str, health: Health) -> Check:
    if health.persistence is None:
        return Check(name=name, status="pass", seen=_unknown(health, "persistence"))
    if health.persistence:
        return Check(name=name, status="pass", seen="on")
    hint = "each first use waits for the driver to load: run nvidia-persistenced on the host"
    return Check(name=name, status="warn", seen="off", needed="on", hint=hint)


def _unknown(health: Health, name: str) -> str:
    return f"cannot be determined: {health.unavailable.get(name, 'no answer')}"


def _needs(seen: Sequence[Seen], asked: Asked) -> list[Check]:
    """Compare the GPUs with the options, and with each notebook of the plan that asks for one."""
    found = []
    if asked.requirements.gpu_memory_gb:
        found.append(_need("gpu memory", asked.requirements, seen, optional=False))
    for notebook in asked.plan.notebooks if asked.plan else ():
        wants = replace(requirements(notebook.requires), gpu_free_fraction=asked.requirements.gpu_free_fraction)
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
        hint = "another process holds the memory now: end it, or let the run wait (--wait 10m)"
        return Check(name=name, status="warn", seen=seen_text, needed=needed, hint=hint)
    if wants.cpu_fallback:
        return Check(
            name=name, status="warn", seen=seen_text, needed=needed, hint="it will run on the CPU (cpu_fallback)"
        )
    if optional:
        hint = "the notebook is optional and will be skipped"
        return Check(name=name, status="warn", seen=seen_text, needed=needed, hint=hint)
    return Check(name=name, status="fail", seen=seen_text, needed=needed, hint="use larger GPUs, or leave it out")
