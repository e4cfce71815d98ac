# SPDX-License-Identifier: Apache-2.0
"""Verify an executed notebook: release of GPU memory, resource usage, and the plan's expectations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.core import log
from runner.core.records import Status
from runner.machine.cuda_processes import shown
from runner.run.execution import mark
from runner.stages.release.release import sweep_and_prove

if TYPE_CHECKING:
    from runner.run.context import RunContext
    from runner.run.execution import Execution
    from runner.run.preflight import Checked
    from runner.run.preparation import Preparation
    from runner.stages.gate.gate import GateDecision


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
