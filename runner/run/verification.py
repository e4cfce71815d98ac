# SPDX-License-Identifier: Apache-2.0
"""Verify an executed notebook: release of GPU memory, resource usage, the plan's expectations, and a second run.

The second run (`--twice`) is done in a scratch folder with a copy of the checkout from before the first run. Each cell
is bit-equal, equal in meaning or unstable. An unstable cell or product is an unmet expectation.
"""

from __future__ import annotations

import dataclasses
import filecmp
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner.core import log
from runner.core.errors import RunnerError
from runner.core.records import Expectation, Status
from runner.core.stop import StoppedError
from runner.machine.cuda_processes import shown
from runner.plan.job import EXECUTED_SUFFIX, resolve
from runner.run.execution import mark
from runner.stages.release.release import sweep_and_prove

if TYPE_CHECKING:
    from runner.compare.verdict import Verdict
    from runner.core.records import Metrics
    from runner.plan.job import Job, Options
    from runner.run.context import RunContext
    from runner.run.execution import Execution
    from runner.run.preflight import Checked
    from runner.run.preparation import Preparation
    from runner.stages.gate.gate import GateDecision

Stability = Literal["bit-equal", "equal-in-meaning", "unstable"]
_STABILITY: dict[str, Stability] = {
    "EQUAL": "bit-equal",
    "TOLERATED": "equal-in-meaning",
    "DIFFERENT": "unstable",
}


def release(run: RunContext, decision: GateDecision, execution: Execution, *, signal_seconds: float) -> None:
    """End leftover processes, prove the release, and assign samples to cells.

    Parameters
    ----------
    signal_seconds
        Time limit after a signal.
    """
    job, metrics = run.job, run.metrics
    proof = sweep_and_prove(
        execution.watch,
        cleanup=job.options.cleanup_between_notebooks,
        seconds_left=lambda: run.stopper.seconds_left(signal_seconds),
    )
    metrics.note(release=proof)
    left = [f"{process.name} (pid {process.pid}, {process.ended_by})" for process in proof.swept]
    log.info("release", nb=job.name, released=proof.released, seconds=proof.seconds, swept=len(left))
    if left:
        metrics.warn(f"processes outlived the kernel: {', '.join(left)}")
    if proof.released is False and not job.options.strict_release:
        metrics.warn(f"GPU memory was not released: {proof.reason}")
    if proof.released is None and decision.gpus:
        metrics.warn(f"whether GPU memory was released is unknown: {proof.reason}")
    _note_use(run, decision, execution)


def _note_use(run: RunContext, decision: GateDecision, execution: Execution) -> None:
    """Record the resource usage of cells, GPUs and host, and the notebook's commit."""
    from runner.stages.execute import cell_records

    metrics, watch, probing = run.metrics, execution.watch, execution.probing
    spans = cell_records.spans(metrics.record.cells, execution.facts, metrics.started_monotonic)
    cells, gpus = probing.join(
        cell_records.with_use(metrics.record.cells, watch.cells(spans)),
        watch.gpu_uses(decision.driver, held_seconds=metrics.seconds()),
        spans,
    )
    metrics.note(
        cells=cells,
        gpus=gpus,
        host=watch.host(),
        sampler=watch.sampling(),
        allocator_probe=probing.record(),
        source=execution.commit.complete(metrics.record.source),
    )
    for gpu in gpus:
        if gpu.neighbours:
            others = f"others also used {gpu.uuid}, its peaks and utilization include theirs"
            metrics.warn(f"{others}: {shown(gpu.neighbours)}")
    if probing.warning:
        metrics.warn(probing.warning)
    if watch.guard.problem:
        metrics.warn(f"the memory guard ended before the run: {watch.guard.problem}")


def expect(run: RunContext, checked: Checked, preparation: Preparation, execution: Execution) -> None:
    """Check a successful notebook against the plan's expectations, then the release."""
    job, metrics, staging = run.job, run.metrics, preparation.staging
    if metrics.record.status is Status.SUCCEEDED and staging is not None:
        metrics.warn(*staging.warnings())
    if metrics.record.status is Status.SUCCEEDED and job.expect is not None:
        from runner.stages.expect import expectations

        found = expectations.check(
            job.expect,
            checkout=job.checkout,
            before=preparation.expected_before,
            figures=metrics.record.outputs.figures,
            executed_nb=execution.notebook,
            source_nb=checked.notebook,
            reused=staging.reused if staging is not None else (),
        )
        metrics.note(expectations=found)
        for one in found:
            if not one.met:
                metrics.warn(f"expected {one}")
                if one.severity == "error":
                    metrics.end(Status.UNEXPECTED_RESULTS, str(one))
    if metrics.record.status is Status.SUCCEEDED and staging is not None:
        metrics.note_outputs(products=staging.record_products())
    proof = metrics.record.release
    if proof is not None and proof.released is False and job.options.strict_release:
        metrics.end(Status.NOT_RELEASED, proof.reason)
    mark(run, execution)


