# SPDX-License-Identifier: Apache-2.0
"""Updates `index.html` of the output folder during `run-all`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import files, log
from runner.core.errors import RecordError
from runner.outputs import claim, sums
from runner.report import overview

if TYPE_CHECKING:
    from runner.plan.model import Plan

_LEAST_SECONDS, _MOST_SECONDS = 2.0, 15.0
_SHARE = 0.02
"""Fraction of the time spent on the page: with hundreds of notebooks it is written less often."""


class LivePage:
    """The live page of one run.

    Parameters
    ----------
    chosen
        Notebooks of the plan that are to run.
    """

    def __init__(self, folder: Path, plan: Plan, run_id: str, chosen: Sequence[str]) -> None:
        self._folder = folder
        self._due = 0.0
        self._works = True
        names = [notebook.name for notebook in plan.notebooks]
        try:
            overview.announce(folder, run_id=run_id, plan=plan.name, names=names, chosen=chosen)
        except RecordError as error:  # each notebook reports it as well
            self._complain(error)
        self._wanted = "index" not in map(files.folded, names)  # a notebook of that name has the same page

    @property
    def seconds(self) -> float:
        """Seconds until the next update."""
        return max(0.0, self._due - time.monotonic())

    def show(self) -> None:
        """Write the page if an update is due."""
        if self.seconds > 0:
            return
        began = time.monotonic()
        if self._wanted:
            self._write()
        now = time.monotonic()
        first = not self._due  # its time is mostly imports
        self._due = now + min(_MOST_SECONDS, max(_LEAST_SECONDS, 0.0 if first else (now - began) / _SHARE))

    def _write(self) -> None:
        from runner.plan.job import INDEX_FILE
        from runner.report.html.render import live_page

        try:
            found = overview.look(self._folder, watch=lambda paths, _seconds: claim.alive(paths, 0.0))
            sums.forget(self._folder / sums.REPORT, [f"../{INDEX_FILE}"])
            files.write(self._folder / INDEX_FILE, live_page(found))
        except Exception as error:  # noqa: BLE001  (the page must not cost the run)
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        if self._works:
            log.warning("index", reason=f"{type(error).__name__}: {error}")
        self._works = False
