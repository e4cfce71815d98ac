# SPDX-License-Identifier: Apache-2.0
"""Builds the record of a run; `MetricsBuilder.metrics` completes it."""

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
    """The record so far. The first end stays: the earliest cause wins."""

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
        """Set fields of the record's ``outputs``."""
        self.note(outputs=dataclasses.replace(self.record.outputs, **fields))

    def warn(self, *warnings: str) -> None:
        """Add warnings without duplicates."""
        self.note(warnings=tuple(dict.fromkeys((*self.record.warnings, *warnings))))

    def end(self, status: Status, reason: str, exit_code: int | None = None) -> None:
        """Set status, reason and exit code. A later end replaces a success only."""
        if self.record.status in {Status.RUNNING, Status.SUCCEEDED} and self.record.status is not status:
            code = EXIT_CODES[status] if exit_code is None else exit_code
            self.note(status=status, reason=reason, exit_code=code)

    def fault(self, error: Exception) -> None:
        """Record that the run was aborted by an error in runner, not by the notebook.

        The run is lost, however the notebook ended, because its output is incomplete. The notebook's end stays
        in the reason, its failure and cells are kept. The first such error stays.
        """
        code, text = RunnerError.exit_code, f"{type(error).__name__}: {error}"
        text = f"internal error in runner, the traceback is in {self.job.path('.log').name}: {text}"
        if isinstance(error, RunnerError):
            code, text = error.exit_code, str(error)
        ended = self.record
        if ended.status is Status.LOST:
            self.note(exit_code=code)  # the error that ends the process
            return
        earlier = f"; before that its status was {ended.status.value}: {ended.reason}"
        reason = f"the run was aborted: {text}{'' if ended.status is Status.RUNNING else earlier}"
        failure = ended.failure or Failure(message=text, error_name=type(error).__name__)
        self.note(status=Status.LOST, reason=reason, exit_code=code, failure=failure)
        self.warn(f"this record may be incomplete, the run was aborted: {text}")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to the wall time of a stage."""
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
        """Return the record up to now.

        Parameters
        ----------
        stage
            The stage that starts now, which makes the record provisional.
        """
        return self._completed(dataclasses.replace(self.record, provisional=stage is not None, stage=stage))

    def bare(self) -> Metrics:
        """Return a record of the run's end alone, for use if the full record cannot be written."""
        now = self.record
        return self._completed(
            dataclasses.replace(
                self._empty, status=now.status, reason=now.reason, exit_code=now.exit_code, warnings=now.warnings[-1:]
            )
        )

    def _completed(self, record: Metrics) -> Metrics:
        folder, wall_seconds = self.job.output_dir, self.seconds()
        # Not the clock's time, which may step during a run.
        ended = datetime.fromisoformat(record.started_at) + timedelta(seconds=wall_seconds)
        earlier = tuple(str(path.relative_to(folder)) for path in attempts.folders(folder, self.job.name))
        return dataclasses.replace(
            record,
            ended_at=ended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            wall_seconds=round(wall_seconds, 6),
            outputs=dataclasses.replace(record.outputs, attempts=earlier),
        )
