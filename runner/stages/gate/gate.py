# SPDX-License-Identifier: Apache-2.0
"""The gate: a notebook starts only where the machine has what it asks for.

A notebook that finds too little GPU memory fails an hour later with an error about something
else. So before anything runs, the visible GPUs and the host are compared with the requirement;
the best GPUs are locked for the run, and the refusal says what is here and what is asked. A
notebook that can do without a GPU (``cpu_fallback``) passes with none where they are refused.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from runner.core import log
from runner.core.records import Check, Gate
from runner.core.requirements import Requirements, gpus_wanted
from runner.stages.gate.criteria import (
    Candidate,
    Seen,
    best,
    hopeless,
    host_checks,
    judge,
    mode_checks,
    needed_bytes,
    refusal,
)

if TYPE_CHECKING:
    from runner.machine.gpus import Driver, Gpu
    from runner.stages.gate.gpu_locks import Locks

_POLL_SECONDS = 0.5
_SAY_AGAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What one look at the GPUs gave; ``chosen`` is empty when there were not enough."""

    candidates: tuple[Candidate, ...]
    chosen: tuple[str, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """What the gate decided, and what it holds for the run: GPUs, their locks, the driver.

    Close it, or use it in a ``with`` block, when the run has ended.
    """

    record: Gate
    gpus: tuple[Gpu, ...] = ()
    driver: Driver | None = None
    locks: Locks | None = None

    @property
    def passed(self) -> bool:
        """Whether the notebook may start."""
        return self.record.passed

    def close(self) -> None:
        """Free the locks and leave the driver."""
        if self.locks is not None:
            self.locks.close()
        if self.driver is not None:
            self.driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def gate(
    asked: Requirements,
    *,
    environ: Mapping[str, str],
    wait_seconds: float,
    disk_path: Path,
    owner: str,
    sleep: Callable[[float], None] = time.sleep,
) -> GateDecision:
    """Compare the machine with what is asked and take the GPUs for the run.

    Parameters
    ----------
    asked
        What the notebook needs. Without GPUs the driver is not even loaded.
    environ
        Environment of the kernel: its CUDA_VISIBLE_DEVICES bounds the choice.
    wait_seconds
        How long to wait for memory or locks that others hold. Nothing is waited for when the
        GPUs are too small or too few.
    disk_path
        Where the notebook will write; need not exist yet.
    owner
        Who locks the GPUs, for the messages of other runs.
    sleep
        Waits between two looks; whatever it raises ends the gate and frees its locks.
    """
    checks = _host(asked, disk_path)
    problems = tuple(
        f"{check.name}: {check.seen}, {check.needed} needed ({check.hint})"
        for check in checks
        if check.status == "fail"
    )
    if not gpus_wanted(asked):
        reason = "; ".join(problems) or "no GPU requested"
        record = Gate(passed=not problems, reason=reason, asked=asked, checks=checks)
        return GateDecision(record=record)

    from runner.machine.gpus import DriverProblem, open_driver
    from runner.stages.gate.gpu_locks import Locks, folder

    try:
        driver = open_driver()
    except DriverProblem as problem:
        reason = "; ".join((str(problem), *problems))
        record = Gate(passed=False, reason=reason, asked=asked, checks=checks, driver_problem=problem.kind)
        return GateDecision(record=_fall_back(record, problems))
    locks = Locks(folder(environ))
    try:
        visible = driver.visible(environ)
        patience = 0.0 if problems else wait_seconds
        look, waited = _wait(asked, visible, locks, owner, wait_seconds=patience, sleep=sleep)
        note = "; ".join(filter(None, [driver.resolve(environ).note, *driver.notes]))
    except BaseException:  # a signal while it waits: the locks must not outlive it
        locks.close()
        driver.close()
        raise
    record = Gate(
        passed=bool(look.chosen) and not problems,
        reason=_reason(asked, look, problems, note),
        asked=asked,
        waited_seconds=waited,
        gpus=tuple(candidate.gpu for candidate in look.candidates),
        chosen=() if problems else look.chosen,
        checks=(*checks, *look.checks),
        driver_version=driver.driver_version,
        cuda_version=driver.cuda_version,
    )
    if not record.passed:
        locks.close()
        driver.close()
        return GateDecision(record=_fall_back(record, problems))
    by_uuid = {gpu.uuid: gpu for gpu in visible}
    return GateDecision(record=record, gpus=tuple(by_uuid[uuid] for uuid in look.chosen), driver=driver, locks=locks)


def visibility_env(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that show the kernel these GPUs, by UUID, and no others.

    Without GPUs the list is empty: one that the gate did not hand out may be another run's, and what a
    kernel did there would be neither gated nor measured. An order that the user chose stands.
    """
    if not gpus:
        return {"CUDA_VISIBLE_DEVICES": ""}
    order = {} if "CUDA_DEVICE_ORDER" in environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in gpus), **order}


def _fall_back(record: Gate, problems: Sequence[str]) -> Gate:
    """Let a notebook that can do without a GPU pass where only the GPUs were refused."""
    if not record.asked.cpu_fallback or problems:
        return record
    return dataclasses.replace(record, passed=True, reason=f"runs on the CPU (cpu_fallback): {record.reason}")


def _host(asked: Requirements, disk_path: Path) -> tuple[Check, ...]:
    """Ask the host for what the requirement needs to know, and only that."""
    from runner.machine.host import disk_free_bytes, read_limits, shm_free_bytes

    return host_checks(
        asked,
        limits=read_limits() if asked.cpus is not None or asked.memory_gb is not None else None,
        shm_free_bytes=shm_free_bytes(),
        disk_free_bytes=None if asked.disk_gb is None else disk_free_bytes(disk_path),
    )


def _wait(
    asked: Requirements,
    gpus: Sequence[Gpu],
    locks: Locks,
    owner: str,
    *,
    wait_seconds: float,
    sleep: Callable[[float], None],
) -> tuple[_Look, float]:
    """Look until enough GPUs are taken, nothing can help any more, or the time is up."""
    started = time.monotonic()
    waited, said = 0.0, -_SAY_AGAIN_SECONDS
    while True:
        look = _look(asked, gpus, locks, owner)
        left = wait_seconds - (time.monotonic() - started)
        if look.chosen or left <= 0 or hopeless(asked, look.candidates):
            return look, waited
        if waited - said >= _SAY_AGAIN_SECONDS:
            said = waited
            log.info("gate-waits", left_seconds=left, reason=refusal(asked, look.candidates))
        # Two runs that wait for the same GPUs get out of step.
        sleep(min(left, _POLL_SECONDS * random.uniform(0.8, 1.2)))  # noqa: S311
        waited = time.monotonic() - started


def _look(asked: Requirements, gpus: Sequence[Gpu], locks: Locks, owner: str) -> _Look:
    """Judge the GPUs and lock the best of them; all of those wanted, or none."""
    seen = {gpu.uuid: _see(gpu, needed_bytes(asked)) for gpu in gpus}
    chosen: list[str] = []
    checks: tuple[Check, ...] = ()
    for uuid in best(judge(asked, tuple(seen.values()))):
        if len(chosen) == gpus_wanted(asked):
            break
        try:
            holder = locks.take(uuid, owner)
        except OSError as error:
            checks = (_no_locks(locks, error),)
            holder = None
        if holder is None:
            chosen.append(uuid)
        else:
            seen[uuid] = dataclasses.replace(seen[uuid], locked_by=holder)
    if len(chosen) < gpus_wanted(asked):
        locks.close()
        chosen = []
    candidates = judge(asked, tuple(seen.values()))
    return _Look(
        candidates=candidates, chosen=tuple(chosen), checks=(*checks, *mode_checks(candidates, tuple(seen.values())))
    )


def _see(gpu: Gpu, need: int) -> Seen:
    from runner.machine.gpus import DriverProblem

    try:
        memory = gpu.memory()
        mode = gpu.compute_mode()
        ask = mode == "exclusive" or (memory.free_bytes is not None and memory.free_bytes < need)
        holders = gpu.processes() if ask else ()
        return Seen(identity=gpu.identity, memory=memory, compute_mode=mode, holders=holders)
    except DriverProblem as problem:
        return Seen(identity=gpu.identity, memory=None, problem=problem.message)


def _no_locks(locks: Locks, error: OSError) -> Check:
    """Warn that runs cannot be kept apart here; that alone prevents no run."""
    return Check(
        name="gpu lock",
        status="warn",
        seen=f"{locks.directory}: {error.strerror or error}",
        needed="a folder that every run on this machine can write",
        hint="set RUNNER_LOCK_DIR to one, or start one run at a time",
    )


def _reason(asked: Requirements, look: _Look, problems: Sequence[str], note: str) -> str:
    if look.chosen and not problems:
        return "; ".join(f"{v.gpu.uuid} has {v.gpu.reason}" for v in look.candidates if v.gpu.uuid in look.chosen)
    gpus = () if look.chosen else (refusal(asked, look.candidates, note),)
    return "; ".join((*problems, *gpus))
