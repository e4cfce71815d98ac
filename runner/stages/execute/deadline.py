# SPDX-License-Identifier: Apache-2.0
"""Deadlines of a notebook and its cells, which request a stop of the run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from runner.core.stop import StopKind
from runner.core.units import format_seconds

if TYPE_CHECKING:
    from runner.core.stop import Stopper


@dataclass(slots=True)
class Deadline:
    """A deadline that can be paused, as while a notebook is held; ``seconds`` None: no limit."""

    stopper: Stopper
    kind: StopKind
    seconds: float | None
    _left: float | None = None
    _timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start or resume the countdown."""
        if self.seconds:
            what = "cell" if self.kind is StopKind.CELL_TIMEOUT else "notebook"
            text = f"the {what} did not end within {format_seconds(self.seconds)}"
            left = self.seconds if self._left is None else self._left
            self._timer = asyncio.get_running_loop().call_later(left, self.stopper.request, self.kind, text)

    def stop(self) -> None:
        """Pause the countdown."""
        if self._timer is not None:
            self._left = max(0.0, self._timer.when() - asyncio.get_running_loop().time())
            self._timer.cancel()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
