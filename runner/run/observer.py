# SPDX-License-Identifier: Apache-2.0
"""Writes cell events to the log, the heartbeat and the samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.core import log
from runner.core.units import format_bytes, format_seconds
from runner.stages.execute.cell_records import title_of
from runner.stages.execute.client import Observer

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.machine.sampler import Sampler
    from runner.run.context import RunContext
    from runner.stages.execute.executed_notebook import Saver
    from runner.stages.execute.outcome import CellEvent


class Reporter(Observer):
    """Observer that updates the log, the heartbeat and the samples.

    Parameters
    ----------
    run
        The run.
    notebook
        Its notebook, whose code cells are counted.
    """

    def __init__(self, run: RunContext, notebook: NotebookNode, *, sampler: Sampler, saver: Saver) -> None:
        self._run = run
        self._name = run.job.name
        self._count = sum(cell.cell_type == "code" for cell in notebook.cells)
        self._sampler = sampler
        self._saver = saver

    def cell_started(self, cell: Any, position: int) -> None:
        """Show the running cell."""
        index = cell.metadata.runner.get("index")
        title = title_of(cell.source)
        self._run.claim.update(
            cell_index=index,
            cell_count=self._count,
            cell_started_at=log.utc_now(),
            title=title and log.masked(title),
        )
        self._run.trace.start_cell(f"cell {_place(index)}", title=title, cell_count=self._count)
        log.info("cell-start", nb=self._name, cell=_place(index), of=self._count, title=title)
        self._run.notify_repairs(progress=[log.masked(f"cell {_place(index)} of {self._count}: {title or ''}")])

    def cell_ended(self, cell: Any, position: int, event: CellEvent) -> None:
        """Show the cell's outcome and the run's memory."""
        self._run.trace.end_cell("" if event.outcome == "ok" else event.error_name or event.outcome)
        self._sampler.sample_now()
        latest = self._sampler.latest
        gpu = latest.gpu_total_bytes if latest else None
        log.info(
            "cell-end",
            nb=self._name,
            cell=_place(cell.metadata.runner.get("index")),
            of=self._count,
            outcome=event.outcome,
            wall=format_seconds(event.ended_monotonic - event.started_monotonic),
            gpu=format_bytes(gpu) if gpu is not None else None,
            host=format_bytes(latest.host_bytes) if latest and latest.host_bytes is not None else None,
            error=event.error_name,
        )

    def printed(self, name: str, text: str) -> None:
        """Write printed text to the log file."""
        self._run.runlog.printed(text)

    def changed(self) -> None:
        """Mark the notebook as changed."""
        self._saver.dirty = True


def _place(index: int | None) -> int | str:
    return "inserted" if index is None else index + 1
