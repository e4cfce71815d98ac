# SPDX-License-Identifier: Apache-2.0
"""Puts the record of a run on the disk: notebook, metrics and Tekton's results, also of a run that broke off."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING

from runner import files, log, results
from runner.errors import RecordError
from runner.run.job import EXECUTED_SUFFIX

if TYPE_CHECKING:
    from runner.inflight import Claim
    from runner.records import Metrics
    from runner.redact import Redactor
    from runner.run.draft import Draft
    from runner.run.execution import Execution
    from runner.run.runlog import RunLog


class Recorder:
    """Writes notebook and metrics; a full disk is remembered and told at the end."""

    def __init__(self, draft: Draft, redactor: Redactor, runlog: RunLog, claim: Claim) -> None:
        self.draft = draft
        self.redactor = redactor
        self.runlog = runlog
        self.claim = claim
        self.problem: RecordError | None = None
        """Why the notebook could not be saved; the metrics say so, too."""
        self._opened = {"log": ".log"}

    def opened(self, key: str, suffix: str) -> None:
        """Note that the run has begun a file of its own, which must be there at the end."""
        self._opened[key] = suffix

    def save_notebook(self, execution: Execution) -> None:
        """Write the executed notebook; that it cannot be written is told at the end of the run."""
        path = self.draft.job.path(EXECUTED_SUFFIX)
        try:
            execution.save()
        except RecordError as error:
            log.error("save", nb=self.draft.job.name, reason=str(error))
            self.problem = self.problem or error
            self.draft.note_outputs(unavailable={**self.draft.outputs.unavailable, "notebook": str(error)})
            return
        size = path.stat().st_size
        self.draft.note_outputs(notebook=path.name, bytes={**self.draft.outputs.bytes, "notebook": size})

    def write_early(self) -> None:
        """Write the metrics as they stand now, in case there is no time for more."""
        with contextlib.suppress(RecordError):  # the last write tells
            self.write()

    def write(self) -> Metrics:
        """Write the metrics and Tekton's results.

        Raises
        ------
        RecordError
            They could not be written.
        """
        self._note_side_files()
        metrics = self._write_metrics(self.draft)
        self._write_results(metrics)
        return metrics

    def write_fault(self, error: Exception) -> None:
        """Leave a record of a run that broke off: all that is known, else how it ended.

        Where not even that can be written the claim stays, and a report says that the run was lost.
        """
        self.draft.fault(error)
        log.error("broke-off", nb=self.draft.job.name, reason=self.draft.warnings[-1])
        for draft in (self.draft, self.draft.bare()):
            try:
                metrics = self._write_metrics(draft)
            except Exception as problem:  # noqa: BLE001  (the error that is told is the first one)
                log.error("record", nb=draft.job.name, reason=f"{type(problem).__name__}: {problem}")
                continue
            with contextlib.suppress(Exception):
                self._write_results(metrics)
            return
        self.claim.leave_behind()

    def _write_metrics(self, draft: Draft) -> Metrics:
        metrics = draft.metrics()
        document = self.redactor.tree(dataclasses.asdict(metrics))
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        files.write(draft.job.path(".metrics.json"), text)
        return metrics

    def _write_results(self, metrics: Metrics) -> None:
        job = self.draft.job
        if job.options.results_dir is not None:
            results.write(job.options.results_dir, _redacted(metrics, self.redactor), job.path(".metrics.json"))

    def _note_side_files(self) -> None:
        job = self.draft.job
        sizes, unavailable = dict(self.draft.outputs.bytes), dict(self.draft.outputs.unavailable)
        found: dict[str, str | None] = {}
        for key, suffix in self._opened.items():
            path = job.path(suffix)
            try:
                sizes[key] = path.stat().st_size
            except OSError:
                found[key] = None
                unavailable[key] = "it was deleted while the notebook ran, or could not be made"
                self._warn(f"{path.name} is not there: {unavailable[key]}")
            else:
                found[key] = path.name
        self.draft.note_outputs(bytes=sizes, unavailable=unavailable, **found)
        if self.runlog.problem:
            self._warn(f"the log is not whole: {self.runlog.problem}")

    def _warn(self, warning: str) -> None:
        if warning not in self.draft.warnings:
            self.draft.warnings.append(warning)


def _redacted(metrics: Metrics, redactor: Redactor) -> Metrics:
    return dataclasses.replace(metrics, reason=redactor.text(metrics.reason))
