# SPDX-License-Identifier: Apache-2.0
"""papermill's client, a subclass of nbclient's, which bounds and redacts outputs as they arrive.

A dead kernel is detected within a tenth of a second, and an `Observer` is notified of events.
Outputs go to the cell that they belong to, even if its tasks and threads continue while later cells
run. An error that a cell shows is recorded even if a widget captures it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nbclient.exceptions import CellExecutionComplete
from papermill.clientwrap import PapermillNotebookClient

from runner.core import log
from runner.core.notebook_document import DEEPEST, nested_too_deeply
from runner.stages.execute.collector import CapturedOutput, Collector, Displays
from runner.stages.execute.outcome import Shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.redact import Redactor
    from runner.stages.execute.kernel import Kernel
    from runner.stages.execute.outcome import CellEvent

_FLAT = {"stream", "status", "execute_input", "error", "clear_output"}
IOPUB_SECONDS = 120
"""nbclient's default of 4 s is too short for a 50 MB image; a live kernel is worth waiting for."""


class Observer:
    """Callbacks for events, to override in subclasses; every method must be quick."""

    def cell_started(self, cell: NotebookNode, position: int) -> None:
        """Handle the start of a cell."""

    def cell_ended(self, cell: NotebookNode, position: int, event: CellEvent) -> None:
        """Handle the end of a cell, with any outcome."""

    def printed(self, name: str, text: str) -> None:
        """Handle a cell's output on stdout or stderr, redacted but not truncated."""

    def changed(self) -> None:
        """Handle a change of the notebook that is not saved yet."""


