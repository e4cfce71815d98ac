# SPDX-License-Identifier: Apache-2.0
"""Progress on a terminal: which cell, how long, and the memory it takes. Elsewhere the log suffices."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from runner.core import log
from runner.core.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType


class Progress:
    """Shows nothing; the line a cell leaves in the log is enough where nobody watches."""

    def cell(self, name: str, index: int | None, count: int, title: str | None) -> None:
        """Show which cell runs."""

    def memory(self, gpu_bytes: int | None, host_bytes: int | None) -> None:
        """Show what the run takes at the moment."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return


class LiveProgress(Progress):
    """One line at the bottom of a terminal, redrawn; log lines scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True)
        self._started = time.monotonic()
        # Taken and replaced whole, without a lock: a signal handler logs above the line from the middle of
        # `cell`, and waits for a refresh that would wait for what `cell` holds.
        self._cell = ("", self._started)
        self._memory = ""
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def cell(self, name: str, index: int | None, count: int, title: str | None) -> None:
        """Show the cell."""
        text = log.masked(f"{name}  cell {'+' if index is None else index + 1} of {count}  {title or ''}")
        self._cell = (text, time.monotonic())

    def memory(self, gpu_bytes: int | None, host_bytes: int | None) -> None:
        """Show the memory."""
        gpu = f"GPU {format_bytes(gpu_bytes)}  " if gpu_bytes is not None else ""
        self._memory = f"{gpu}host {format_bytes(host_bytes)}" if host_bytes is not None else gpu

    def _render(self) -> RenderableType:
        from rich.spinner import Spinner
        from rich.text import Text

        now = time.monotonic()
        cell, since = self._cell
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{format_seconds(now - self._started)} ", style="dim")
        line.append(f"{cell}  ")
        line.append(f"{format_seconds(now - since)}  ", style="bold")
        line.append(self._memory, style="cyan")
        return Spinner("dots", text=line)

    def __enter__(self) -> Self:
        self._live.start()
        log.show_on(_Above(self._console))
        return self

    def __exit__(self, *_: object) -> None:
        log.show_on(None)
        with contextlib.suppress(OSError):  # the terminal is gone; the run is not
            self._live.stop()


class _Above:
    """Prints above the live line; looks like a stream to the log."""

    def __init__(self, console: Any) -> None:
        self._print: Callable[..., None] = console.print

    def write(self, text: str) -> int:
        if text.strip():
            self._print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        return


def for_terminal() -> Progress:
    """Return live progress when a person watches, else the quiet one."""
    watched = sys.stderr is not None and sys.stderr.isatty()
    return LiveProgress() if watched else Progress()
