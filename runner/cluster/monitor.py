# SPDX-License-Identifier: Apache-2.0
"""Shows a run while it goes on: a live table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from runner.cluster import status_table

if TYPE_CHECKING:
    from rich.live import Live

    from runner.cluster.run_view import RunView


class Display:
    """A place for `runs.follow` to show what it sees; on stderr, because stdout is the answer."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._told: dict[str, tuple[str, str]] = {}
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
        """Show a view, or that there is no connection at the moment."""
        if run is not None:
            self._last = run
        if self._live is not None:
            self._show_table(problem)
        elif run is None:
            self._say(f"no connection, trying again: {problem}")
        else:
            self._show_changes(run)

    def _show_table(self, problem: str) -> None:
        from rich.console import Group
        from rich.text import Text

        assert self._live is not None
        parts = [status_table.table(self._last)] if self._last else []
        note = [Text(f"no connection, trying again: {problem}", style="yellow")] if problem else []
        self._live.update(Group(*parts, *note), refresh=True)

    def _show_changes(self, run: RunView) -> None:
        for task in run.tasks:
            state = (task.state, task.status)
            before = self._told.get(task.task, ("waiting", task.status))
            if before != state:
                word = "running" if task.state == "running" else task.status
                self._say(f"{task.title}: {word}{f': {task.reason}' if task.reason else ''}")
            self._told[task.task] = state
        if run.ended:
            self._say(status_table.plain(run, datetime.now(UTC)))

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
