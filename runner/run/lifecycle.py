# SPDX-License-Identifier: Apache-2.0
"""One notebook, start to finish.

    gate -> prepare -> execute (sampling, guard) -> release -> expect -> convert -> metrics

Conversion and metrics happen whatever failed before them; a fault of theirs never hides the
notebook's. The first cause in time wins.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.errors import BrokenInputError, RefusedError
from runner.core.records import Metrics, Status
from runner.core.redact import Redactor
from runner.core.stop import StoppedError, Stopper
from runner.outputs import attempts
from runner.outputs.claim import Claim
from runner.outputs.run_log import RunLog
from runner.run import needs, preflight
from runner.run.leftovers import clean_up
from runner.run.recorder import Recorder
from runner.stages.record.metrics_builder import Draft

if TYPE_CHECKING:
    from runner.plan.job import Job
    from runner.run.execution import Execution
    from runner.run.preflight import Checked
    from runner.run.progress import Progress
    from runner.stages.gate.gate import GateDecision

SIGNAL_RECORD_SECONDS = 8.0
"""After a signal, notebook and metrics are on the disk within this time."""
SIGNAL_HTML_SECONDS = 20.0
"""After a signal, HTML is written if it is done within this time."""


def run(job: Job, stopper: Stopper, progress: Progress) -> Metrics:
    """Run a notebook and write its results.

    Raises
    ------
    UsageError
        A standalone run fails a check; nothing was written.
    AlreadyRunningError
        Another live run has this name here; nothing was written.
    RecordError
        The record cannot be written.
    """
    redactor = Redactor(job.hidden)
    with contextlib.ExitStack() as stack:
        # First of all: the first process of a container does not even hear a signal that it does not handle.
        stack.enter_context(stopper.on_signals())
        preflight.check_name_is_free(job)
        checked = preflight.check_standalone(job)
        plan = job.plan.name if job.plan else None
        claim = stack.enter_context(Claim.of(job.output_dir, job.name, job.run_id, plan, sleep=stopper.sleep))
        attempts.set_aside(job.output_dir, job.name)
        runlog = stack.enter_context(RunLog(job.path(".log"), redactor))
        draft = Draft(job)
        left = clean_up(job.output_dir, claim.took_over)
        if left:
            draft.warnings.append(left)
        if claim.took_over:
            draft.warnings.append(f"took over from a dead run {claim.took_over.run_id} on {claim.took_over.host}")
        log.info("start", nb=job.name, run_id=job.run_id, source=job.source_label)
        recorder = Recorder(draft, redactor, runlog, claim)
        try:
            _to_the_end(job, draft, stopper, recorder, progress, checked)
            metrics = recorder.write()
        except Exception as error:
            recorder.write_fault(error)
            raise
        stopper.over = True
        log.info("end", nb=job.name, status=metrics.status, wall=metrics.wall_seconds, reason=metrics.reason)
        return metrics


def _to_the_end(
    job: Job, draft: Draft, stopper: Stopper, recorder: Recorder, progress: Progress, checked: Checked | None
) -> None:
    """Go through the stages; an end before the notebook's own is an end as well."""
    try:
        _stages(job, draft, stopper, recorder, progress, checked)
    except StoppedError as stopped:
        draft.end(Status.TERMINATED, f"{stopped.stop.detail} before the notebook started", stopped.exit_code)
    except BrokenInputError as error:
        draft.end(Status.BROKEN_INPUT, str(error))
    except RefusedError as error:  # a GPU was lost between the gate and the start
        draft.end(Status.REFUSED, str(error))


def _reason_to_skip(job: Job, stopper: Stopper) -> str | None:
    go_on = job.options.continue_on_failure
    ended = needs.ended(job.output_dir, [*job.needs, *job.earlier])
    if not go_on:
        silent = [name for name in job.earlier if name not in ended or ended[name].run_id != job.run_id]
        ended |= needs.lost(job.output_dir, silent, job.run_id, sleep=stopper.sleep)
    return needs.reason_to_skip(
        needs=job.needs,
        earlier=job.earlier,
        results=ended,
        run_id=job.run_id,
        any_run=job.lone,
        continue_on_failure=go_on,
    )


