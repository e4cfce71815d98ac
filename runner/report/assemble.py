# SPDX-License-Identifier: Apache-2.0
"""Status of each notebook and verdict of a run, from the contents of the output folder and the plan.

Pure: from `Found` and a plan to a `Report`, which also covers notebooks without a record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from runner.core.records import Status
from runner.report import missing
from runner.report.found import began_at

if TYPE_CHECKING:
    from runner.core.records import Metrics
    from runner.core.trials import Fit, Forecast
    from runner.plan.model import Plan
    from runner.report.found import Flight, Found

Verdict = Literal["succeeded", "failed"]
_HISTORY = 20
"""Runs shown in the history of a notebook."""
_NOTEBOOK_STATUSES = {
    *(Status.SUCCEEDED, Status.FAILED, Status.KERNEL_DIED, Status.TIMED_OUT),
    *(Status.INCOMPLETE, Status.UNEXPECTED_RESULTS),
}
"""Statuses that depend on the notebook itself, unlike a refusal or a signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One notebook of the report."""

    name: str
    anchor: str
    status: Status
    reason: str
    ok: bool
    """Succeeded, or skipped as optional."""
    stage: str | None = None
    optional: bool = False
    needs: tuple[str, ...] = ()
    metrics: Metrics | None = None
    """The record of this run, if there is one."""
    flight: Flight | None = None
    attempts: tuple[Metrics, ...] = ()
    """Earlier runs, oldest first."""
    files: Mapping[str, str] = field(default_factory=dict)
    fit: Fit | None = None
    """Cards proved by `runner fit` for the same source and parameters."""
    forecast: Forecast | None = None

    @property
    def history(self) -> tuple[Metrics, ...]:
        """The last runs of the notebook, newest first; empty if there is no earlier one."""
        runs = (*self.attempts, *((self.metrics,) if self.metrics else ()))
        return runs[: -_HISTORY - 1 : -1] if self.attempts else ()

    @property
    def flaky(self) -> bool:
        """Whether the same source, parameters and software have both succeeded and failed."""
        ends = {(_inputs(m), m.status is Status.SUCCEEDED) for m in self.history if m.status in _NOTEBOOK_STATUSES}
        return len(ends) > len({work for work, _ in ends})


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A notebook that was not selected: it is listed, but not part of the verdict."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The contents of a report."""

    run_id: str | None
    """None if the notebooks in the folder were run individually."""
    verdict: Verdict
    entries: tuple[Entry, ...]
    others: tuple[Metrics, ...] = ()
    """Records of other runs in the same folder."""
    left_out: tuple[LeftOut, ...] = ()
    tasks: Mapping[str, str] = field(default_factory=dict)
    """Status of the tasks before the notebooks, if known to the caller."""
    counts: Mapping[str, int] = field(default_factory=dict)
    plan_name: str | None = None
    plan_source: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    generated_at: str = ""
    problems: tuple[str, ...] = ()

    @property
    def ran(self) -> bool:
        """Whether there is any trace of a run."""
        return any(entry.status is not Status.NOT_RUN or entry.flight or entry.files for entry in self.entries)

    @property
    def stopped(self) -> str:
        """Description of the tasks that prevented the notebooks from running; empty if none."""
        return missing.stopped(self.tasks)

    @property
    def first_failure(self) -> Entry | None:
        """The notebook that failed first, those without a record last; None if nothing has run."""
        if not self.ran:
            return None
        bad = [entry for entry in self.entries if not entry.ok and entry.status is not Status.RUNNING]
        ended = [entry for entry in bad if entry.metrics and entry.status is not Status.SKIPPED]
        rest = [entry for entry in bad if entry.status is Status.LOST] + bad
        first = min(ended, key=lambda entry: entry.metrics.ended_at if entry.metrics else "", default=None)
        return first or (rest[0] if rest else None)


def _inputs(m: Metrics) -> tuple[object, ...]:
    """Return the inputs of a run that are recorded for failures as well."""
    environment = m.environment
    parameters = repr(sorted(environment.parameters.items()))
    return m.source.sha256, environment.image, environment.python, parameters, tuple(sorted(m.versions.items()))


