# SPDX-License-Identifier: Apache-2.0
"""papermill's client, and so nbclient's, with outputs that are bounded and redacted as they arrive.

A dead kernel is noticed within a tenth of a second, and an `Observer` is called with what happens.
Outputs go to the cell that they belong to, also when its tasks and threads go on while later cells
run. An error that a cell shows is noted wherever it is captured.
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
"""nbclient's own 4 s raise on a 50 MB image; a kernel that is alive is worth waiting for."""


class Observer:
    """What happens, as it happens. Subclass what you want to hear; every method is quick."""

    def cell_started(self, cell: NotebookNode, position: int) -> None:
        """Handle that a cell was sent to the kernel."""

    def cell_ended(self, cell: NotebookNode, position: int, event: CellEvent) -> None:
        """Handle the end of a cell, of whatever kind."""

    def printed(self, name: str, text: str) -> None:
        """Handle what a cell wrote to stdout or stderr; the text is redacted and whole."""

    def changed(self) -> None:
        """Handle that the notebook has something that is not saved yet."""


class NotebookClient(PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client with bounded, redacted outputs."""

    def __init__(self, nb_man: Any, kernel: Kernel, *, observer: Observer, redactor: Redactor, log_name: str) -> None:
        super().__init__(nb_man, km=kernel.manager, iopub_timeout=IOPUB_SECONDS, raise_on_iopub_timeout=True)
        self.kernel = kernel
        self.observer = observer
        self.redactor = redactor
        self.log_name = log_name
        self.reply: dict[str, Any] | None = None
        """Content of the kernel's reply to the current cell, once it was seen."""
        self.widgets_to_tell: dict[str, CapturedOutput] = {}
        self.widget_registry = {"@jupyter-widgets/output": {"OutputModel": CapturedOutput}}
        self._displays: Displays = {}
        self._collectors: dict[int, Collector] = {}
        """Of the current cell, and of earlier ones whose outputs still come; by position."""
        self._requests: dict[str, int] = {}
        """Positions of the cells by the message that asked to run them."""
        self._shown: dict[int, list[Shown]] = {}
        self._late: list[tuple[int, Shown]] = []
        self._current: int | None = None
        self.on_cell_executed = self._take_reply

    def begin_cell(self, position: int) -> None:
        """Forget the reply to the cell before."""
        self._current, self.reply = position, None

    def _take_reply(self, *, execute_reply: dict[str, Any], **_: Any) -> None:
        self.reply = execute_reply["content"]

    def shown(self, position: int) -> Sequence[Shown]:
        """Return the errors that a cell showed: the first, and the first SystemExit."""
        return self._shown.get(position, ())

    def forget(self, start: int) -> None:
        """Forget what cells from a position on have shown; they are to run again."""
        self._requests = {request: at for request, at in self._requests.items() if at < start}
        self._shown = {at: shown for at, shown in self._shown.items() if at < start}
        self._late = [(at, error) for at, error in self._late if at < start]
        for position in [at for at in self._collectors if at >= start]:
            self._collectors.pop(position).finish()

    def late_errors(self) -> Iterator[tuple[int, Shown]]:
        """Return, once, the errors of cells that had ended when they showed them."""
        while self._late:
            yield self._late.pop(0)

    async def _async_poll_kernel_alive(self) -> None:
        """Notice the kernel's death at once, but let its last messages arrive."""
        while self.kernel.alive:  # noqa: ASYNC110  (a process has no event to wait for)
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)
        if self.task_poll_for_reply is not None:
            self.task_poll_for_reply.cancel()

    async def _async_poll_output_msg(self, parent_msg_id: str, cell: NotebookNode, cell_index: int) -> None:
        """Take messages until the kernel has done with a cell, those of earlier cells among them."""
        self._requests[parent_msg_id] = cell_index
        while await self._take_message() != cell_index:
            pass

    async def take_late_outputs(self) -> None:
        """Take what comes after the last cell: a kernel waits with its end until its outputs are taken."""
        while True:
            await self._take_message()

    async def _take_message(self) -> int | None:
        """Take the next output of the kernel; return the position of the cell that it ends, if it ends one."""
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
        """Handle one message of the kernel as nbclient does, and tell the observer."""
        if msg["msg_type"] not in _FLAT and nested_too_deeply(msg["content"]):
            log.warning("message-ignored", type=msg["msg_type"], reason=f"more than {DEEPEST} levels of nesting")
            return None
        if self.redactor and msg["msg_type"].startswith("comm"):
            msg = {**msg, "content": self.redactor.tree(msg["content"])}
        try:
            output = super(PapermillNotebookClient, self).process_message(msg, cell, cell_index)
        except CellExecutionComplete:
            raise
        except Exception as error:  # noqa: BLE001  (nbclient trusts what widgets send; a notebook must not end by that)
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
        """Take the outputs of a cell or widget away, at once or when the next one comes."""
        widgets = self.output_hook_stack[msg["parent_header"].get("msg_id")]
        if widgets:
            widgets[-1].clear_output(outs, msg, cell_index)
        else:
            self._collector(cell_index, outs).clear(wait=bool(msg["content"].get("wait")))

    def remove_output_hook(self, msg_id: str, hook: Any) -> None:
        """Let a widget capture no more; those of several tasks need not end in the order of a stack."""
        if hook in self.output_hook_stack[msg_id]:
            self.output_hook_stack[msg_id].remove(hook)

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        self.new_collector([]).update(display_id, msg)

    def new_collector(self, outputs: list[NotebookNode]) -> Collector:
        """Return a collector of outputs into a list."""
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
        """Finish a cell's streams and return how many characters stand in the log only."""
        collector = self._collectors.pop(position, None)
        dropped = collector.finish() if collector is not None else 0
        self._current = None
        for widget in self.widgets_to_tell.values():
            widget.tell_kernel()
        self.widgets_to_tell.clear()
        return dropped

    def end(self) -> Iterator[tuple[int | None, int]]:
        """Finish what came late and what widgets captured; yield its cell, and how much the log alone has."""
        for position in list(self._collectors):
            yield position, self._collectors.pop(position).finish()
        for widget in self.comm_objects.values():
            if isinstance(widget, CapturedOutput):
                yield None, widget.collector.finish()
