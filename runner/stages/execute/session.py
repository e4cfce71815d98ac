# SPDX-License-Identifier: Apache-2.0
"""Run the cells of a prepared notebook in a kernel and collect the facts.

Every external end (deadline, signal, memory guard) is requested through the `Stopper`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from queue import Empty
from typing import TYPE_CHECKING, Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat.v4 import new_output

from runner.core import log
from runner.core.endings import failed_line
from runner.core.errors import RecordError
from runner.core.log import utc_now
from runner.core.notebook_document import execution_settings, seconds_of
from runner.core.records import CellRun
from runner.core.redact import Redactor
from runner.core.stop import Stop, StopKind, Stopper
from runner.core.surrogates import without_colours
from runner.core.units import format_seconds
from runner.stages.execute.client import NotebookClient, Observer
from runner.stages.execute.deadline import Deadline
from runner.stages.execute.executed_notebook import code_cells
from runner.stages.execute.kernel import answer, clean_up
from runner.stages.execute.outcome import CellEvent, Facts, Shown, judge
from runner.stages.execute.output_limits import redacted_output

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.stages.execute.kernel import Kernel

INTERRUPT_GRACE_SECONDS = 2.0
DASK_REPORT_SECONDS = 20.0
"""Time for a kernel to end if it renders the report of its Dask cluster."""
LAST_OUTPUTS_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Deadlines of a run; None: no limit."""

    notebook_seconds: float | None = None
    cell_seconds: float | None = None
    start_seconds: float = 120.0
    allow_errors: bool = False
    """Continue after a cell that raised."""


