# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: `reports/summary.json`.

They are derived once from the records, and used by the page, the exports and later comparisons, so that all of them
show the same numbers. A figure that was not measured is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from runner.core.endings import failed_line
from runner.core.records import Status  # noqa: TC001  (the schema is made from the annotations)
from runner.core.units import format_bytes, format_seconds, instant
from runner.report.assemble import LeftOut  # noqa: TC001

if TYPE_CHECKING:
    from runner.core.machine_records import GpuUse
    from runner.core.records import Metrics
    from runner.report.assemble import Entry, Report
    from runner.report.found import Flight
    from runner.report.sample_series import Seen

SUMMARY_VERSION = 1
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSummary:
    """Figures of one GPU of a notebook."""

    uuid: str
    index: int | None
    name: str
    total_bytes: int | None = None
    peak_gpu_memory_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    pool_bytes: int | None = None
    need_bytes: int | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """One run in a notebook's history."""

    run_id: str
    status: Status
    started_at: str
    wall_seconds: float
    peak_host_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotebookSummary:
    """Figures of one notebook."""

    name: str
    status: Status
    reason: str
    ok: bool
    optional: bool = False
    stage: str | None = None
    run_id: str | None = None
    exit_code: int | None = None
    started_at: str | None = None
    ended_at: str | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    """CPU time of the kernel's process tree, as the disk figures below."""
    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    gate_waited_seconds: float | None = None
    failed_cell: int | None = None
    """Index of the failed code cell, from 0."""
    failed_line: str | None = None
    """The line of the notebook's own code that failed, if its traceback shows one."""
    error: str | None = None
    """Name and message of the error, on one line."""
    cause: str | None = None
    hint: str | None = None
    cells: int = 0
    cells_succeeded: int = 0
    gpus: int = 0
    gpu_figures: tuple[GpuSummary, ...] = ()
    """Figures of each GPU of the run."""
    peak_gpu_memory_bytes: int | None = None
    """Largest peak of a single GPU, as reported by NVML."""
    peak_allocated_bytes: int | None = None
    """Largest peak of a single GPU, as reported by the allocator."""
    need_bytes: int | None = None
    gpu_total_bytes: int | None = None
    asked_gpu_memory_gb: float | None = None
    gpu_utilization_mean_percent: float | None = None
    gpu_held_seconds: float | None = None
    gpu_busy_seconds: float | None = None
    gpu_energy_joules: float | None = None
    peak_host_memory_bytes: int | None = None
    host_memory_limit_bytes: int | None = None
    released: bool | None = None
    release_seconds: float | None = None
    output_bytes: int | None = None
    figures: int = 0
    warnings: int = 0
    recorded: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Results that the notebook recorded by name."""
    command: tuple[str, ...] = ()
    """The command line of the run."""
    kept_parameters: tuple[str, ...] = ()
    """Parameters whose value is already that in the notebook."""
    attempts: int = 0
    """Earlier runs in the folder."""
    flaky: bool = False
    """The same source, parameters and software have both succeeded and failed."""
    history: tuple[PastRun, ...] = ()
    """The last 20 runs in the folder, newest first; empty if there is no earlier one."""
    reused_from: str | None = None
    """The earlier run with these results, if they were reused."""
    ran_because: tuple[str, ...] = ()
    """Why a resumed run did not reuse an earlier result."""
    spent_seconds: float | None = None
    """Wall time in this run; that of the reuse if results were reused."""
    from_samples: bool = False
    """The run left no record: wall time and peaks are from its samples and lower bounds."""
    files: dict[str, str] = field(default_factory=dict)
    """Paths by kind of file, relative to the output folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """A figure that is worse than the newest baseline by more than the threshold."""

    notebook: str
    figure: str
    before: float
    now: float
    ratio: float | None
    """None if the figure was 0 before."""

    def __str__(self) -> str:
        if self.figure == "status":
            return f"{self.notebook} succeeded before, but not now"
        writers: dict[str, Callable[[float], str]] = {"seconds": format_seconds, "bytes": format_bytes}
        shown = writers.get(self.figure.rpartition("_")[2], "{:g}".format)
        change = f" ({self.ratio - 1:+.0%})" if self.ratio is not None else ""
        return f"{self.notebook}: {self.figure} from {shown(self.before)} to {shown(self.now)}{change}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures of a report."""

    run_id: str | None
    verdict: Literal["succeeded", "failed"]
    started_at: str | None
    ended_at: str | None
    generated_at: str
    counts: dict[str, int]
    notebooks: tuple[NotebookSummary, ...]
    schema_version: int = SUMMARY_VERSION
    plan: str | None = None
    wall_seconds: float | None = None
    """Time from the first start to the last end."""
    spent_seconds: float | None = None
    """Sum over all notebooks in this run."""
    saved_seconds: float | None = None
    """Wall time of the reused runs."""
    gpu_held_seconds: float | None = None
    """GPU figures do not include reused notebooks."""
    gpu_busy_seconds: float | None = None
    gpu_energy_joules: float | None = None
    regressions: tuple[Regression, ...] = ()
    problems: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """Notebooks that were not selected, and are not part of the verdict."""
    tasks: dict[str, str] = field(default_factory=dict)
    """Status of the tasks before the notebooks, if known to the caller."""


