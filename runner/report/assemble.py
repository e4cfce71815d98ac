# SPDX-License-Identifier: Apache-2.0
"""What a report says, decided from what the folder and the plan hold.

Pure: `Found` (what was read) and a plan go in, `Report` comes out. Here stands which run a report
is about, what became of a notebook that left no record, and when a run counts as a success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from runner.core.records import Status
from runner.report import missing
from runner.report.summary import LeftOut

if TYPE_CHECKING:
    from runner.core.records import Cell, Metrics
    from runner.plan import Plan

Verdict = Literal["succeeded", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSample:
    """The last line of the samples of a run that left no record."""

    time_seconds: float
    host_memory_bytes: int | None = None
    gpu_memory_used_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A run that had not ended when it was last heard of (`NAME.running`)."""

    notebook: str
    run_id: str
    pid: int | None = None
    host: str | None = None
    beat: int | None = None
    started_at: str | None = None
    cell_index: int | None = None
    cell_count: int | None = None
    last_save_at: str | None = None
    plan: str | None = None
    alive: bool = True
    cells_saved: int | None = None
    """Code cells with an execution count in the last saved notebook."""
    cells: tuple[Cell, ...] = ()
    """What the last saved notebook tells of its cells."""
    last_sample: LastSample | None = None
    memory_limit_bytes: int | None = None
    """Memory limit of the machine of this name, where another record of it tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An earlier run of a notebook."""

    metrics: Metrics
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Everything an output folder holds that a report speaks of."""

    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    attempts: Mapping[str, tuple[Attempt, ...]] = field(default_factory=dict)
    """Earlier runs by notebook, oldest first."""
    flights: Mapping[str, Flight] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By notebook: kind of file (`notebook, html, log, samples, metrics, attempts`) to its name."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """By notebook: why its record cannot be read."""
    set_aside: Mapping[str, str] = field(default_factory=dict)
    """By notebook: why nothing but its status is shown, though its record could be read."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One notebook of the report."""

    name: str
    anchor: str
    status: Status
    reason: str
    ok: bool
    """Succeeded, or skipped rightly."""
    stage: str | None = None
    optional: bool = False
    needs: tuple[str, ...] = ()
    metrics: Metrics | None = None
    """The record of this run; None when there is none."""
    flight: Flight | None = None
    attempts: tuple[Metrics, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


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
        return min(ended, key=_end, default=None) or (rest[0] if rest else None)


def _end(entry: Entry) -> str:
    return entry.metrics.ended_at if entry.metrics else ""


def choose_run(metrics: Mapping[str, Metrics], flights: Mapping[str, Flight], *, planned: bool) -> str | None:
    """Return the run a report is about when nobody said which.

    The newest one. Without a plan, and with no two notebooks of the same run, the notebooks were
    run one by one: None, and the report covers all of them.
    """
    runs = {**{name: (f.run_id, f.started_at or "") for name, f in flights.items()}}
    runs.update({name: (m.run_id, m.started_at) for name, m in metrics.items() if name not in flights})
    ids = [run_id for run_id, _ in runs.values()]
    if not planned and len(ids) > 1 and len(set(ids)) == len(ids):
        return None
    return max(runs.values(), key=lambda run: run[1], default=(None, ""))[0]


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
    chosen = run_id or choose_run(found.metrics, found.flights, planned=plan is not None)
    planned = [notebook.name for notebook in plan.notebooks] if plan else []
    tasks = tasks or {}
    held = dict.fromkeys([*found.metrics, *found.flights, *found.broken, *found.attempts])
    mine = [name for name in held if _is_mine(found, name, chosen)]
    listed = _in_order(list(dict.fromkeys([*planned, *mine, *only])), planned, found)
    names = [name for name in listed if not only or name in only]
    entries = tuple(_entry(position, name, found, plan, chosen, tasks) for position, name in enumerate(names, 1))
    told = [entry.metrics for entry in entries if entry.metrics]
    counts: dict[str, int] = {"notebooks": len(entries), "ok": sum(entry.ok for entry in entries)}
    for status in Status:
        number = sum(entry.status is status for entry in entries)
        if number:
            counts[status.value] = number
    return Report(
        run_id=chosen,
        verdict="succeeded" if entries and all(entry.ok for entry in entries) else "failed",
        entries=entries,
        others=tuple(
            m
            for m in found.metrics.values()
            if m not in told and m.notebook not in found.set_aside and not (only and m.notebook not in only)
        ),
        left_out=tuple(
            LeftOut(name=name, reason=missing.left_out(_last(found, name), chosen))
            for name in listed
            if name not in names
        ),
        tasks=tasks,
        counts=counts,
        plan_name=plan.name if plan else None,
        plan_source=plan_source,
        started_at=min((m.started_at for m in told), default=None),
        ended_at=max((m.ended_at for m in told), default=None),
        generated_at=generated_at,
        problems=found.problems,
    )


def _is_mine(found: Found, name: str, run_id: str | None) -> bool:
    """Tell whether a name belongs to the run; an unreadable record might, so it is not passed over."""
    if name in found.broken:
        return True
    now = [record for record in (found.metrics.get(name), found.flights.get(name)) if record]
    if run_id is None:
        return bool(now)
    return run_id in {*(record.run_id for record in now), *(one.metrics.run_id for one in found.attempts.get(name, ()))}


def _last(found: Found, name: str) -> Metrics | None:
    """Return the newest record of a notebook, of whatever run."""
    earlier = found.attempts.get(name, ())
    return found.metrics.get(name) or (earlier[-1].metrics if earlier else None)


def runs(found: Found) -> tuple[str, ...]:
    """Return the runs of which something is in the folder, newest first."""
    started: dict[str, str] = {}
    kept = [one.metrics for attempts in found.attempts.values() for one in attempts]
    seen = [(record.run_id, record.started_at) for record in (*found.metrics.values(), *kept)]
    seen += [(flight.run_id, flight.started_at or "") for flight in found.flights.values()]
    for run_id, at in seen:
        started[run_id] = max(started.get(run_id, ""), at)
    return tuple(sorted(started, key=lambda run_id: started[run_id], reverse=True))


def _in_order(names: list[str], planned: list[str], found: Found) -> list[str]:
    """Return the plan's order, then what is not in the plan by its start."""
    place = {name: position for position, name in enumerate(planned)}

    def key(name: str) -> tuple[int, str, str]:
        record = found.metrics.get(name)
        return place.get(name, len(place)), "" if name in place or record is None else record.started_at, name

    return sorted(names, key=key)


def _entry(
    position: int, name: str, found: Found, plan: Plan | None, run_id: str | None, tasks: Mapping[str, str]
) -> Entry:
    notebook = next((nb for nb in plan.notebooks if nb.name == name), None) if plan else None
    metrics, flight = found.metrics.get(name), found.flights.get(name)
    files, attempts = found.files.get(name, {}), found.attempts.get(name, ())
    if run_id is not None:
        metrics = metrics if metrics and metrics.run_id == run_id else None
        flight = flight if flight and flight.run_id == run_id else None
    if flight and metrics and metrics.run_id != flight.run_id:
        metrics = None  # the record is of the run before the one that is under way
    if metrics and metrics.provisional and flight and flight.alive:
        metrics = None  # it says how far the run is, not how it ended
    if metrics is None and flight is None:  # a later run may have moved this run's record aside
        place = next((i for i in reversed(range(len(attempts))) if attempts[i].metrics.run_id == run_id), None)
        if place is not None:
            metrics, files, attempts = attempts[place].metrics, attempts[place].files, attempts[:place]
    if metrics:
        flight = None
        status, reason = metrics.status, metrics.reason
    elif flight and not flight.alive:
        status, reason = Status.LOST, missing.lost(flight)
    elif flight:
        status, reason = Status.RUNNING, missing.running(flight)
    else:
        status, reason = Status.NOT_RUN, missing.not_run(name, found, run_id, tasks)
    if name in found.set_aside:
        reason = f"{reason} (no more is shown, as its record makes the report fail: {found.set_aside[name]})"
    optional = bool((notebook and notebook.optional) or (metrics and metrics.optional))
    return Entry(
        name=name,
        anchor=f"notebook-{position}",
        status=status,
        reason=reason,
        ok=is_ok(status, optional=optional),
        stage=notebook.stage if notebook else None,
        optional=optional,
        needs=tuple(notebook.needs) if notebook else (),
        metrics=metrics if name not in found.set_aside else None,
        flight=flight if name not in found.set_aside else None,
        attempts=tuple(one.metrics for one in attempts) if name not in found.set_aside else (),
        files=files if metrics or flight or name in found.broken else {},
    )


def is_ok(status: Status, *, optional: bool) -> bool:
    """Tell whether a notebook lets the run count as a success.

    Skipping is right for an optional notebook only: one that was skipped because a notebook it
    needs failed, or because the run stopped, is missing from the results.
    """
    return status is Status.SUCCEEDED or (status is Status.SKIPPED and optional)