@dataclass(slots=True)
class Session:
    """An execution of the cells, which returns facts.

    Parameters
    ----------
    nb_man
        papermill's manager; holds the notebook and saves it.
    kernel
        The kernel, started or not.
    stopper
        Source of stop requests, to which deadlines are added.
    """

    nb_man: Any
    kernel: Kernel
    stopper: Stopper
    limits: Limits = field(default_factory=Limits)
    observer: Observer = field(default_factory=Observer)
    redactor: Redactor = field(default_factory=Redactor)
    log_name: str = "the log"
    cleanup: bool = False
    on_kernel: Callable[[int], None] | None = None
    save: Callable[[], Awaitable[None]] | None = None
    hold: Callable[[Session, int], Awaitable[int | None]] | None = None
    """Called with the position of a cell that raised; returns the position to continue from, or None to end."""
    oom_kills: Callable[[], int] = lambda: 0
    events: dict[str, CellEvent] = field(default_factory=dict)
    runs: dict[str, tuple[CellRun, ...]] = field(default_factory=dict)
    client: NotebookClient | None = None
    _cell_done: asyncio.Event = field(default_factory=asyncio.Event)
    _ending: asyncio.Task[None] | None = None

    async def run(self) -> Facts:
        """Run the notebook; the kernel is always ended afterwards."""
        loop = asyncio.get_running_loop()

        def listener(stop: Stop) -> None:
            loop.call_soon_threadsafe(self._begin_end, stop)

        self.stopper.listen(listener)
        deadline = Deadline(self.stopper, StopKind.NOTEBOOK_TIMEOUT, self.limits.notebook_seconds)
        deadline.start()
        saver = asyncio.create_task(self._save_regularly()) if self.save else None
        reader: asyncio.Task[None] | None = None
        problem, dead, returncode = None, False, None
        try:
            problem = await self._start()
            if problem is None:
                await self._cells(deadline)
            dead = not self.kernel.alive
            returncode = self.kernel.returncode if dead else None
            if self.client is not None and self.client.kc is not None:
                reader = asyncio.create_task(self.client.take_late_outputs())
            if self.client and problem is None and not dead and self.stopper.stop is None and self.cleanup:
                await clean_up(self.client.kc)
        finally:
            deadline.stop()
            if saver:
                saver.cancel()
            await self._end_kernel()
            if reader:
                with contextlib.suppress(Exception):  # reads messages still in transit after the kernel's end
                    await asyncio.wait_for(reader, LAST_OUTPUTS_SECONDS)
                self._take_late_errors()
            self._close()
        return Facts(
            cells=self.events,
            runs=self.runs,
            stop=self.stopper.stop,
            kernel_returncode=returncode,
            kernel_dead=dead and problem is None,
            start_problem=problem,
            oom_kills=self.oom_kills(),
        )

    async def _start(self) -> str | None:
        """Start the kernel and wait for its answer; return the reason of a failure."""
        try:
            if self.kernel.pid is None:
                await self.kernel.start()
        except Exception as error:  # noqa: BLE001  (a provisioner or a kernel spec may raise anything)
            return f"{type(error).__name__}: {error}"
        if self.on_kernel is not None and self.kernel.pid is not None:
            self.on_kernel(self.kernel.pid)
        self.client = NotebookClient(
            self.nb_man, self.kernel, observer=self.observer, redactor=self.redactor, log_name=self.log_name
        )
        self.nb_man.settle = self.client.settle
        self.client.reset_execution_trackers()
        kc = self.client.kc = self.kernel.client()
        return await self._answer(kc)

    async def _answer(self, kc: Any) -> str | None:
        """Wait for the kernel's answer; return the reason if there is none."""
        deadline = time.monotonic() + self.limits.start_seconds
        asked: set[str] = set()
        while self.stopper.stop is None:
            if not self.kernel.alive:
                return f"its process ended with exit status {self.kernel.returncode} while it started"
            if time.monotonic() > deadline:
                return f"no answer within {format_seconds(self.limits.start_seconds)}"
            reply = await answer(kc, asked, min(2.0, max(0.001, deadline - time.monotonic())))
            if reply is not None:
                self.nb_man.nb.metadata["language_info"] = reply["content"].get("language_info", {})
                return None
        return None

    @property
    def _settings(self) -> dict[str, Any]:
        """The author's settings for all cells of the notebook."""
        return execution_settings(self.nb_man.nb.metadata)

    @property
    def _cell_seconds(self) -> float | None:
        given = self.limits.cell_seconds
        return seconds_of(self._settings.get("timeout")) if given is None else given

    async def _cells(self, deadline: Deadline) -> None:
        """Run the cells; after a failure, continue from the cell that a repair specifies."""
        start: int | None = 0
        while start is not None and await self._cells_from(start):
            start = None
            if self.hold is not None and self.stopper.stop is None and self.kernel.alive:
                deadline.stop()
                start = await self._held(self.hold)
                deadline.start()

    async def _cells_from(self, start: int) -> bool:
        """Run the cells from a position on; return True if one raised and may be repaired."""
        allow_errors = self.limits.allow_errors or self._settings.get("allow_errors", False)
        for position, cell in enumerate(self.nb_man.nb.cells):
            mark = cell.metadata.get("runner", {})
            if position < start or cell.cell_type != "code" or not cell.source.strip() or mark.get("dropped"):
                continue
            if self.stopper.stop is not None or not self.kernel.alive:
                return False
            event = await self._cell(cell, position)
            failed = self._take_late_errors() or event.outcome == "error"
            if event.outcome == "unfinished" or event.error_name == "SystemExit":
                return False
            if failed and not allow_errors:
                return True
        return False

    async def _held(self, hold: Callable[[Session, int], Awaitable[int | None]]) -> int | None:
        """Wait for a repair while the kernel idles; clear the outputs from its position on and return the position."""
        assert self.client is not None
        cells = self.nb_man.nb.cells
        raised = (at for at, cell in enumerate(cells) if (e := self.events.get(cell.id)) and e.outcome == "error")
        reader = asyncio.create_task(self.client.take_late_outputs())  # its threads may still run
        try:
            start = await hold(self, next(raised))
        finally:
            reader.cancel()
        if start is not None:
            self.client.forget(start)
            for cell in self.nb_man.nb.cells[start:]:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
                    self.events.pop(cell.id, None)
        return start

    async def _cell(self, cell: NotebookNode, position: int) -> CellEvent:
        """Run a cell with its deadline and return its event."""
        assert self.client is not None
        started_at, started = utc_now(), time.monotonic()
        self.nb_man.cell_start(cell, position)
        self.observer.cell_started(cell, position)
        self._cell_done.clear()
        ran = CellRun(source_sha256=hashlib.sha256(cell.source.encode()).hexdigest(), started_at=started_at)
        self.runs[cell.id] = (*self.runs.get(cell.id, ()), ran)
        self.client.begin_cell(position)
        own = seconds_of(execution_settings(cell.metadata).get("timeout"))
        with Deadline(self.stopper, StopKind.CELL_TIMEOUT, self._cell_seconds if own is None else own):
            problem = await self._attempt(cell, position)
        self._cell_done.set()
        outcome, error = judge(
            self.client.shown(position),
            self.client.reply,
            expected=_may_raise(cell),
            interrupted=self.stopper.stop is not None,
        )
        self._warn_if_truncated(position, self.client.end_cell(position))
        event = CellEvent(
            id=cell.id,
            started_at=started_at,
            started_monotonic=started,
            ended_monotonic=time.monotonic(),
            outcome=outcome,
            error_message=problem,
        )
        if error is not None:
            event = self._with_error(event, error, cell)
        self.events[cell.id] = event
        if outcome != "ok":
            self.nb_man.cell_exception(cell, cell_index=position)
        self.nb_man.cell_complete(cell, cell_index=position)
        self.observer.cell_ended(cell, position, event)
        self.observer.changed()
        return event

    async def _attempt(self, cell: NotebookNode, position: int) -> str | None:
        """Send the cell to the kernel; return the reason if no reply arrived. `judge` evaluates the reply."""
        assert self.client is not None
        try:
            with contextlib.suppress(CellExecutionError):
                await self.client.async_execute_cell(cell, position)
        except (DeadKernelError, CellTimeoutError, Empty, RuntimeError) as error:
            if self.kernel.alive and self.stopper.stop is None:
                log.warning("kernel-silent", cell=self._place(position), reason=str(error))
                self.kernel.signal_group(signal.SIGKILL)
                await self.kernel.ended(5)
            return self.redactor.text(str(error))
        return None

    def _with_error(self, event: CellEvent, error: Shown, cell: NotebookNode) -> CellEvent:
        """Return the event with the error.

        The error is added to the outputs of a failed cell even if it was captured, because the page,
        papermill and other readers of the notebook expect it there.
        """
        shown = list(error.traceback) or [f"{error.name or 'Error'}: {error.message}"]  # papermill prints only this
        content = {"ename": error.name, "evalue": error.message, "traceback": shown}
        if event.outcome == "error" and not (
            error.ends_notebook or any(output.output_type == "error" for output in cell.outputs)
        ):
            cell.outputs.append(new_output("error", **redacted_output(content, self.redactor)))
        return dataclasses.replace(
            event,
            error_name=error.name,
            error_message=self.redactor.text(error.message),
            traceback=tuple(self.redactor.tree(list(error.traceback))),
            failed_line=failed_line(without_colours("\n".join(error.traceback)), cell.source),
        )

    def _take_late_errors(self) -> bool:
        """Fail cells whose tasks or threads showed an error after their end; return True if any did."""
        assert self.client is not None
        failed = False
        for position, error in self.client.late_errors():
            cell, stop = self.nb_man.nb.cells[position], self.stopper.stop
            event = self.events.get(cell.id)
            outcome, shown = judge([error], {"status": "ok"}, expected=_may_raise(cell))
            if stop is not None and error.monotonic >= stop.monotonic:
                continue  # caused by the interrupt
            if event is not None and event.outcome == "ok" and outcome == "error" and shown is not None:
                self.events[cell.id] = self._with_error(dataclasses.replace(event, outcome=outcome), shown, cell)
                failed = True
        return failed

    def _place(self, position: int) -> int | str:
        """Return the number of a code cell in the source, from 1, as in logs and reports."""
        cell_id = self.nb_man.nb.cells[position].id
        index = next(cell.index for cell in code_cells(self.nb_man.nb) if cell.id == cell_id)
        return "inserted" if index is None else index + 1

    def _warn_if_truncated(self, position: int | None, characters: int) -> None:
        if characters:
            place = "widget" if position is None else self._place(position)
            log.warning("output-truncated", cell=place, characters=characters, whole_text_in=self.log_name)

    def _begin_end(self, stop: Stop) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end_cell(stop))

    async def _end_cell(self, stop: Stop) -> None:
        """Interrupt the running cell, and kill the kernel if it does not react."""
        log.warning("stopping", kind=stop.kind.value, reason=stop.detail)
        if stop.kind is not StopKind.MEMORY_GUARD and self.client is not None:
            await self.kernel.interrupt()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._cell_done.wait(), INTERRUPT_GRACE_SECONDS)
                return
            log.warning("interrupt-ignored", action="killing the kernel")
        self.kernel.signal_group(signal.SIGKILL)

    async def _save_regularly(self) -> None:
        assert self.save is not None
        while True:
            await asyncio.sleep(0.2)
            if self.client is not None:
                try:
                    await self.save()
                except RecordError as error:  # the disk may have space again for the next save
                    log.warning("save", reason=str(error))

    async def _end_kernel(self) -> None:
        # ipykernel sometimes hangs on shutdown. Workers and GPUs need time to end cleanly; without
        # them there is nothing to wait for.
        patient = self.stopper.stop is None and (self.cleanup or self.kernel.has_children)
        seconds = 3.0 if patient else 1.0
        if self.stopper.stop is None and (self.kernel.folder / "dask.open").exists():
            seconds = DASK_REPORT_SECONDS
        await self.kernel.shut_down(grace_seconds=seconds)

    def _close(self) -> None:
        if self.client is not None:
            for position, characters in self.client.end():
                self._warn_if_truncated(position, characters)
            with contextlib.suppress(Exception):
                self.client.set_widgets_metadata()
        if self.client is not None and self.client.kc is not None:
            with contextlib.suppress(Exception):  # a reader may be waiting on them
                self.client.kc.stop_channels()
            self.client.kc = None


def _may_raise(cell: NotebookNode) -> bool:
    allowed: bool = execution_settings(cell.metadata).get("allow_errors", False)
    return allowed or "raises-exception" in cell.metadata.get("tags", [])