def summarize(report: Report, seen: Mapping[str, Seen] | None = None) -> Summary:
    """Return the figures of a report.

    Parameters
    ----------
    seen
        Figures from samples by notebook, for runs without a record.
    """
    notebooks = tuple(notebook_summary(entry, (seen or {}).get(entry.name)) for entry in report.entries)
    ran = [nb for nb in notebooks if nb.reused_from is None]
    return Summary(
        run_id=report.run_id,
        verdict=report.verdict,
        started_at=report.started_at,
        ended_at=report.ended_at,
        generated_at=report.generated_at,
        counts=dict(report.counts),
        notebooks=notebooks,
        plan=report.plan_name,
        wall_seconds=_between(report.started_at, report.ended_at),
        spent_seconds=total(nb.spent_seconds for nb in notebooks),
        saved_seconds=total(nb.wall_seconds for nb in notebooks if nb.reused_from is not None),
        gpu_held_seconds=total(nb.gpu_held_seconds for nb in ran),
        gpu_busy_seconds=total(nb.gpu_busy_seconds for nb in ran),
        gpu_energy_joules=total(nb.gpu_energy_joules for nb in ran),
        problems=report.problems,
        left_out=report.left_out,
        tasks=dict(report.tasks),
    )


def notebook_summary(entry: Entry, seen: Seen | None = None) -> NotebookSummary:
    """Return the figures of one notebook from its record, else from its samples and the plan."""
    m, flight = entry.metrics, entry.flight
    plain = NotebookSummary(
        name=entry.name,
        status=entry.status,
        reason=entry.reason,
        ok=entry.ok,
        optional=entry.optional,
        stage=entry.stage,
        run_id=m.run_id if m else flight.run_id if flight else None,
        attempts=len(entry.attempts),
        flaky=entry.flaky,
        history=tuple(map(_past_run, entry.history)),
        files=dict(entry.files),
    )
    if m:
        return _measured(plain, m)
    return _sampled(plain, flight, seen) if flight and seen else plain


def _sampled(plain: NotebookSummary, flight: Flight, seen: Seen) -> NotebookSummary:
    return dataclasses.replace(
        plain,
        from_samples=True,
        started_at=flight.started_at,
        wall_seconds=seen.seconds,
        gpus=seen.gpus,
        peak_gpu_memory_bytes=seen.peak_gpu_memory_bytes,
        gpu_utilization_mean_percent=seen.gpu_utilization_mean_percent,
        peak_host_memory_bytes=seen.peak_host_memory_bytes,
        host_memory_limit_bytes=flight.memory_limit_bytes,
    )


