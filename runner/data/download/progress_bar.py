# SPDX-License-Identifier: Apache-2.0
"""Progress of a download: a bar for somebody who watches, a line every ten seconds for a log."""

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
"""Told the bytes that are there and the size, if that is known."""


class Watcher(Protocol):
    """Somebody who shows how far a download is."""

    def dataset(self, name: str) -> AbstractContextManager[Progress]:
        """Show one dataset for the time of a block."""


class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def dataset(self, name: str) -> Iterator[Progress]:
        """Give a function that does nothing."""
        yield lambda _done, _total: None


class Lines:
    """A line in the log every ten seconds."""

    def __init__(self, every_seconds: float = _LINE_EVERY_SECONDS) -> None:
        self._every_seconds = every_seconds

    @contextlib.contextmanager
    def dataset(self, name: str) -> Iterator[Progress]:
        """Give a function that logs now and then."""
        told_at, told_bytes = time.monotonic(), None

        def tell(done: int, total: int | None) -> None:
            nonlocal told_at, told_bytes
            if told_bytes is None:
                told_bytes = done  # what an earlier try left is no speed of ours
            seconds = time.monotonic() - told_at
            if seconds >= self._every_seconds:
                rate = format_bytes((done - told_bytes) / seconds)
                percent = f"{100 * done / total:.1f}" if total else None
                log.info(
                    "fetching",
                    dataset=name,
                    done=format_bytes(done),
                    of=format_bytes(total),
                    percent=percent,
                    rate=f"{rate}/s",
                )
                told_at, told_bytes = time.monotonic(), done

        yield tell


class Bar:
    """A bar on the terminal."""

    @contextlib.contextmanager
    def dataset(self, name: str) -> Iterator[Progress]:
        """Give a function that moves the bar."""
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
    """Return a bar when stderr is a terminal, lines elsewhere."""
    return Bar() if sys.stderr.isatty() else Lines()
