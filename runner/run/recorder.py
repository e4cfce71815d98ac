# SPDX-License-Identifier: Apache-2.0
"""Puts the record of a run on the disk: notebook, metrics and Tekton's results, also of a run that broke off."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from runner.core import files, log, provisional
from runner.core.errors import RecordError
from runner.core.records import to_json
from runner.outputs import tekton_results
from runner.plan.job import EXECUTED_SUFFIX

if TYPE_CHECKING:
    from runner.core.records import Metrics
    from runner.core.redact import Redactor
    from runner.outputs.claim import Claim
    from runner.outputs.run_log import RunLog
    from runner.run.execution import Execution
    from runner.stages.record.metrics_builder import Draft


class Recorder:
    """Writes notebook and metrics; a full disk is remembered and told at the end."""

    def __init__(self, draft: Draft, redactor: Redactor, runlog: RunLog, claim: Claim) -> None:
        self.draft = draft
        self.redactor = redactor
        self.runlog = runlog
        self.claim = claim
        self.problem: RecordError | None = None
        """Why the notebook is not on the disk as it ended; a later save that succeeds clears it."""
        self._opened = {"log": ".log"}

    def opened(self, key: str, suffix: str) -> None:
        """Note that the run has begun a file of its own, which must be there at the end."""
        self._opened[key] = suffix

    def save_notebook(self, execution: Execution) -> None:
        """Write the executed notebook; if that fails, `problem` says why until a later save succeeds."""
        path, outputs = self.draft.job.path(EXECUTED_SUFFIX), self.draft.outputs
        sizes = {key: size for key, size in outputs.bytes.items() if key != "notebook"}
        missing = {key: why for key, why in outputs.unavailable.items() if key != "notebook"}
        try:
            execution.save()
            sizes["notebook"] = path.stat().st_size
        except (RecordError, OSError) as error:
            self.problem = error if isinstance(error, RecordError) else files.cannot_write(path, error)
            log.error("save", nb=self.draft.job.name, reason=str(self.problem))
            self.draft.note_outputs(notebook=None, bytes=sizes, unavailable={**missing, "notebook": str(self.problem)})
            return
        self.problem = None
        self.draft.note_outputs(notebook=path.name, bytes=sizes, unavailable=missing)

    def write_early(self, stage: str) -> None:
        """Write a provisional record, in case the run is killed in the stage that begins now."""
        self.draft.provisional, self.draft.at = True, stage
        with contextlib.suppress(RecordError):  # the last write tells
            self._write()
        self.draft.provisional = False

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

    def _write(self) -> Metrics:
        self._note_side_files()
        metrics = self._write_metrics(self.draft)
        self._write_results(metrics)
        return metrics

    def write_fault(self, error: Exception) -> None:
        """Leave a record of a run that broke off: all that is known, else how it ended.

        Where not even that can be written the claim stays, and a report says that the run was lost.
        """
        self.draft.fault(error)
        log.error("broke-off", nb=self.draft.job.name, reason=self.draft.reason)
        with contextlib.suppress(Exception):  # first: they lie on another volume, which has room
            self._write_results(self.draft.metrics())
        for draft in (self.draft, self.draft.bare()):
            try:
                self._write_metrics(draft)
            except Exception as problem:  # noqa: BLE001  (the error that is told is the first one)
                log.error("record", nb=draft.job.name, reason=f"{type(problem).__name__}: {problem}")
            else:
                return
        self.claim.leave_behind()

    def _write_metrics(self, draft: Draft) -> Metrics:
        metrics = draft.metrics()
        files.write(draft.job.path(".metrics.json"), to_json(metrics, self.redactor.tree))
        return metrics

    def _write_results(self, metrics: Metrics) -> None:
        job = self.draft.job
        if job.options.results_dir is not None:
            shown = provisional.settled(metrics)  # what holds if nothing follows
            tekton_results.write(job.options.results_dir, _redacted(shown, self.redactor), job.path(".metrics.json"))

    def _note_side_files(self) -> None:
        job = self.draft.job
        sizes, unavailable = dict(self.draft.outputs.bytes), dict(self.draft.outputs.unavailable)
        found: dict[str, str | None] = {}
        for key, suffix in self._opened.items():
            path = job.path(suffix)
            if path.is_file():
                found[key], sizes[key] = path.name, path.stat().st_size
            else:
                found[key] = None
                unavailable[key] = "it was deleted or replaced while the notebook ran, or could not be made"
                self._warn(f"{path.name} is not there: {unavailable[key]}")
        self.draft.note_outputs(bytes=sizes, unavailable=unavailable, **found)
        if self.runlog.bounds:
            name = job.path(".log").name
            self.draft.warnings[:] = [w for w in self.draft.warnings if not w.startswith(f"{name} is bounded: ")]
            self._warn(f"{name} is bounded: {self.runlog.bounds}")
        if self.runlog.problem:
            self._warn(f"the log is not whole: {self.runlog.problem}")

    def _warn(self, warning: str) -> None:
        if warning not in self.draft.warnings:
            self.draft.warnings.append(warning)


def _redacted(metrics: Metrics, redactor: Redactor) -> Metrics:
    return dataclasses.replace(metrics, reason=redactor.text(metrics.reason))
