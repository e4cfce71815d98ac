# SPDX-License-Identifier: Apache-2.0
"""Collects the record of a run; `MetricsBuilder.metrics` closes it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from runner.core.errors import RunnerError
from runner.core.log import utc_now
from runner.core.records import EXIT_CODES, Failure, Metrics, Source, Status
from runner.outputs import attempts

if TYPE_CHECKING:
    from runner.plan.job import Job


class MetricsBuilder:
    """The record so far. The first end that is set stays: the first cause in time wins."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.started_monotonic = time.monotonic()
        now = utc_now()
        self._empty = Metrics(
            notebook=job.name,
            source=Source(path=job.source_label),
            run_id=job.run_id,
            status=Status.RUNNING,
            reason="",
            exit_code=0,
            started_at=now,
            ended_at=now,
            wall_seconds=0.0,
            optional=job.optional,
            plan=job.plan.name if job.plan else None,
        )
        self.record = self._empty

    def note(self, **fields: Any) -> None:
        """Set fields of the record."""
        self.record = dataclasses.replace(self.record, **fields)

    def note_outputs(self, **fields: Any) -> None:
        """Set fields of the record of the files."""
        self.note(outputs=dataclasses.replace(self.record.outputs, **fields))

    def warn(self, *warnings: str) -> None:
        """Add warnings, each once."""
        self.note(warnings=tuple(dict.fromkeys((*self.record.warnings, *warnings))))

    def end(self, status: Status, reason: str, exit_code: int | None = None) -> None:
        """Set how the notebook ended. Later ends count only after a success."""
        if self.record.status in {Status.RUNNING, Status.SUCCEEDED} and self.record.status is not status:
            code = EXIT_CODES[status] if exit_code is None else exit_code
            self.note(status=status, reason=reason, exit_code=code)

    def fault(self, error: Exception) -> None:
        """Note that the run broke off by an error of ours and not by an end of the notebook's.

        The run is lost, whatever the notebook came to: what it left is not whole. How it had ended stays in
        the reason, and its failure and cells stay as they are. The first such error stays.
        """
        code, text = RunnerError.exit_code, f"{type(error).__name__}: {error}"
        text = f"internal error in runner, the traceback is in {self.job.path('.log').name}: {text}"
        if isinstance(error, RunnerError):
            code, text = error.exit_code, str(error)
        ended = self.record
        if ended.status is Status.LOST:
            self.note(exit_code=code)  # of the error that ends the process
            return
        earlier = f"; before that the notebook ended {ended.status.value}: {ended.reason}"
        reason = f"the run broke off: {text}{'' if ended.status is Status.RUNNING else earlier}"
        failure = ended.failure or Failure(message=text, error_name=type(error).__name__)
        self.note(status=Status.LOST, reason=reason, exit_code=code, failure=failure)
        self.warn(f"this record may lack something, the run broke off: {text}")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add to the wall time of a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            spent = self.record.stages_seconds
            self.note(stages_seconds={**spent, name: round(spent.get(name, 0.0) + time.monotonic() - start, 6)})

    def seconds(self) -> float:
        """Return the seconds since the run's start."""
        return time.monotonic() - self.started_monotonic

    def metrics(self, stage: str | None = None) -> Metrics:
        """Return the record as of now.

        Parameters
        ----------
        stage
            The stage that begins now; the record is provisional then.
        """
        return self._closed(dataclasses.replace(self.record, provisional=stage is not None, stage=stage))

    def bare(self) -> Metrics:
        """Return only how the run ended, for when the whole record cannot be written."""
        now = self.record
        return self._closed(
            dataclasses.replace(
                self._empty, status=now.status, reason=now.reason, exit_code=now.exit_code, warnings=now.warnings[-1:]
            )
        )

    def _closed(self, record: Metrics) -> Metrics:
        folder, wall_seconds = self.job.output_dir, self.seconds()
        earlier = tuple(str(path.relative_to(folder)) for path in attempts.folders(folder, self.job.name))
        return dataclasses.replace(
            record,
            ended_at=_after(record.started_at, wall_seconds),
            wall_seconds=round(wall_seconds, 6),
            outputs=dataclasses.replace(record.outputs, attempts=earlier),
        )


def _after(moment: str, seconds: float) -> str:
    """Return the time so many seconds later, whatever the machine's clock did meanwhile."""
    later = datetime.fromisoformat(moment) + timedelta(seconds=seconds)
    return later.isoformat(timespec="milliseconds").replace("+00:00", "Z")
