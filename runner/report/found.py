# SPDX-License-Identifier: Apache-2.0
"""Contents of an output folder, and their selection by run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.core.records import Status

if TYPE_CHECKING:
    from runner.core.records import Cell, Metrics
    from runner.core.trials import Fit, Forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSample:
    """The last sample of a run without a record."""

    time_seconds: float
    host_memory_bytes: int | None = None
    gpu_memory_used_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A run that has not released its claim (`NAME.running`)."""

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
    held_until: str | None = None
    """Set while the failed notebook waits for its repair."""
    alive: bool = True
    cells_saved: int | None = None
    """Completed code cells in the last saved notebook."""
    cells: tuple[Cell, ...] = ()
    """Started code cells in the last saved notebook."""
    last_sample: LastSample | None = None
    memory_limit_bytes: int | None = None
    """Memory limit of the machine, from another record with the same host name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An earlier run of a notebook."""

    metrics: Metrics
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Contents of an output folder."""

    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    attempts: Mapping[str, tuple[Attempt, ...]] = field(default_factory=dict)
    """Earlier runs by notebook, oldest first."""
    flights: Mapping[str, Flight] = field(default_factory=dict)
    fits: Mapping[str, Fit] = field(default_factory=dict)
    """Results of `fit` by notebook."""
    forecasts: Mapping[str, Forecast] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """File names by notebook and kind (`notebook, html, log, samples, metrics, attempts`)."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Errors of unreadable records, by notebook."""
    set_aside: Mapping[str, str] = field(default_factory=dict)
    """Errors of readable records that make the report fail, so that only their status is shown, by notebook."""
    problems: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All notebooks in the folder."""
        return tuple(dict.fromkeys([*self.metrics, *self.flights, *self.broken, *self.attempts]))

    @property
    def runs(self) -> tuple[str, ...]:
        """All runs in the folder, newest first."""
        records: list[Metrics | Flight] = [one.metrics for attempts in self.attempts.values() for one in attempts]
        started: dict[str, str] = {}
        for record in [*records, *self.metrics.values(), *self.flights.values()]:
            started[record.run_id] = max(started.get(record.run_id, ""), began_at(record))
        return tuple(sorted(started, key=lambda run_id: started[run_id], reverse=True))

    def last(self, name: str) -> Metrics | None:
        """Return the newest record of a notebook of any run."""
        earlier = self.attempts.get(name, ())
        return self.metrics.get(name) or (earlier[-1].metrics if earlier else None)

    def concerns(self, name: str, run_id: str | None) -> bool:
        """Return True if a notebook belongs to a run, or might because its record is unreadable."""
        now = [record.run_id for record in (self.metrics.get(name), self.flights.get(name)) if record]
        if name in self.broken or run_id is None:
            return name in self.broken or bool(now)
        return run_id in {*now, *(one.metrics.run_id for one in self.attempts.get(name, ()))}

    def of_run(self, name: str, run_id: str | None) -> tuple[Metrics | None, Flight | None, Attempts, Files]:
        """Return a run's record or claim of a notebook, the attempts before it, and its files.

        A held run has both.
        """
        metrics, flight = self.metrics.get(name), self.flights.get(name)
        files, attempts = self.files.get(name, {}), self.attempts.get(name, ())
        if run_id is not None:
            metrics = metrics if metrics and metrics.run_id == run_id else None
            flight = flight if flight and flight.run_id == run_id else None
        if metrics and flight and metrics.run_id == flight.run_id and flight.held_until and flight.alive:
            return dataclasses.replace(metrics, status=Status.HELD), flight, attempts, files
        if metrics and flight and (metrics.run_id != flight.run_id or (metrics.provisional and flight.alive)):
            metrics = None  # it is of an earlier run, or not final
        if metrics is None and flight is None:  # a later run may have moved this run's record aside
            place = next((i for i in reversed(range(len(attempts))) if attempts[i].metrics.run_id == run_id), None)
            if place is not None:
                metrics, files, attempts = attempts[place].metrics, attempts[place].files, attempts[:place]
        if metrics is None and flight is None and name not in self.broken:
            files = {}
        return metrics, None if metrics else flight, attempts, files

    def choose_run(self, *, planned: bool) -> str | None:
        """Return the default run of a report, the newest one.

        Without a plan, and if no two notebooks are of the same run, the notebooks were run individually: None, and
        the report covers all of them.
        """
        newest = {name: (m.run_id, began_at(m)) for name, m in self.metrics.items()}
        newest |= {name: (flight.run_id, began_at(flight)) for name, flight in self.flights.items()}
        ids = [run_id for run_id, _ in newest.values()]
        if not planned and len(ids) > 1 and len(set(ids)) == len(ids):
            return None
        return max(newest.values(), key=lambda run: run[1], default=(None, ""))[0]


def began_at(record: Metrics | Flight) -> str:
    """Return the start time of a run, or the time of the reuse."""
    reused = getattr(record, "reused_from", None)
    return str(reused.reused_at) if reused else record.started_at or ""


Attempts = tuple[Attempt, ...]
Files = Mapping[str, str]
