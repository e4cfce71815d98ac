# SPDX-License-Identifier: Apache-2.0
"""The record of a run while it is being collected; `Draft.metrics` closes it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from runner.core.errors import RunnerError
from runner.core.log import utc_now
from runner.core.records import (
    EXIT_CODES,
    AllocatorProbe,
    Cell,
    Change,
    Environment,
    Expectation,
    Failure,
    Gate,
    GpuUse,
    Host,
    Metrics,
    Outputs,
    Release,
    Sampling,
    Source,
    Status,
)
from runner.outputs import attempts

if TYPE_CHECKING:
    from runner.plan.job import Job


@dataclass(slots=True)
class Draft:
    """What is known so far. The first end that is set stays: the first cause in time wins."""

    job: Job
    started_at: str = field(default_factory=utc_now)
    started_monotonic: float = field(default_factory=time.monotonic)
    status: Status | None = None
    reason: str = ""
    exit_code: int = 0
    source: Source | None = None
    gate: Gate | None = None
    preparation: tuple[Change, ...] = ()
    cells: tuple[Cell, ...] = ()
    failure: Failure | None = None
    gpus: tuple[GpuUse, ...] = ()
    host: Host | None = None
    release: Release | None = None
    expectations: tuple[Expectation, ...] = ()
    outputs: Outputs = field(default_factory=Outputs)
    environment: Environment = field(default_factory=Environment)
    versions: dict[str, str] = field(default_factory=dict)
    sampler: Sampling | None = None
    allocator_probe: AllocatorProbe | None = None
    warnings: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    provisional: bool = False
    at: str | None = None
    """Stage that a provisional record is written in."""

    def end(self, status: Status, reason: str, exit_code: int | None = None) -> None:
        """Set how it ended. Later ends count only after a success."""
        if self.status is None or (self.status is Status.SUCCEEDED and status is not Status.SUCCEEDED):
            self.status, self.reason = status, reason
            self.exit_code = EXIT_CODES[status] if exit_code is None else exit_code

    def fault(self, error: Exception) -> None:
        """Note that the run broke off by an error of ours and not by an end of the notebook's.

        The run is lost, whatever the notebook came to: what it left is not whole. How it had ended stays in
        the reason, and its failure and cells stay as they are. The first such error stays.
        """
        code, text = RunnerError.exit_code, f"{type(error).__name__}: {error}"
        text = f"internal error in runner, the traceback is in {self.job.path('.log').name}: {text}"
        if isinstance(error, RunnerError):
            code, text = error.exit_code, str(error)
        if self.status is Status.LOST:
            self.exit_code = code  # of the error that ends the process
            return
        earlier = f"; before that the notebook ended {self.status.value}: {self.reason}" if self.status else ""
        self.status, self.reason, self.exit_code = Status.LOST, f"the run broke off: {text}{earlier}", code
        if self.failure is None:
            self.failure = Failure(message=text, error_name=type(error).__name__)
        self.warnings.append(f"this record may lack something, the run broke off: {text}")

    def bare(self) -> Draft:
        """Return a draft that has only how the run ended, for when the whole one cannot be written."""
        return Draft(
            self.job,
            started_at=self.started_at,
            started_monotonic=self.started_monotonic,
            status=self.status,
            reason=self.reason,
            exit_code=self.exit_code,
            warnings=self.warnings[-1:],
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add to the wall time of a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.stages[name] = round(self.stages.get(name, 0.0) + time.monotonic() - start, 6)

    def seconds(self) -> float:
        """Return the seconds since the run's start."""
        return time.monotonic() - self.started_monotonic

    def note_outputs(self, **fields: object) -> None:
        """Add to what is known of the files."""
        self.outputs = dataclasses.replace(self.outputs, **fields)  # type: ignore[arg-type]

    def metrics(self) -> Metrics:
        """Return the record as it stands."""
        job = self.job
        earlier = tuple(str(path.relative_to(job.output_dir)) for path in attempts.folders(job.output_dir, job.name))
        assert self.status is not None
        wall_seconds = self.seconds()
        return Metrics(
            notebook=job.name,
            source=self.source or Source(path=job.source_label),
            run_id=job.run_id,
            status=self.status,
            reason=self.reason,
            exit_code=self.exit_code,
            started_at=self.started_at,
            ended_at=_after(self.started_at, wall_seconds),
            wall_seconds=round(wall_seconds, 6),
            provisional=self.provisional,
            stage=self.at if self.provisional else None,
            optional=job.optional,
            plan=job.plan.name if job.plan else None,
            gate=self.gate,
            preparation=self.preparation,
            cells=self.cells,
            failure=self.failure,
            gpus=self.gpus,
            host=self.host,
            release=self.release,
            expectations=self.expectations,
            outputs=dataclasses.replace(self.outputs, attempts=earlier),
            environment=self.environment,
            versions=self.versions,
            sampler=self.sampler,
            allocator_probe=self.allocator_probe,
            warnings=tuple(self.warnings),
            stages_seconds=self.stages,
        )


def _after(moment: str, seconds: float) -> str:
    """Return the time so many seconds later, whatever the machine's clock did meanwhile."""
    later = datetime.fromisoformat(moment) + timedelta(seconds=seconds)
    return later.isoformat(timespec="milliseconds").replace("+00:00", "Z")