def _measured(plain: NotebookSummary, m: Metrics) -> NotebookSummary:
    gpus, release, failure = m.gpus, m.release, m.failure
    return dataclasses.replace(
        plain,
        exit_code=m.exit_code,
        started_at=m.started_at,
        ended_at=m.ended_at,
        wall_seconds=m.wall_seconds,
        cpu_seconds=m.host.cpu_seconds if m.host else None,
        disk_read_bytes=m.host.disk_read_bytes if m.host else None,
        disk_written_bytes=m.host.disk_written_bytes if m.host else None,
        gate_waited_seconds=m.gate.waited_seconds if m.gate else None,
        failed_cell=failure.cell_index if failure else None,
        failed_line=failed_line(failure.traceback_tail or "") if failure else None,
        error=": ".join(filter(None, [failure.error_name, " ".join(failure.message[:500].split())]))
        if failure
        else None,
        cause=failure.cause.value if failure and failure.cause else None,
        hint=failure.hint if failure else None,
        cells=len(m.cells),
        cells_succeeded=sum(cell.status.value in {"succeeded", "dropped"} for cell in m.cells),
        gpus=len(gpus),
        gpu_figures=tuple(map(_gpu, gpus)),
        peak_gpu_memory_bytes=largest(gpu.peak_gpu_memory_bytes for gpu in gpus),
        peak_allocated_bytes=largest(gpu.allocated.peak_allocated_bytes for gpu in gpus if gpu.allocated),
        need_bytes=largest(gpu.need_bytes for gpu in gpus),
        gpu_total_bytes=largest(gpu.total_bytes for gpu in gpus),
        asked_gpu_memory_gb=m.gate.asked.gpu_memory_gb if m.gate else None,
        gpu_utilization_mean_percent=mean(gpu.utilization_mean_percent for gpu in gpus),
        gpu_held_seconds=total(gpu.held_seconds for gpu in gpus),
        gpu_busy_seconds=total(gpu.busy_seconds for gpu in gpus),
        gpu_energy_joules=total(gpu.energy_joules for gpu in gpus),
        peak_host_memory_bytes=m.host.peak_memory_bytes if m.host else None,
        host_memory_limit_bytes=m.host.memory_limit_bytes if m.host else None,
        released=release.released if release else None,
        release_seconds=release.seconds if release else None,
        output_bytes=sum(m.outputs.bytes.values()) if m.outputs.bytes else None,
        figures=m.outputs.figures,
        warnings=len(m.warnings),
        recorded=m.recorded,
        command=m.environment.command,
        kept_parameters=_kept(m),
        reused_from=m.reused_from.run_id if m.reused_from else None,
        ran_because=m.ran_because,
        spent_seconds=m.wall_seconds if m.spent_seconds is None else m.spent_seconds,
    )


def _kept(m: Metrics) -> tuple[str, ...]:
    """Return the parameters whose assignments were not changed."""
    parameters = [change for change in m.preparation if change.rule == "parameter" and change.old is not None]
    named: dict[str, bool] = {}
    for change in parameters:
        name = change.detail.partition(" = ")[0]
        named[name] = named.get(name, True) and change.old == change.new
    return tuple(name for name, kept in named.items() if kept)


def _past_run(m: Metrics) -> PastRun:
    return PastRun(
        run_id=m.run_id,
        status=m.status,
        started_at=m.started_at,
        wall_seconds=m.wall_seconds,
        peak_host_memory_bytes=m.host.peak_memory_bytes if m.host else None,
        peak_gpu_memory_bytes=largest(gpu.peak_gpu_memory_bytes for gpu in m.gpus),
    )


def _gpu(use: GpuUse) -> GpuSummary:
    reported = use.allocated
    return GpuSummary(
        uuid=use.uuid,
        index=use.index,
        name=use.name,
        total_bytes=use.total_bytes,
        peak_gpu_memory_bytes=use.peak_gpu_memory_bytes,
        peak_allocated_bytes=reported.peak_allocated_bytes if reported else None,
        pool_bytes=reported.pool_bytes if reported else None,
        need_bytes=use.need_bytes,
        unavailable=use.unavailable,
    )


def total(values: Iterable[float | None]) -> float | None:
    """Return the sum of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def largest(values: Iterable[_Number | None]) -> _Number | None:
    """Return the largest known value; None if there are none."""
    return max((value for value in values if value is not None), default=None)


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _between(start: str | None, end: str | None) -> float | None:
    first, last = instant(start), instant(end)
    return None if first is None or last is None else last - first


def read_summary(text: str | bytes) -> Summary:
    """Read and validate the text of a summary.

    Raises
    ------
    ValueError
        The text is not valid JSON, or not of this schema.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(Summary).validate_json(text)


def summary_schema() -> Mapping[str, Any]:
    """Return the JSON Schema of `Summary`."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(Summary).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
