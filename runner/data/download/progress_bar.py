# SPDX-License-Identifier: Apache-2.0
"""Progress of a download: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from runner.core import log
from runner.core.units import format_bytes

_LINE_EVERY_SECONDS = 10.0

Progress = Callable[[int, "int | None"], None]
"""Called with the received bytes, and the size if known."""


class Watcher(Protocol):
    """Shows the progress of downloads."""

    def dataset(self, name: str) -> AbstractContextManager[Progress]:
        """Show one dataset during a block."""


class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def dataset(self, name: str) -> Iterator[Progress]:
        """Yield a function that does nothing."""
        yield lambda _done, _total: None


class Lines:
    """A line in the log every ten seconds."""

    def __init__(self, every_seconds: float = _LINE_EVERY_SECONDS) -> None:
        self._every_seconds = every_seconds

    @contextlib.contextmanager
    def dataset(self, name: str) -> Iterator[Progress]:
        """Yield a function that logs periodically."""
        logged_at, logged_bytes = time.monotonic(), None

        def report(done: int, total: int | None) -> None:
            nonlocal logged_at, logged_bytes
            if logged_bytes is None:
                logged_bytes = done  # bytes of an earlier try do not count for the rate
            seconds = time.monotonic() - logged_at
            if seconds >= self._every_seconds:
                rate = format_bytes((done - logged_bytes) / seconds)
                percent = f"{100 * done / total:.1f}" if total else None
                log.info(
                    "fetching",
                    dataset=name,
                    done=format_bytes(done),
                    of=format_bytes(total),
                    percent=percent,
                    rate=f"{rate}/s",
                )
                logged_at, logged_bytes = time.monotonic(), done

        yield report


class Bar:
    """A bar on the terminal."""

    @contextlib.contextmanager
    def dataset(self, name: str) -> Iterator[Progress]:
        """Yield a function that updates the bar."""
        from rich import progress
        from rich.console import Console

        columns = [
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        ]
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(name, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def suited_watcher() -> Watcher:
    """Return a bar if stderr is a terminal, else lines."""
    return Bar() if sys.stderr.isatty() else Lines()
