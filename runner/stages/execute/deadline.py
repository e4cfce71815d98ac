# SPDX-License-Identifier: Apache-2.0
"""Deadlines of a notebook and its cells, which request a stop of the run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core.stop import StopKind
from runner.core.units import format_seconds

if TYPE_CHECKING:
    from runner.core.stop import Stopper


@dataclass(slots=True)
class NotebookDeadline:
    """The notebook's deadline, paused while the notebook is held."""

    stopper: Stopper
    seconds: float | None
    _left: float | None = None
    _timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start or resume the countdown."""
        if self.seconds:
            left = self.seconds if self._left is None else self._left
            self._timer = _timer(self.stopper, StopKind.NOTEBOOK_TIMEOUT, "notebook", self.seconds, left)

    def stop(self) -> None:
        """Pause the countdown."""
        if self._timer is not None:
            self._left = max(0.0, self._timer.when() - asyncio.get_running_loop().time())
            self._timer.cancel()


@contextlib.contextmanager
def cell_deadline(stopper: Stopper, seconds: float | None) -> Iterator[None]:
    """Request a stop if the block takes longer than a cell may; None: no limit."""
    timer = _timer(stopper, StopKind.CELL_TIMEOUT, "cell", seconds, seconds) if seconds else None
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def _timer(stopper: Stopper, kind: StopKind, what: str, seconds: float, left: float) -> asyncio.TimerHandle:
    text = f"the {what} did not end within {format_seconds(seconds)}"
    return asyncio.get_running_loop().call_later(left, stopper.request, kind, text)
