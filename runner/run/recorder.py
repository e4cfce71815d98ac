# SPDX-License-Identifier: Apache-2.0
"""Writes the results of a run: page, notebook, metrics and Tekton results, also of an aborted run.

A failed conversion is only a warning, never the notebook's failure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from typing import TYPE_CHECKING, Any

from runner.core import endings, files, log
from runner.core.errors import RecordError
from runner.core.records import to_json
from runner.outputs import tekton_results
from runner.plan.job import EXECUTED_SUFFIX, INDEX_FILE

if TYPE_CHECKING:
    from runner.core.records import Metrics
    from runner.core.redact import Redactor
    from runner.plan.job import Job
    from runner.run.context import RunContext
    from runner.stages.convert.page import ConvertedHtml
    from runner.stages.execute.executed_notebook import Saver


SIGNAL_HTML_SECONDS = 20.0
"""Time limit for writing HTML after a signal."""


class Recorder:
    """Writes notebook and metrics; errors of writing the notebook are raised at the end."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self.problem: RecordError | None = None
        """Error of the last save of the notebook, None if it succeeded."""

    def save_notebook(self, saver: Saver) -> None:
        """Write the executed notebook if it or its file has changed since the last save; set `problem` on errors."""
        metrics, path = self._run.metrics, self._run.job.path(EXECUTED_SUFFIX)
        sizes, missing = dict(metrics.record.outputs.bytes), dict(metrics.record.outputs.unavailable)
        sizes.pop("notebook", None)
        missing.pop("notebook", None)
        self.problem = None
        try:
            if saver.dirty or not saver.intact:
                saver.save()
            sizes["notebook"] = path.stat().st_size
        except (RecordError, OSError) as error:
            self.problem = error if isinstance(error, RecordError) else files.cannot_write(path, error)
            log.error("save", nb=self._run.job.name, reason=str(self.problem))
            missing["notebook"] = str(self.problem)
        metrics.note_outputs(
            notebook=None if self.problem else path.name,
            bytes=sizes,
            unavailable=missing,
            saves=saver.saves,
            save_seconds=round(saver.seconds, 6),
        )

    def write_early(self, stage: str) -> None:
        """Write a provisional record, in case the run is killed in the stage that starts now."""
        with contextlib.suppress(RecordError):  # `write` raises it
            self._write(stage)

    def write(self) -> Metrics:
        """Write the final metrics and Tekton's results.

        Raises
        ------
        RecordError
            They could not be written, or the notebook could not be saved.
        """
        if self.problem is not None:
            raise self.problem
        return self._write()

    def _write(self, stage: str | None = None) -> Metrics:
        self._note_files()
        metrics = self._run.metrics.metrics(stage)
        self._write_metrics(metrics)
        self._write_results(metrics)
        return metrics

    def write_fault(self, error: Exception) -> None:
        """Write the record of an aborted run, in full or else only its end.

        If even that fails the claim is kept, and a report shows the run as lost.
        """
        metrics = self._run.metrics
        metrics.fault(error)
        log.error("aborted", nb=self._run.job.name, reason=metrics.record.reason)
        with contextlib.suppress(Exception):  # first: they are on another volume, which may have space
            self._write_results(metrics.metrics())
        for build in (metrics.metrics, metrics.bare):
            try:
                self._write_metrics(build())
            except Exception as problem:  # noqa: BLE001  (the first error is raised)
                log.error("record", nb=self._run.job.name, reason=f"{type(problem).__name__}: {problem}")
            else:
                return
        self._run.claim.leave_behind()

    def _write_metrics(self, metrics: Metrics) -> None:
        files.write(self._run.job.path(".metrics.json"), to_json(metrics, self._run.redactor.tree))

    def _write_results(self, metrics: Metrics) -> None:
        job = self._run.job
        if job.options.results_dir is not None:
            shown = endings.settled(metrics)  # final unless another record follows
            shown = dataclasses.replace(shown, reason=self._run.redactor.text(shown.reason))
            tekton_results.write(job.options.results_dir, shown, job.path(".metrics.json"))

    def _note_files(self) -> None:
        """Record the files written during the run, and warn about missing and incomplete ones."""
        job, metrics, runlog = self._run.job, self._run.metrics, self._run.runlog
        sizes, unavailable = dict(metrics.record.outputs.bytes), dict(metrics.record.outputs.unavailable)
        found: dict[str, str | None] = {}
        for key, suffix in self._run.files.items():
            path = job.path(suffix)
            if path.is_file():
                found[key], sizes[key] = path.name, path.stat().st_size
            else:
                found[key] = None
                unavailable[key] = "it was deleted or replaced while the notebook ran, or could not be created"
                metrics.warn(f"{path.name} is missing: {unavailable[key]}")
        metrics.note_outputs(bytes=sizes, unavailable=unavailable, **found)
        if runlog.bounds:
            truncated = f"{job.path('.log').name} is truncated: "
            others = (warning for warning in metrics.record.warnings if not warning.startswith(truncated))
            metrics.note(warnings=(*others, f"{truncated}{runlog.bounds}"))
        if runlog.problem:
            metrics.warn(f"the log is incomplete: {runlog.problem}")


def preload_page(job: Job, notebook: Any) -> None:
    """Import the modules for the page in a thread while the cells run, to save time at the end."""
    if not job.options.html:
        return

    def work() -> None:
        from runner.stages.convert.page import preload

        with contextlib.suppress(Exception):  # the conversion raises and reports it again
            preload(notebook.cells)

    threading.Thread(target=work, name="preload", daemon=True).start()


def write_page_of(job: Job, notebook: Any, redactor: Redactor) -> ConvertedHtml:
    """Write the page of a job's executed notebook with the job's options, without secrets."""
    from runner.stages.convert.page import Look, write_page
    from runner.stages.execute.executed_notebook import redacted

    options = job.options
    report = None if job.standalone else INDEX_FILE
    return write_page(
        redacted(notebook, redactor),
        job.path(".html"),
        name=job.name,
        look=Look(trust=options.trust_html, interactive=options.interactive, report=report),
        folder=job.source.parent,
    )


def convert(run: RunContext, notebook: Any, *, signal_seconds: float | None = None) -> None:
    """Write the page; give up some seconds after a signal."""
    job, metrics = run.job, run.metrics
    signal_seconds = SIGNAL_HTML_SECONDS if signal_seconds is None else signal_seconds
    if not job.options.html:
        metrics.note_outputs(unavailable={**metrics.record.outputs.unavailable, "html": "--no-html"})
        return
    outcome: list[ConvertedHtml | Exception] = []

    def work() -> None:
        try:
            outcome.append(write_page_of(job, notebook, run.redactor))
        except Exception as error:  # noqa: BLE001  (an error of the conversion must not hide the notebook's)
            outcome.append(error)

    thread = threading.Thread(target=work, name="convert", daemon=True)
    thread.start()
    while thread.is_alive() and run.stopper.seconds_left(signal_seconds) > 0:
        thread.join(0.1)
    result = outcome[0] if outcome else None
    if result is not None and not isinstance(result, Exception):
        sizes = {**metrics.record.outputs.bytes, "html": result.bytes}
        metrics.note_outputs(html=job.path(".html").name, bytes=sizes)
        metrics.warn(*result.warnings)
        return
    reason = f"not done within {signal_seconds:.0f} s after the signal; run `runner convert`"
    if result is not None:
        reason = f"conversion failed: {type(result).__name__}: {result}"
    log.warning("convert", nb=job.name, reason=reason)
    metrics.warn(f"no HTML: {reason}")
    metrics.note_outputs(unavailable={**metrics.record.outputs.unavailable, "html": reason})
