# SPDX-License-Identifier: Apache-2.0
"""What a user sees of a run: one table, its heading, and the same as JSON."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runner.cluster.run_view import RunView, TaskView, seconds_between
from runner.core.units import format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

_COLOURS = {
    "waiting": "dim",
    "running": "cyan",
    "done": "green",
    "failed": "bold red",
    "skipped": "yellow",
    "cancelled": "magenta",
}


def table(run: RunView, now: datetime | None = None) -> RenderableType:
    """Return the table of a run."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    now = now or datetime.now(UTC)
    rows = Table(expand=False, pad_edge=False)
    for heading in ("task", "state", "since", "took", "reason"):
        rows.add_column(heading, overflow="fold")
    for task in run.tasks:
        rows.add_row(
            *(Text(cell, style=_COLOURS[task.state] if place == 1 else "") for place, cell in _cells(task, now))
        )
    return Group(Text(heading_of(run, now)), rows)


def plain(run: RunView, now: datetime | None = None) -> str:
    """Return the same without colours or frames, for logs."""
    now = now or datetime.now(UTC)
    lines = [heading_of(run, now)]
    for task in run.tasks:
        _, state, since, took, reason = (cell for _, cell in _cells(task, now))
        lines.append(f"  {task.title}: {state}" + "".join(f", {part}" for part in (since, took, reason) if part))
    return "\n".join(lines)


def _cells(task: TaskView, now: datetime) -> list[tuple[int, str]]:
    seconds = (
        task.wall_seconds if task.wall_seconds is not None else seconds_between(task.started_at, task.ended_at, now)
    )
    took = format_seconds(seconds) if seconds is not None and task.state != "waiting" else ""
    since = _clock(task.started_at) if task.state == "running" else ""
    state = task.state if task.state in {"waiting", "running"} else task.status
    return list(enumerate((task.title, state, since, took, task.reason)))


def _clock(instant: str | None) -> str:
    """Return an instant of Kubernetes as a short date and time in UTC, as they read in the log."""
    return instant[5:16].replace("T", " ") + "Z" if instant else ""


def heading_of(run: RunView, now: datetime) -> str:
    """Return the line above the table."""
    seconds = seconds_between(run.started_at, run.ended_at, now)
    took = f" in {format_seconds(seconds)}" if run.ended and seconds is not None else ""
    if not run.ended:
        took = f", {format_seconds(seconds)} so far" if seconds is not None else ""
    verdict = run.reason if run.succeeded is None else ("succeeded" if run.succeeded else f"failed ({run.reason})")
    return f"{run.namespace}/{run.name} ({run.pipeline}): {verdict}{took}" + (f": {run.message}" if run.message else "")


def as_json(run: RunView) -> str:
    """Return the run as JSON."""
    return json.dumps(dataclasses.asdict(run), indent=1, ensure_ascii=False)
