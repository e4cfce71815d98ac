# SPDX-License-Identifier: Apache-2.0
"""The gate: check that the machine meets a notebook's requirements before it starts.

A notebook that gets too little GPU memory fails an hour later with an unrelated error. So before
anything runs, the visible GPUs and the host are compared with the requirements and the best GPUs
are locked for the run; a refusal lists what was requested and what is available. A notebook that
can run without a GPU (``cpu_fallback``) passes without one if no GPU qualifies.
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
_LOG_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """Result of one poll of the GPUs; ``chosen`` is empty if too few qualified."""

    candidates: tuple[Candidate, ...]
    chosen: tuple[str, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """The gate's decision, with the GPUs, their locks and the driver for the run.

    Close it after the run, or use it in a ``with`` block.
    """

    record: Gate
    gpus: tuple[Gpu, ...] = ()
    driver: Driver | None = None
    locks: Locks | None = None

    @property
    def passed(self) -> bool:
        """True if the notebook may start."""
        return self.record.passed

    def close(self) -> None:
        """Release the locks and close the driver."""
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
    """Compare the machine with the requirements and lock GPUs for the run.

    Parameters
    ----------
    asked
        The notebook's requirements. Without GPUs the driver is not loaded.
    environ
        Environment of the kernel: its CUDA_VISIBLE_DEVICES limits the choice.
    wait_seconds
        How long to wait for memory or locks held by others. There is no wait if the GPUs are too
        small or too few.
    disk_path
        Where the notebook will write; may not exist yet.
    owner
        Name of this run in the messages of other runs.
    sleep
        Waits between two polls; an exception from it ends the gate and releases its locks.
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
    except BaseException:  # such as a signal during the wait: do not keep the locks
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
    """Return the variables that make only these GPUs visible to the kernel, by UUID.

    Without GPUs the list is empty: any other GPU may belong to another run, and work on it would be
    neither gated nor measured. A CUDA_DEVICE_ORDER set by the user is kept.
    """
    if not gpus:
        return {"CUDA_VISIBLE_DEVICES": ""}
    order = {} if "CUDA_DEVICE_ORDER" in environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in gpus), **order}


def _fall_back(record: Gate, problems: Sequence[str]) -> Gate:
    """Pass a notebook with ``cpu_fallback`` if only the GPU requirements failed."""
    if not record.asked.cpu_fallback or problems:
        return record
    return dataclasses.replace(record, passed=True, reason=f"runs on the CPU (cpu_fallback): {record.reason}")


def _host(asked: Requirements, disk_path: Path) -> tuple[Check, ...]:
    """Check the host, reading only the limits that the requirements name."""
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
    """Poll until enough GPUs are locked, waiting cannot help, or the time is up."""
    started = time.monotonic()
    waited, logged = 0.0, -_LOG_SECONDS
    while True:
        look = _look(asked, gpus, locks, owner)
        left = wait_seconds - (time.monotonic() - started)
        if look.chosen or left <= 0 or hopeless(asked, look.candidates):
            return look, waited
        if waited - logged >= _LOG_SECONDS:
            logged = waited
            log.info("gate-waits", left_seconds=left, reason=refusal(asked, look.candidates))
        # Jitter keeps two runs that wait for the same GPUs out of step.
        sleep(min(left, _POLL_SECONDS * random.uniform(0.8, 1.2)))  # noqa: S311
        waited = time.monotonic() - started


def _look(asked: Requirements, gpus: Sequence[Gpu], locks: Locks, owner: str) -> _Look:
    """Judge the GPUs and lock the best of them: all that are requested, or none."""
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
    """Warn that concurrent runs may share a GPU because locking failed; the run goes on."""
    return Check(
        name="gpu lock",
        status="warn",
        seen=f"{locks.directory}: {error.strerror or error}",
        needed="a folder that every run on this machine can write to",
        hint="set RUNNER_LOCK_DIR to such a folder, or start one run at a time",
    )


def _reason(asked: Requirements, look: _Look, problems: Sequence[str], note: str) -> str:
    if look.chosen and not problems:
        return "; ".join(f"{v.gpu.uuid} has {v.gpu.reason}" for v in look.candidates if v.gpu.uuid in look.chosen)
    gpus = () if look.chosen else (refusal(asked, look.candidates, note),)
    return "; ".join((*problems, *gpus))