def assemble(
    found: Found,
    *,
    plan: Plan | None = None,
    plan_source: str | None = None,
    only: Sequence[str] = (),
    run_id: str | None = None,
    tasks: Mapping[str, str] | None = None,
    generated_at: str = "",
) -> Report:
    """Return the report on one run: all notebooks of the plan, and others found in the folder."""
    run_id = run_id or found.choose_run(planned=plan is not None)
    tasks = tasks or {}
    listed = _listed(found, plan, only, run_id)
    names = [name for name in listed if not only or name in only]
    entries = tuple(_entry(f"notebook-{n}", name, found, plan, run_id, tasks) for n, name in enumerate(names, 1))
    records = [entry.metrics for entry in entries if entry.metrics]
    return Report(
        run_id=run_id,
        verdict="succeeded" if entries and all(entry.ok for entry in entries) else "failed",
        entries=entries,
        others=_others(found, records, only),
        left_out=tuple(
            LeftOut(name=name, reason=missing.left_out(found.last(name), run_id))
            for name in listed
            if name not in names
        ),
        tasks=tasks,
        counts=_counts(entries),
        plan_name=plan.name if plan else None,
        plan_source=plan_source,
        started_at=min((began_at(m) for m in records), default=None),
        ended_at=max((m.reused_from.reused_at if m.reused_from else m.ended_at for m in records), default=None),
        generated_at=generated_at,
        problems=found.problems,
    )


def _listed(found: Found, plan: Plan | None, only: Sequence[str], run_id: str | None) -> list[str]:
    """Return the notebooks in the plan's order, then others of the run by start time."""
    planned = [notebook.name for notebook in plan.notebooks] if plan else []

    def start(name: str) -> tuple[str, str]:
        return found.metrics[name].started_at if name in found.metrics else "", name

    rest = {*only, *(name for name in found.names if found.concerns(name, run_id))} - {*planned}
    return [*planned, *sorted(rest, key=start)]


def _others(found: Found, records: Sequence[Metrics], only: Sequence[str]) -> tuple[Metrics, ...]:
    """Return the records of other runs."""
    ours = set(map(id, records))
    candidates = (m for m in found.metrics.values() if m.notebook not in found.set_aside)
    return tuple(m for m in candidates if id(m) not in ours and (not only or m.notebook in only))


def _counts(entries: Sequence[Entry]) -> dict[str, int]:
    number = Counter(entry.status for entry in entries)
    by_status = {status.value: number[status] for status in Status if number[status]}
    return {"notebooks": len(entries), "ok": sum(entry.ok for entry in entries), **by_status}


def _entry(
    anchor: str, name: str, found: Found, plan: Plan | None, run_id: str | None, tasks: Mapping[str, str]
) -> Entry:
    notebook = next((nb for nb in plan.notebooks if nb.name == name), None) if plan else None
    metrics, flight, attempts, files = found.of_run(name, run_id)
    status, reason = _end(metrics, flight) or (Status.NOT_RUN, missing.not_run(name, found, run_id, tasks))
    optional = bool((notebook and notebook.optional) or (metrics and metrics.optional))
    if name in found.set_aside:
        reason = f"{reason} (details omitted, as its record makes the report fail: {found.set_aside[name]})"
        metrics, flight, attempts = None, None, ()
    return Entry(
        name=name,
        anchor=anchor,
        status=status,
        reason=reason,
        ok=is_ok(status, optional=optional),
        stage=notebook.stage if notebook else None,
        optional=optional,
        needs=tuple(notebook.needs) if notebook else (),
        metrics=metrics,
        flight=flight,
        attempts=tuple(one.metrics for one in attempts),
        files=files,
        fit=found.fits.get(name) if metrics else None,
        forecast=found.forecasts.get(name) if metrics else None,
    )


def _end(metrics: Metrics | None, flight: Flight | None) -> tuple[Status, str] | None:
    """Return status and reason from a record or a claim; None if there is neither."""
    if metrics:
        reason = missing.ended(metrics)
        return metrics.status, missing.held(metrics.notebook, flight, reason) if flight else reason
    if flight:
        return (Status.RUNNING, missing.running(flight)) if flight.alive else (Status.LOST, missing.lost(flight))
    return None


def is_ok(status: Status, *, optional: bool) -> bool:
    """Return True if a run with this notebook can count as a success.

    Only optional notebooks may be skipped: the results of one skipped because of a failed need, or because the run
    stopped, are missing.
    """
    return status is Status.SUCCEEDED or (status is Status.SKIPPED and optional)
