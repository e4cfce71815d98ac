# SPDX-License-Identifier: Apache-2.0
"""Progress on a terminal: a table of the running notebooks, read from their claims."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.screen import Screen, is_screen, plain
from runner.core.units import format_bytes, format_moment, format_seconds
from runner.outputs import claim

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_KEPT_LINES = 20
"""Lines of a notebook's process, shown if it wrote no record."""

_STAGES = {
    "prepare": "preparing",
    "gate": "waiting for GPUs",
    "execute": "starting the kernel",
    "release": "freeing memory",
    "expect": "checking results",
    "hash": "hashing",
    "convert": "writing the page",
}


@dataclass(slots=True)
class _Row:
    path: Path
    since: float = field(default_factory=time.monotonic)
    cell: object = None
    cell_since: float = field(default_factory=time.monotonic)
    logged: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))


class Progress:
    """The running notebooks of a run.

    Parameters
    ----------
    count
        Total number of notebooks.
    verbose
        Also show log lines above the table.
    """

    def __init__(self, count: int, *, verbose: bool) -> None:
        self.screen = Screen(self._drawn)
        self._count, self._verbose = count, verbose
        self._began = time.monotonic()
        self._ended = 0
        self._rows: dict[str, _Row] = {}

    def begin(self, name: str, path: Path) -> None:
        """Add a notebook with the path of its claim."""
        self._rows = {**self._rows, name: _Row(path)}  # replaced, not changed: another thread reads it

    def end(self, name: str) -> list[str]:
        """Remove a notebook and return the last lines of its log."""
        row = self._rows[name]
        self._ended += 1
        self._rows = {other: one for other, one in self._rows.items() if other != name}
        return list(row.logged)

    def passed(self, line: str) -> None:
        """Count a notebook that need not run, and print a line."""
        self._ended += 1
        self.screen.print(line)

    def logged(self, name: str, line: str) -> None:
        """Handle a line of a notebook's log."""
        if self._verbose:
            self.screen.print(line)
        elif row := self._rows.get(name):
            row.logged.append(line)

    def _drawn(self, width: int, height: int) -> list[str]:
        import io

        from rich.console import Console

        console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False)
        with console.capture() as captured:
            console.print(self._table(console, max(1, height - 2)), no_wrap=True, overflow="ellipsis", crop=True)
        return captured.get().rstrip("\n").split("\n")

    def _table(self, console: Console, most: int) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now, rows = time.monotonic(), list(self._rows.items())
        table = Table.grid(padding=(0, 2), expand=True)
        for column in range(6):
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=1 if column == 5 else None)
        for name, row in rows[:most]:
            try:
                cells = self._cells(name, row, now)
            except (TypeError, ValueError):  # a foreign file
                cells = [(name, ""), ("unknown", "dim")]
            table.add_row(*(Text(text, style=style) for text, style in cells))
        parts: list[RenderableType] = []
        if self._count > 1:
            parts.append(Text(f"{self._head(len(rows))}  {format_seconds(now - self._began)}", style="bold"))
        if len(rows) > most:
            table.add_row(Text(f"and {len(rows) - most} more"))
        return Group(*parts, table)

    def _head(self, running: int) -> str:
        first, last = self._ended + 1, self._ended + running
        if first < last:
            return f"notebooks {first} to {last} of {self._count}"
        if first == last:
            return f"notebook {first} of {self._count}"
        return "writing the report" if self._ended == self._count else f"{self._ended} of {self._count} notebooks ended"

    def _cells(self, name: str, row: _Row, now: float) -> list[tuple[str, str]]:
        running, took = claim.read(row.path), format_seconds(now - row.since)
        if running and running.held_until:
            until = format_moment(str(running.held_until))
            hint = f"until {until}: runner repair {name}"
            return [(name, ""), ("held", "yellow"), (took, ""), ("", ""), ("", ""), (plain(hint), "yellow")]
        if running is None or running.stage != "execute" or running.cell_count is None:
            return [(name, ""), (_STAGES.get(str(running and running.stage), "starting"), "dim"), (took, "")]
        if row.cell != running.cell_index:
            row.cell, row.cell_since = running.cell_index, now
        number = "+" if running.cell_index is None else int(running.cell_index) + 1
        memory = [
            f"{label} {format_bytes(count)}" if count is not None else ""
            for label, count in (("GPU", running.gpu_bytes), ("host", running.host_bytes))
        ]
        title = f"{running.title or ''}  {format_seconds(now - row.cell_since)}".strip()
        texts = (name, f"cell {number} of {running.cell_count}", took, *memory, plain(title))
        return list(zip(texts, ("", "cyan", "", "", "", "dim"), strict=True))


@contextlib.contextmanager
def watched(count: int, verbosity: int) -> Iterator[Progress | None]:
    """Show the progress of a number of notebooks on a terminal; yield None elsewhere.

    Parameters
    ----------
    verbosity
        -1: errors only; 0: the table on a terminal, log lines elsewhere; 1: both.
    """
    shown = verbosity >= 0 and is_screen()
    least = logging.ERROR if verbosity < 0 else logging.WARNING if shown and not verbosity else logging.INFO
    with log.showing(least):
        if not shown:
            yield None
            return
        progress = Progress(count, verbose=verbosity > 0)
        with progress.screen:
            yield progress