class NotebookClient(PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client with bounded, redacted outputs."""

    def __init__(self, nb_man: Any, kernel: Kernel, *, observer: Observer, redactor: Redactor, log_name: str) -> None:
        super().__init__(nb_man, km=kernel.manager, iopub_timeout=IOPUB_SECONDS, raise_on_iopub_timeout=True)
        self.kernel = kernel
        self.observer = observer
        self.redactor = redactor
        self.log_name = log_name
        self.reply: dict[str, Any] | None = None
        """Content of the kernel's reply to the current cell, None before it arrives."""
        self.widgets_to_sync: dict[str, CapturedOutput] = {}
        self.widget_registry = {"@jupyter-widgets/output": {"OutputModel": CapturedOutput}}
        self._displays: Displays = {}
        self._collectors: dict[int, Collector] = {}
        """Collectors of the current cell and of earlier ones with late outputs, by position."""
        self._requests: dict[str, int] = {}
        """Positions of the cells by the id of their execute request."""
        self._shown: dict[int, list[Shown]] = {}
        self._late: list[tuple[int, Shown]] = []
        self._current: int | None = None
        self.on_cell_executed = self._take_reply

    def begin_cell(self, position: int) -> None:
        """Start a cell: discard the reply to the previous one."""
        self._current, self.reply = position, None

    def _take_reply(self, *, execute_reply: dict[str, Any], **_: Any) -> None:
        self.reply = execute_reply["content"]

    def shown(self, position: int) -> Sequence[Shown]:
        """Return the errors that a cell showed: the first one and the first SystemExit."""
        return self._shown.get(position, ())

    def forget(self, start: int) -> None:
        """Discard the outputs of the cells from a position on, before they run again."""
        self._requests = {request: at for request, at in self._requests.items() if at < start}
        self._shown = {at: shown for at, shown in self._shown.items() if at < start}
        self._late = [(at, error) for at, error in self._late if at < start]
        for position in [at for at in self._collectors if at >= start]:
            self._collectors.pop(position).finish()

    def late_errors(self) -> Iterator[tuple[int, Shown]]:
        """Yield, once, the errors that cells showed after their end."""
        while self._late:
            yield self._late.pop(0)

    async def _async_poll_kernel_alive(self) -> None:
        """Detect the kernel's death at once, but let its last messages arrive."""
        while self.kernel.alive:  # noqa: ASYNC110  (a process has no event to wait for)
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)
        if self.task_poll_for_reply is not None:
            self.task_poll_for_reply.cancel()

    async def _async_poll_output_msg(self, parent_msg_id: str, cell: NotebookNode, cell_index: int) -> None:
        """Process messages, including those of earlier cells, until the kernel is done with a cell."""
        self._requests[parent_msg_id] = cell_index
        while await self._take_message() != cell_index:
            pass

    async def take_late_outputs(self) -> None:
        """Process messages after the last cell: a kernel does not end before its outputs are read."""
        while True:
            await self._take_message()

    async def _take_message(self) -> int | None:
        """Process the next message of the kernel; if it ends a cell, return the cell's position."""
        assert self.kc is not None
        msg = await self.kc.iopub_channel.get_msg(timeout=None)
        position = self._requests.get(msg["parent_header"].get("msg_id"))
        if position is not None:
            try:
                self.process_message(msg, self.nb.cells[position], position)
            except CellExecutionComplete:
                return position
        return None

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Handle a message of the kernel as nbclient does, and notify the observer."""
        if msg["msg_type"] not in _FLAT and nested_too_deeply(msg["content"]):
            log.warning("message-ignored", type=msg["msg_type"], reason=f"more than {DEEPEST} levels of nesting")
            return None
        if self.redactor and msg["msg_type"].startswith("comm"):
            msg = {**msg, "content": self.redactor.tree(msg["content"])}
        try:
            output = super(PapermillNotebookClient, self).process_message(msg, cell, cell_index)
        except CellExecutionComplete:
            raise
        except Exception as error:  # noqa: BLE001  (nbclient trusts messages of widgets; they must not end a notebook)
            log.warning("message-ignored", type=msg["msg_type"], reason=repr(error))
            return None
        if msg["msg_type"] != "status":
            self.observer.changed()
        return output

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        """Add an output to its cell, or to the widget that captures it."""
        collector = self._collector(cell_index, outs)
        if msg["msg_type"] == "error":
            self._note_error(collector.error(msg["content"]), cell_index)
        widgets = self.output_hook_stack[msg["parent_header"].get("msg_id")]
        if widgets:
            widgets[-1].output(outs, msg, display_id, cell_index)
            return None
        return collector.take(msg, display_id)

    def clear_output(self, outs: list[NotebookNode], msg: dict[str, Any], cell_index: int) -> None:
        """Clear the outputs of a cell or widget, at once or when the next one arrives."""
        widgets = self.output_hook_stack[msg["parent_header"].get("msg_id")]
        if widgets:
            widgets[-1].clear_output(outs, msg, cell_index)
        else:
            self._collector(cell_index, outs).clear(wait=bool(msg["content"].get("wait")))

    def remove_output_hook(self, msg_id: str, hook: Any) -> None:
        """Stop a widget's capture; captures of several tasks may end in any order."""
        if hook in self.output_hook_stack[msg_id]:
            self.output_hook_stack[msg_id].remove(hook)

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        self.new_collector([]).update(display_id, msg)

    def new_collector(self, outputs: list[NotebookNode]) -> Collector:
        """Return a collector that adds outputs to a list."""
        return Collector(
            outputs,
            redactor=self.redactor,
            log_name=self.log_name,
            printed=self.observer.printed,
            displays=self._displays,
        )

    def _collector(self, position: int, outputs: list[NotebookNode]) -> Collector:
        if position not in self._collectors:
            self._collectors[position] = self.new_collector(outputs)
        return self._collectors[position]

    def _note_error(self, content: dict[str, Any], position: int) -> None:
        error = Shown.of(content, monotonic=time.monotonic())
        noted = self._shown.setdefault(position, [])
        if not noted or (error.ends_notebook and not any(each.ends_notebook for each in noted)):
            noted.append(error)
            if position != self._current:
                self._late.append((position, error))

    def settle(self) -> None:
        """Write the bounded text of streams into the notebook."""
        widgets = (each.collector for each in self.comm_objects.values() if isinstance(each, CapturedOutput))
        for collector in (*self._collectors.values(), *widgets):
            collector.settle()

    def end_cell(self, position: int) -> int:
        """Finish a cell's streams and return the number of characters that only the log has."""
        collector = self._collectors.pop(position, None)
        dropped = collector.finish() if collector is not None else 0
        self._current = None
        for widget in self.widgets_to_sync.values():
            widget.sync_to_kernel()
        self.widgets_to_sync.clear()
        return dropped

    def end(self) -> Iterator[tuple[int | None, int]]:
        """Finish late and captured outputs; yield their cell and the number of characters that only the log has."""
        for position in list(self._collectors):
            yield position, self._collectors.pop(position).finish()
        for widget in self.comm_objects.values():
            if isinstance(widget, CapturedOutput):
                yield None, widget.collector.finish()