def second_run(run: RunContext, execution: Execution, trial: Options) -> None:
    """Run a successful notebook again, and record the stability of each cell.

    Parameters
    ----------
    trial
        Options from `scratch` before the first run.
    """
    from runner.run.lifecycle import run as run_again

    metrics, stopper = run.metrics, run.stopper
    if metrics.record.status is not Status.SUCCEEDED or metrics.record.repaired:
        metrics.warn("no second run: only successful runs without repairs are run twice")
        return
    run.cleanup.close()  # the second run needs the locks of the GPUs
    job = resolve(dataclasses.replace(trial, name=run.job.name, on_failure="end"))
    log.info("second-run", nb=run.job.name, checkout=job.checkout)
    try:
        record = run_again(job, stopper)
    except StoppedError as stopped:
        metrics.end(Status.TERMINATED, f"{stopped.stop.detail} in the second run", stopped.exit_code)
        return
    except RunnerError as error:
        found = [_unmet("notebook", str(error), "succeeded")]
    else:
        stopper.over = False
        if record.status is Status.TERMINATED:
            metrics.end(Status.TERMINATED, f"{record.reason} in the second run", record.exit_code)
            return
        found = list(_differences(run, job, record))
    metrics.note(expectations=(*metrics.record.expectations, *found))
    for one in found:
        metrics.warn(f"expected {one}")
        metrics.end(Status.UNEXPECTED_RESULTS, str(one))
    mark(run, execution)


def _unmet(target: str, seen: str, needed: str = "the same") -> Expectation:
    return Expectation(kind="second-run", target=target, met=False, seen=seen, needed=needed)


def _differences(run: RunContext, job: Job, record: Metrics) -> Iterator[Expectation]:
    """Yield the differences, and record the stability of each cell."""
    from runner.compare.notebooks import compare_cell, read_cells
    from runner.compare.verdict import Outcome, Tolerance

    if record.status is not Status.SUCCEEDED:
        yield _unmet("notebook", f"{record.status.value}: {record.reason}", "succeeded")
        return
    first = read_cells(run.job.path(EXECUTED_SUFFIX))
    second = read_cells(job.path(EXECUTED_SUFFIX), {str(job.checkout): str(run.job.checkout)})
    stable: dict[int, Stability] = {}
    for one, two in zip(first, second, strict=True):
        index = one["metadata"].get("runner", {}).get("index")
        if index is None:  # inserted
            continue
        found = compare_cell(f"cell {index + 1}", one, two, Tolerance())
        if found.outcome is Outcome.UNKNOWN:
            run.metrics.warn(f"second run: {found}")
            continue
        stable[index] = _STABILITY[found.outcome.name]
        if found.outcome is Outcome.DIFFERENT:
            yield _unmet(found.part, found.detail)
    cells = (dataclasses.replace(cell, second_run=stable.get(cell.index)) for cell in run.metrics.record.cells)
    run.metrics.note(cells=tuple(cells))
    for name in run.metrics.record.outputs.products:
        yield from _product(run, name, run.job.checkout / name, job.checkout / name)


def _product(run: RunContext, name: str, first: Path, second: Path) -> Iterator[Expectation]:
    from runner.compare.folders import compare
    from runner.compare.verdict import Outcome, Tolerance

    if first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False):
        return
    if not second.exists():
        yield _unmet(name, "missing")
        return
    try:
        found: list[Verdict] = [one for file in compare(first, second, Tolerance()).files for one in file.verdicts]
    except RunnerError as error:  # a library that is not installed
        run.metrics.warn(f"second run: {name} has different bytes and cannot be compared: {error}")
        return
    for one in found:
        if one.outcome in {Outcome.DIFFERENT, Outcome.UNKNOWN}:
            yield _unmet(name, str(one))
