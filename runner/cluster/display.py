# SPDX-License-Identifier: Apache-2.0
"""Display of a run: a table, JSON, and while it is running a live table or one line per change."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Self

from runner.cluster.run_view import RunView, TaskView, seconds_between
from runner.core.units import format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_COLOURS = {
    "waiting": "dim",
    "running": "cyan",
    "done": "green",
    "failed": "bold red",
    "skipped": "yellow",
    "cancelled": "magenta",
    "timed-out": "bold red",
}


def table(run: RunView) -> RenderableType:
    """Return the table of a run."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = Table(expand=False, pad_edge=False)
    for heading in ("task", "state", "since", "took", "reason"):
        rows.add_column(heading, overflow="fold")
    for task in run.tasks:
        title, state, *others = _cells(task)
        rows.add_row(Text(title), Text(state, style=_COLOURS[task.state]), *map(Text, others))
    return Group(Text(_heading(run)), rows)


def plain(run: RunView) -> str:
    """Return the run as plain lines, for logs."""
    lines = [_heading(run)]
    for task in run.tasks:
        title, *others = _cells(task)
        lines.append(f"  {title}: {', '.join(filter(None, others))}")
    return "\n".join(lines)


def _cells(task: TaskView) -> tuple[str, str, str, str, str]:
    seconds = task.wall_seconds if task.wall_seconds is not None else seconds_between(task.started_at, task.ended_at)
    took = format_seconds(seconds) if seconds is not None and task.state != "waiting" else ""
    running_since = task.started_at if task.state == "running" else None
    since = running_since[5:16].replace("T", " ") + "Z" if running_since else ""
    state = task.state if task.state in {"waiting", "running"} else task.status
    return task.title, state, since, took, task.reason


def _heading(run: RunView) -> str:
    """Return the line above the table."""
    seconds = seconds_between(run.started_at, run.ended_at)
    took = f" in {format_seconds(seconds)}" if run.ended and seconds is not None else ""
    if not run.ended:
        took = f", {format_seconds(seconds)} so far" if seconds is not None else ""
    verdict = run.reason if run.succeeded is None else ("succeeded" if run.succeeded else f"failed ({run.reason})")
    return f"{run.namespace}/{run.name} ({run.pipeline}): {verdict}{took}" + (f": {run.message}" if run.message else "")


def as_json(run: RunView) -> str:
    """Return the run as JSON."""
    return json.dumps(dataclasses.asdict(run), indent=1, ensure_ascii=False)


class Display:
    """Shows the views of `runs.follow` on stderr, because stdout is the answer."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._shown: dict[str, tuple[str, str]] = {}
        self._last: RunView | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=2, transient=False)
            self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)

    def show(self, run: RunView | None, problem: str) -> None:
        """Show a view, or the reason for a lost connection."""
        if run is not None:
            self._last = run
        if self._live is not None:
            self._show_table(problem)
        elif run is None:
            print(f"connection lost, retrying: {problem}", file=sys.stderr, flush=True)
        else:
            self._show_changes(run)

    def _show_table(self, problem: str) -> None:
        from rich.console import Group
        from rich.text import Text

        assert self._live is not None
        parts = [table(self._last)] if self._last else []
        note = [Text(f"connection lost, retrying: {problem}", style="yellow")] if problem else []
        self._live.update(Group(*parts, *note), refresh=True)

    def _show_changes(self, run: RunView) -> None:
        for task in run.tasks:
            state = (task.state, task.status)
            if self._shown.get(task.task, ("waiting", task.status)) != state:
                word = "running" if task.state == "running" else task.status
                line = f"{task.title}: {word}{f': {task.reason}' if task.reason else ''}"
                print(line, file=sys.stderr, flush=True)
            self._shown[task.task] = state
        if run.ended:
            print(plain(run), file=sys.stderr, flush=True)
