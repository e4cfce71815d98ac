# SPDX-License-Identifier: Apache-2.0
"""Run a notebook through all stages.

    gate -> prepare -> execute (sampling, guard) -> release -> expect -> convert -> metrics

Conversion and metrics always run; their errors never hide the notebook's. The earliest cause wins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.endings import end_lines
from runner.core.errors import BrokenInputError, RefusedError
from runner.core.records import Metrics, Status
from runner.core.redact import Redactor
from runner.core.stop import StoppedError, Stopper
from runner.core.trace import tracing
from runner.outputs import attempts, sums
from runner.outputs.attempts import clean_up
from runner.outputs.claim import Claim
from runner.outputs.run_log import RunLog
from runner.run import needs, preflight
from runner.run.context import RunContext
from runner.run.recorder import Recorder, convert
from runner.stages.record.metrics_builder import MetricsBuilder

if TYPE_CHECKING:
    from runner.plan.job import Job
    from runner.run.preflight import Checked
    from runner.stages.gate.gate import GateDecision

SIGNAL_RECORD_SECONDS = 8.0
"""Time limit after a signal for writing notebook and metrics."""


def run(job: Job, stopper: Stopper) -> Metrics:
    """Run a notebook and write its results.

    Raises
    ------
    UsageError
        A standalone run fails a check; nothing was written.
    AlreadyRunningError
        Another live run in the output folder has this name; nothing was written.
    RecordError
        The record cannot be written.
    """
    redactor = Redactor(job.hidden)
    with contextlib.ExitStack() as stack:
        # First: PID 1 of a container ignores signals without a handler.
        stack.enter_context(stopper.on_signals())
        preflight.check_name_is_free(job)
        checked = preflight.check_standalone(job)
        plan = job.plan.name if job.plan else None
        claim = stack.enter_context(Claim.of(job.output_dir, job.name, job.run_id, plan, sleep=stopper.sleep))
        because: tuple[str, ...] = ()
        if job.options.retry_count:
            from runner.run.resume import final_verdict

            if (verdict := final_verdict(job)) is not None:
                stopper.over = True
                return verdict
        if job.options.resume:
            from runner.run.resume import resume

            resumed = resume(job, stopper, checked=checked)
            if resumed.record is not None:
                stopper.over = True
                return resumed.record
            because = resumed.because
        attempts.set_aside(job.output_dir, job.name)
        stack.callback(sums.write_notebook, job.output_dir, job.name)  # after the log is closed
        runlog = stack.enter_context(RunLog(job.path(".log"), redactor))
        stack.enter_context(log.of_libraries())
        trace = stack.enter_context(tracing("run", notebook=job.name, run_id=job.run_id, plan=plan))
        metrics = MetricsBuilder(job)
        metrics.note(ran_because=because)
        left = clean_up(job.output_dir, claim.took_over)
        if left:
            metrics.warn(left)
        if claim.took_over:
            metrics.warn(f"took over from a dead run {claim.took_over.run_id} on {claim.took_over.host}")
        log.info("start", nb=job.name, run_id=job.run_id, source=job.source_label)
        context = RunContext(
            job=job,
            metrics=metrics,
            stopper=stopper,
            redactor=redactor,
            runlog=runlog,
            claim=claim,
            trace=trace,
        )
        recorder = Recorder(context)
        try:
            _run_stages(context, recorder, checked)
            record = recorder.write()
        except Exception as error:
            recorder.write_fault(error)
            raise
        stopper.over = True
        trace.note(record.reason if record.exit_code else "", status=record.status.value, exit_code=record.exit_code)
        context.notify_repairs(exit_code=record.exit_code, lines=end_lines(record))
        context.close_repairs()
        log.info("end", nb=job.name, status=record.status, wall=record.wall_seconds, reason=record.reason)
        return record


def _run_stages(run: RunContext, recorder: Recorder, checked: Checked | None) -> None:
    """Run the stages, and record an early end."""
    try:
        with run.twice, run.cleanup:
            _stages(run, recorder, checked)
    except StoppedError as stopped:
        reason = f"{stopped.stop.detail} before the notebook started"
        run.metrics.end(Status.TERMINATED, reason, stopped.exit_code)
    except BrokenInputError as error:
        run.metrics.end(Status.BROKEN_INPUT, str(error))
    except RefusedError as error:  # a GPU was lost between the gate and the start
        run.metrics.end(Status.REFUSED, str(error))


def _stages(run: RunContext, recorder: Recorder, checked: Checked | None) -> None:
    job, metrics, stopper = run.job, run.metrics, run.stopper
    skip = needs.why_skipped(job, stopper.sleep)
    if skip:
        metrics.end(Status.SKIPPED, skip)
        return
    with run.stage("prepare"):
        checked = checked or preflight.check(job)  # before the wait for a GPU
    with run.stage("gate"):
        decision = run.cleanup.enter_context(_gate(job, stopper))
    metrics.note(gate=decision.record)
    if not decision.record.passed:
        skipped = job.optional and job.options.skip_optional_notebooks
        metrics.end(Status.SKIPPED if skipped else Status.REFUSED, decision.record.reason)
        return
    stopper.check()

    from runner.run import execution, ingredients, preparation, resume, trial, verification

    again = run.twice.enter_context(trial.scratch(job)) if job.options.twice else None
    with run.stage("prepare"):
        prepared = preparation.prepare(run, checked)
        inputs = resume.inputs_of(job, checked)
        metrics.note(versions=dict(inputs.recipe.packages or {}))
    stopper.check()
    with run.stage("execute"):
        executed = execution.execute(run, decision, checked, prepared)
    if executed.checked is not checked:  # repaired
        checked = executed.checked
        inputs = dataclasses.replace(inputs, recipe=ingredients.declared(job, checked))
    recorder.save_notebook(executed.saver)
    recorder.write_early("release")  # before stages that may take long
    with run.stage("release"):
        verification.release(run, decision, executed, signal_seconds=SIGNAL_RECORD_SECONDS)
    with run.stage("expect"):
        verification.expect(run, checked, prepared, executed)
    if again is not None:
        recorder.save_notebook(executed.saver)
        recorder.write_early("second-run")
        with run.stage("second-run"):
            verification.second_run(run, executed, again)
    with run.stage("hash"):
        resume.note_key(run, inputs, decision.gpus, executed.opened)
    recorder.save_notebook(executed.saver)
    if recorder.problem is not None:  # the notebook must not show a success if its record is lost
        metrics.fault(recorder.problem)
        execution.mark(run, executed)
    recorder.write_early("convert")
    with run.stage("convert"):
        convert(run, executed.notebook)
    if recorder.problem is None:
        recorder.save_notebook(executed.saver)  # again, in case its file was changed
        resume.note_notebook(run)


def _gate(job: Job, stopper: Stopper) -> GateDecision:
    from runner.stages.gate.gate import gate

    return gate(
        job.asked,
        environ=os.environ,
        wait_seconds=job.options.wait,
        disk_path=job.cwd,
        owner=job.name,
        sleep=stopper.sleep,
    )
