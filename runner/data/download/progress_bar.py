# SPDX-License-Identifier: Apache-2.0
"""Progress of a download: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from runner.core import log
from runner.core.units import format_bytes

Progress = Callable[[int, "int | None"], None]
"""Called with the received bytes, and the size if known."""
Watcher = Callable[[str], AbstractContextManager[Progress]]
"""Shows the progress of the named dataset during a block."""


@contextlib.contextmanager
def silent(_name: str) -> Iterator[Progress]:
    """Show nothing."""
    yield lambda _done, _total: None


@contextlib.contextmanager
def lines(name: str, every_seconds: float = 10.0) -> Iterator[Progress]:
    """Log a line periodically."""
    logged_at, logged_bytes = time.monotonic(), None

    def report(done: int, total: int | None) -> None:
        nonlocal logged_at, logged_bytes
        if logged_bytes is None:
            logged_bytes = done  # bytes of an earlier try do not count for the rate
        seconds = time.monotonic() - logged_at
        if seconds >= every_seconds:
            log.info(
                "fetching",
                dataset=name,
                done=format_bytes(done),
                of=format_bytes(total),
                percent=f"{100 * done / total:.1f}" if total else None,
                rate=f"{format_bytes((done - logged_bytes) / seconds)}/s",
            )
            logged_at, logged_bytes = time.monotonic(), done

    yield report


@contextlib.contextmanager
def bar(name: str) -> Iterator[Progress]:
    """Show a bar on the terminal."""
    from rich import progress
    from rich.console import Console

    columns = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    ]
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(name, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def suited_watcher() -> Watcher:
    """Return a bar if stderr is a terminal, else lines."""
    return bar if sys.stderr.isatty() else lines
