# SPDX-License-Identifier: Apache-2.0
"""Reasons for a notebook's status in the report, also without a record."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from runner.core.records import origin
from runner.core.units import format_count, format_moment, format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.core.records import Metrics
    from runner.report.found import Flight, Found

NEAR_LIMIT = 0.85
"""Samples are up to half a second old, and the last allocation is the largest."""


def ended(record: Metrics) -> str:
    """Return the reason in a record, with the original run of a reuse."""
    return f"{record.reason}; reused from {origin(record)}" if record.reused_from else record.reason


def lost(flight: Flight) -> str:
    """Describe the last known progress of a lost run, and the probable cause."""
    at = []
    if flight.cell_index is not None:
        at.append(f"in cell {flight.cell_index + 1}" + (f" of {flight.cell_count}" if flight.cell_count else ""))
    if flight.last_sample:
        at.append(f"{format_seconds(flight.last_sample.time_seconds)} after its start")
    saved = "; no notebook was saved"
    if flight.last_save_at or flight.cells_saved is not None:
        saved = "; the notebook was last saved"
        saved += f" at {format_moment(flight.last_save_at)}" if flight.last_save_at else ""
    if flight.cells_saved is not None:
        saved += f" with {format_count(flight.cells_saved, 'cell')} done"
    where = ", ".join(at) or "at an unknown point"
    return f"its process on {flight.host or 'an unknown host'} is gone, last seen {where}{saved}; {guess(flight)}"


def guess(flight: Flight) -> str:
    """Describe the probable cause of a lost run, from its last sample."""
    used = flight.last_sample.host_memory_bytes if flight.last_sample else None
    limit = flight.memory_limit_bytes
    if used is None:
        return "cause unknown, as there are no samples"
    if limit is None:
        return f"the last sample shows {used / 1e9:.1f} GB of host memory, the limit is unknown"
    share = f"{used / 1e9:.1f} GB of host memory, {used / limit:.0%} of the limit"
    if used >= NEAR_LIMIT * limit:
        return f"the last sample shows {share}: probably killed for lack of memory"
    return f"the last sample shows {share}: memory was probably not the cause; the node or Pod may have been removed"


def running(flight: Flight) -> str:
    """Describe the progress of an active run."""
    cell = f", in cell {flight.cell_index + 1} of {flight.cell_count}" if flight.cell_index is not None else ""
    return f"still running on {flight.host} when this report was written{cell}"


def held(name: str, flight: Flight, reason: str) -> str:
    """Describe a held notebook: its failure, until when it is held, and the command to continue."""
    until = format_moment(flight.held_until or "")
    return f"{reason}; held on {flight.host} until {until}: continue with `runner repair {name}`"


def not_run(name: str, found: Found, run_id: str | None, tasks: Mapping[str, str]) -> str:
    """Describe why a notebook of the plan has no record of this run.

    Parameters
    ----------
    tasks
        Status of the tasks before the notebooks, as reported by Tekton.
    """
    reason = _not_run(name, found, run_id)
    own = _ended(tasks.get(f"notebook/{quote(name, safe='')}", ""))
    if own and name not in found.broken:
        reason = f"no record: its task {own}; see the results `status` and `reason` of the task, and its log"
    before = stopped(tasks)
    return f"{reason}; before it, {before}" if before else reason


_WORDS = {
    "TaskRunCancelled": "was cancelled",
    "TaskRunTimeout": "timed out",
    "TaskRunImagePullFailed": "could not pull its image",
    "CreateContainerConfigError": "could not be set up",
    "PodCreationFailed": "got no Pod",
}


def _ended(status: str) -> str:
    """Describe a failed task from Tekton's STATUS or STATUS:REASON; empty if it did not fail."""
    ended, _, why = status.partition(":")
    return _WORDS.get(why, "failed") if ended == "Failed" else ""


def stopped(tasks: Mapping[str, str]) -> str:
    """Describe the tasks before the notebooks that failed, else those that did not run; empty if all succeeded."""
    before = {name: status for name, status in tasks.items() if not name.startswith("notebook/")}
    words = {name: _ended(status) for name, status in before.items() if _ended(status)}
    words = words or {name: "did not run" for name, status in before.items() if status.partition(":")[0] == "None"}
    parts = []
    for word in dict.fromkeys(words.values()):
        names = [name for name, found in words.items() if found == word]
        parts.append(f"the task{'' if len(names) == 1 else 's'} {', '.join(names)} {word}")
    return " and ".join(parts)


def left_out(last: Metrics | None, run_id: str | None) -> str:
    """Describe a notebook that was not selected."""
    if last is None:
        return "not in this run; it has no record"
    if last.run_id == run_id:
        return f"not selected for this report; its status in this run is {last.status.value}"
    return f"not in this run; last {last.status.value} at {format_moment(last.ended_at)}, run {last.run_id}"


def _not_run(name: str, found: Found, run_id: str | None) -> str:
    if name in found.broken:
        return f"its record cannot be read: {found.broken[name]}"
    other = found.metrics.get(name)
    if other:
        return f"no record of run {run_id}; the one in the folder is of run {other.run_id} ({other.status.value})"
    if name in found.flights:
        return f"no record of run {run_id}; run {found.flights[name].run_id} is still running it"
    return "no record: its task did not start, or ended before writing one"
