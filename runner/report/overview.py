# SPDX-License-Identifier: Apache-2.0
"""Current status of a run: one line per notebook of the plan, from claims and records.

Cheaper than a report, as it is updated every two seconds: of a record only the outcome is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import socket
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core import files, log, procfs
from runner.core.endings import status_of
from runner.core.errors import UsageError
from runner.core.records import Status
from runner.core.surrogates import printable
from runner.core.units import format_bytes, format_moment, format_seconds, instant
from runner.outputs import claim
from runner.report.folder import METRICS, RUNNING, Watch, last_sample

if TYPE_CHECKING:
    from runner.outputs.claim import Running

QUEUED = "queued"
WHOLE_RUN = Path("reports", ".run-all.json")
"""Notebooks of the newest `run-all` in the output folder."""
_TAIL_BYTES = 1 << 16
_LINE_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRun:
    """A run of a plan by `run-all`, written at its start."""

    run_id: str
    plan: str | None
    names: tuple[str, ...]
    """All notebooks of the plan."""
    chosen: tuple[str, ...]
    started_at: str
    pid: int
    host: str
    namespace: str
    pid_started: int | None

    @property
    def lives(self) -> bool | None:
        """Whether its process is alive; None if pids cannot be compared."""
        return procfs.lives(self.pid, self.pid_started, self.namespace)


def announce(folder: Path, *, run_id: str, plan: str | None, names: Sequence[str], chosen: Sequence[str]) -> WholeRun:
    """Record in an output folder what this process is about to run.

    Raises
    ------
    RecordError
        The folder cannot be written.
    """
    run = WholeRun(
        run_id=run_id,
        plan=plan,
        names=tuple(names),
        chosen=tuple(chosen),
        started_at=log.utc_now(),
        pid=os.getpid(),
        host=socket.gethostname(),
        namespace=procfs.namespace(),
        pid_started=procfs.started(os.getpid()),
    )
    files.write(folder / WHOLE_RUN, json.dumps(dataclasses.asdict(run)) + "\n")
    return run


def read_whole_run(folder: Path) -> WholeRun | None:
    """Return the newest run of a plan in a folder."""
    try:
        document = json.loads(files.read(folder / WHOLE_RUN, 1 << 24))
        kinds = typing.get_type_hints(WholeRun) | {"names": list, "chosen": list}
        if not all(isinstance(value, kinds[key]) for key, value in document.items()):
            return None
        document |= {key: tuple(map(files.check_name, document[key])) for key in ("names", "chosen")}
        return WholeRun(**document)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, UsageError, RecursionError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One notebook."""

    name: str
    state: str
    """`queued`, or a status."""
    reason: str = ""
    since: str | None = None
    """Time of its start, or of its end."""
    stage: str | None = None
    """Current stage after the last cell."""
    cell: int | None = None
    """Current cell, counted from 1."""
    cells: int | None = None
    cell_since: str | None = None
    wall_seconds: float | None = None
    gpu_memory_bytes: int | None = None
    host_memory_bytes: int | None = None
    log_line: str = ""

    @property
    def active(self) -> bool:
        """Whether its process is alive."""
        return self.state in {Status.RUNNING, Status.HELD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The status of all notebooks of a run."""

    run_id: str | None
    plan: str | None
    started_at: str | None
    as_of: str
    rows: tuple[Row, ...]
    running: bool

    @property
    def counts(self) -> dict[str, int]:
        """Number of notebooks by state."""
        states = [row.state for row in self.rows]
        return {state: states.count(state) for state in dict.fromkeys(states)}


def look(folder: Path, *, names: Sequence[str] = (), plan: str | None = None, watch: Watch = claim.alive) -> Overview:
    """Return the status of the newest run in a folder.

    Parameters
    ----------
    names
        Notebooks of the plan, if known; else those of the newest `run-all`, and others in the folder.
    watch
        Returns which claims belong to live runs.
    """
    whole = read_whole_run(folder)
    paths = {path.name.removesuffix(RUNNING): path for path in sorted(folder.glob(f"*{RUNNING}"))}
    lives = {path for path, lives in watch(list(paths.values()), claim.DEAD_AFTER_SECONDS).items() if lives}
    alive = {name for name, path in paths.items() if path in lives}
    flights = {name: found for name, path in paths.items() if (found := claim.read(path))}
    records = {path.name.removesuffix(METRICS): path for path in sorted(folder.glob(f"*{METRICS}"))}
    here = [name for name in dict.fromkeys([*flights, *records]) if _is_name(name)]
    if whole and (not names or set(whole.names) == set(names)):
        names = (*whole.names, *(name for name in here if name in alive - {*whole.names}))
    else:
        whole = None
    going = bool(alive or (whole and whole.lives))
    rows = tuple(
        _row(folder, name, flights.get(name), whole, lives=name in alive, going=going) for name in names or here
    )
    newest = max(flights.values(), key=lambda one: one.started_at, default=None)
    return Overview(
        run_id=whole.run_id if whole else newest.run_id if newest else None,
        plan=plan or (whole.plan if whole else newest.plan if newest else None),
        started_at=whole.started_at if whole else newest.started_at if newest else None,
        as_of=log.utc_now(),
        rows=rows,
        running=going,
    )


def _is_name(name: str) -> bool:
    try:
        return bool(files.check_name(name))
    except UsageError:
        return False


def _row(folder: Path, name: str, flight: Running | None, whole: WholeRun | None, *, lives: bool, going: bool) -> Row:
    record = _ending(folder / f"{name}{METRICS}")
    if flight is not None and lives:
        return _active(folder, name, flight, record)
    wanted = whole.run_id if whole else None
    if flight is not None and (not record or record["run_id"] != flight.run_id or record["provisional"]):
        if record and record["run_id"] == flight.run_id and record["status"] is not Status.SUCCEEDED:
            return _ended(folder, name, record)
        reason = "its process is gone" + (
            f", last seen in cell {_place(flight)}" if flight.cell_index is not None else ""
        )
        return Row(
            name=name, state=Status.LOST, reason=reason, since=flight.started_at, log_line=_log_line(folder, name)
        )
    if record and (wanted is None or record["run_id"] == wanted):
        return _ended(folder, name, record)
    last = f"last {record['status']} at {record['ended_at']}, run {record['run_id'][:8]}" if record else ""
    if whole and name not in whole.chosen:
        return Row(name=name, state=Status.NOT_RUN, reason=f"not in this run; {last or 'no earlier run'}")
    return Row(name=name, state=QUEUED if going else Status.NOT_RUN, reason=last)


def _active(folder: Path, name: str, flight: Running, record: Mapping[str, Any] | None) -> Row:
    early = record if record and record["provisional"] and record["run_id"] == flight.run_id else None
    held = early is not None and early["stage"] == "held"
    sample = last_sample(folder / f"{name}.samples.csv")
    return Row(
        name=name,
        state=Status.HELD if held else Status.RUNNING,
        reason=f"{early['reason']}; held until {flight.held_until}: `runner repair {shlex.quote(name)}`"
        if early and held
        else "",
        since=flight.started_at,
        stage=None if early is None or held else early["stage"],
        cell=None if flight.cell_index is None else flight.cell_index + 1,
        cells=flight.cell_count,
        cell_since=flight.cell_started_at,
        gpu_memory_bytes=sample.gpu_memory_used_bytes if sample else None,
        host_memory_bytes=sample.host_memory_bytes if sample else None,
        log_line=_log_line(folder, name),
    )


def _ended(folder: Path, name: str, record: Mapping[str, Any]) -> Row:
    status = status_of(record["status"], provisional=record["provisional"])
    return Row(
        name=name,
        state=status,
        reason=record["reason"],
        since=record["ended_at"],
        wall_seconds=record["wall_seconds"],
        log_line="" if status in {Status.SUCCEEDED, Status.SKIPPED} else _log_line(folder, name),
    )


def _place(flight: Running) -> str:
    return f"{(flight.cell_index or 0) + 1} of {flight.cell_count}"


def _ending(path: Path) -> dict[str, Any] | None:
    """Return the outcome in a record; None if it cannot be read."""
    try:
        document = json.loads(files.read(path))
        found = {
            "status": Status(document["status"]),
            "reason": str(document["reason"]),
            "run_id": str(document["run_id"]),
            "ended_at": str(document["ended_at"]),
            "wall_seconds": float(document["wall_seconds"]),
            "provisional": bool(document.get("provisional")),
            "stage": document.get("stage"),
        }
        if reused := document.get("reused_from"):
            found["reason"] += f"; reused from run {str(reused['run_id'])[:8]}"
            found["ended_at"] = str(reused["reused_at"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return found


def _log_line(folder: Path, name: str) -> str:
    """Return the last line of a log in printable form."""
    with contextlib.suppress(OSError), files.reading(folder / f"{name}.log") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
        lines = stream.read(_TAIL_BYTES).decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return printable(last)[:_LINE_CHARACTERS]
    return ""


def seconds_since(moment: str | None, now: str) -> float | None:
    """Return the seconds between two timestamps; None if one is missing or the clock was set back."""
    began, ended = instant(moment), instant(now)
    return None if began is None or ended is None or ended < began else ended - began


def counted(counts: Mapping[str, int]) -> str:
    """Format the number of notebooks by state."""
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "no notebooks"


def detail(row: Row, now: str) -> str:
    """Describe the progress of a notebook."""
    if not row.active:
        wall = format_seconds(row.wall_seconds) if row.wall_seconds is not None else ""
        return ", ".join(filter(None, (wall, printable(row.reason))))
    parts = []
    if row.stage is not None:
        parts.append(f"in stage {row.stage}")
    elif row.cell is not None:
        since = seconds_since(row.cell_since, now)
        of = f" of {row.cells}" if row.cells else ""
        parts.append(f"in cell {row.cell}{of}" + (f" for {format_seconds(since)}" if since is not None else ""))
    if (whole := seconds_since(row.since, now)) is not None:
        parts.append(f"{format_seconds(whole)} in total")
    if row.gpu_memory_bytes:
        parts.append(f"GPU {format_bytes(row.gpu_memory_bytes)}")
    if row.host_memory_bytes:
        parts.append(f"host {format_bytes(row.host_memory_bytes)}")
    return ", ".join([*parts, *([printable(row.reason)] if row.reason else [])])


def text(overview: Overview) -> list[str]:
    """Return the lines of an overview for a terminal."""
    head = (
        f"run {overview.run_id} of {overview.plan or 'notebooks'}" if overview.run_id else overview.plan or "notebooks"
    )
    since = f", started {format_moment(overview.started_at)}" if overview.started_at else ""
    width = max((len(row.name) for row in overview.rows), default=0)
    kind = max((len(row.state) for row in overview.rows), default=0)
    lines = [printable(f"{head}{since}: {counted(overview.counts)}")]
    for row in overview.rows:
        lines.append(f"{row.name:{width}}  {row.state:{kind}}  {detail(row, overview.as_of)}".rstrip())
        lines += [f"{'':{width}}  {row.log_line}"] if row.log_line else []
    return lines