def _stages(
    job: Job, draft: Draft, stopper: Stopper, recorder: Recorder, progress: Progress, checked: Checked | None
) -> None:
    skip = _reason_to_skip(job, stopper)
    if skip:
        draft.end(Status.SKIPPED, skip)
        return
    with draft.stage("prepare"):
        checked = checked or preflight.check(job)  # before anything waits for a GPU
    with draft.stage("gate"):
        decision = _gate(job, stopper)
    with decision:
        draft.gate = decision.record
        if not decision.record.passed:
            skipped = job.optional and job.options.skip_optional_notebooks
            draft.end(Status.SKIPPED if skipped else Status.REFUSED, decision.record.reason)
            return
        stopper.check()
        _run_notebook(job, draft, decision, stopper, recorder, progress, checked)


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


def _run_notebook(
    job: Job,
    draft: Draft,
    decision: GateDecision,
    stopper: Stopper,
    recorder: Recorder,
    progress: Progress,
    checked: Checked,
) -> None:
    from runner.run.execution import Execution

    execution = Execution(job, draft, decision, stopper, recorder, progress)
    try:
        with draft.stage("prepare"):
            execution.prepare(checked)
        stopper.check()
        with draft.stage("execute"):
            execution.execute()
        hurry = _Hurry(stopper)
        recorder.save_notebook(execution)
        recorder.write_early("release")  # a record is there before anything that may take its time
        with draft.stage("release"):
            execution.release(seconds_left=lambda: hurry.left(SIGNAL_RECORD_SECONDS))
        with draft.stage("expect"):
            execution.expect()
        recorder.save_notebook(execution)
        if recorder.problem is not None:
            execution.mark_lost(recorder.problem)
        recorder.write_early("convert")
        with draft.stage("convert"):
            _convert(job, draft, execution, hurry)
        if recorder.problem is None:
            recorder.save_notebook(execution)  # once more, if its file was touched meanwhile
    finally:
        execution.close()


def _convert(job: Job, draft: Draft, execution: Execution, hurry: _Hurry) -> None:
    """Write the HTML; its failure is a note and never the notebook's."""
    if not job.options.html:
        draft.note_outputs(unavailable={**draft.outputs.unavailable, "html": "--no-html"})
        return
    outcome: list[int | Exception] = []

    def work() -> None:
        try:
            outcome.append(execution.write_html())
        except Exception as error:  # noqa: BLE001  (a fault of conversion must not hide the notebook's)
            outcome.append(error)

    thread = threading.Thread(target=work, name="convert", daemon=True)
    thread.start()
    while thread.is_alive() and hurry.left(SIGNAL_HTML_SECONDS) > 0:
        thread.join(0.1)
    if outcome and isinstance(outcome[0], int):
        draft.note_outputs(html=job.path(".html").name, bytes={**draft.outputs.bytes, "html": outcome[0]})
        return
    reason = f"not done within {SIGNAL_HTML_SECONDS:.0f} s after the signal; `runner convert` can make it"
    if outcome:
        reason = f"conversion failed: {type(outcome[0]).__name__}: {outcome[0]}"
    log.warning("convert", nb=job.name, reason=reason)
    draft.warnings.append(f"no HTML: {reason}")
    draft.note_outputs(unavailable={**draft.outputs.unavailable, "html": reason})


class _Hurry:
    """How much time is left once a signal has come; without one, as much as is wanted."""

    def __init__(self, stopper: Stopper) -> None:
        self._stopper = stopper

    def left(self, seconds: float) -> float:
        stop = self._stopper.stop
        if stop is None or not stop.by_signal:
            return math.inf
        return max(0.0, seconds - (time.monotonic() - stop.monotonic))
