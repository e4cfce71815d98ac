# SPDX-License-Identifier: Apache-2.0
"""What a report says, decided from what the folder and the plan hold.

Pure: `Found` (what was read) and a plan go in, `Report` comes out: what became of each notebook,
also of one that left no record, and whether the run counts as a success.
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
"""Runs that the history of a notebook shows."""
_OF_ITS_OWN = {
    *(Status.SUCCEEDED, Status.FAILED, Status.KERNEL_DIED, Status.TIMED_OUT),
    *(Status.INCOMPLETE, Status.UNEXPECTED_RESULTS),
}
"""How a notebook ends by what it does; a refusal or a signal says nothing about it."""


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
    """The record of this run; None when there is none."""
    flight: Flight | None = None
    attempts: tuple[Metrics, ...] = ()
    """Earlier runs, oldest first."""
    files: Mapping[str, str] = field(default_factory=dict)
    fit: Fit | None = None
    """Which cards were proved for a run like this one."""
    forecast: Forecast | None = None

    @property
    def history(self) -> tuple[Metrics, ...]:
        """The last runs of the notebook, newest first; empty where there is no earlier one."""
        runs = (*self.attempts, *((self.metrics,) if self.metrics else ()))
        return runs[: -_HISTORY - 1 : -1] if self.attempts else ()

    @property
    def flaky(self) -> bool:
        """Whether the same source, parameters and software succeeded once and failed by itself another time."""
        ends = {(_work(m), m.status is Status.SUCCEEDED) for m in self.history if m.status in _OF_ITS_OWN}
        return len(ends) > len({work for work, _ in ends})


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A notebook that was not chosen: it is listed and has no part in the verdict."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole report, before anything is drawn."""

    run_id: str | None
    """None when the folder holds notebooks that were run one by one."""
    verdict: Verdict
    entries: tuple[Entry, ...]
    others: tuple[Metrics, ...] = ()
    """Records of other runs, which say nothing about this one."""
    left_out: tuple[LeftOut, ...] = ()
    tasks: Mapping[str, str] = field(default_factory=dict)
    """How the tasks before the notebooks ended, where the caller knows."""
    counts: Mapping[str, int] = field(default_factory=dict)
    plan_name: str | None = None
    plan_source: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    generated_at: str = ""
    problems: tuple[str, ...] = ()

    @property
    def ran(self) -> bool:
        """Whether any notebook has run, as far as the folder tells."""
        return any(entry.status is not Status.NOT_RUN or entry.flight or entry.files for entry in self.entries)

    @property
    def stopped(self) -> str:
        """Which tasks before the notebooks kept them from running; empty where none is known."""
        return missing.stopped(self.tasks)

    @property
    def first_failure(self) -> Entry | None:
        """The notebook that went wrong first in time, one without a record last; None where nothing has run."""
        if not self.ran:
            return None
        bad = [entry for entry in self.entries if not entry.ok and entry.status is not Status.RUNNING]
        ended = [entry for entry in bad if entry.metrics and entry.status is not Status.SKIPPED]
        rest = [entry for entry in bad if entry.status is Status.LOST] + bad
        first = min(ended, key=lambda entry: entry.metrics.ended_at if entry.metrics else "", default=None)
        return first or (rest[0] if rest else None)


def _work(m: Metrics) -> tuple[object, ...]:
    """Return what decides how a run ends, as far as a failure records it too."""
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
    """Return the report on one run: the whole plan, and what the folder holds beyond it."""
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
    """Return the notebooks in the plan's order, then what else the run left, by its start."""
    planned = [notebook.name for notebook in plan.notebooks] if plan else []

    def start(name: str) -> tuple[str, str]:
        return found.metrics[name].started_at if name in found.metrics else "", name

    rest = {*only, *(name for name in found.names if found.concerns(name, run_id))} - {*planned}
    return [*planned, *sorted(rest, key=start)]


def _others(found: Found, records: Sequence[Metrics], only: Sequence[str]) -> tuple[Metrics, ...]:
    """Return the records that are not of this run."""
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
        reason = f"{reason} (no more is shown, as its record makes the report fail: {found.set_aside[name]})"
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
    """Return how a run ended and why, as far as it left anything."""
    if metrics:
        reason = missing.ended(metrics)
        return metrics.status, missing.held(metrics.notebook, flight, reason) if flight else reason
    if flight:
        return (Status.RUNNING, missing.running(flight)) if flight.alive else (Status.LOST, missing.lost(flight))
    return None


def is_ok(status: Status, *, optional: bool) -> bool:
    """Return True if a notebook lets the run count as a success.

    Skipping is right for an optional notebook only: one that was skipped because a notebook it
    needs failed, or because the run stopped, is missing from the results.
    """
    return status is Status.SUCCEEDED or (status is Status.SKIPPED and optional)
