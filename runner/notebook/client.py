# SPDX-License-Identifier: Apache-2.0
"""papermill's client, and so nbclient's, with outputs that are bounded and redacted as they arrive.

A dead kernel is noticed within a tenth of a second, and what happens is told to an `Observer`.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

from nbclient.exceptions import CellExecutionComplete
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient

from runner import log
from runner.notebook.outputs import Stream

if TYPE_CHECKING:
    from runner.notebook.kernel import Kernel
    from runner.notebook.status import CellEvent
    from runner.redact import RedactedStream, Redactor

PIECE_CHARS = 1_000_000
COLLECT_CHARS = 32_000_000
IOPUB_SECONDS = 120
"""nbclient's own 4 s raise on a 50 MB image; a kernel that is alive is worth waiting for."""


class Observer:
    """What happens, as it happens. Subclass what you want to hear; every method is quick."""

    def cell_started(self, cell: NotebookNode, position: int) -> None:
        """Hear that a cell was sent to the kernel."""

    def cell_ended(self, cell: NotebookNode, position: int, event: CellEvent) -> None:
        """Hear that a cell came to its end, whatever kind."""

    def printed(self, name: str, text: str) -> None:
        """Hear what a cell wrote to stdout or stderr; the text is redacted and whole."""

    def changed(self) -> None:
        """Hear that the notebook has something that is not saved yet."""


class NotebookClient(PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client with bounded, redacted outputs."""

    def __init__(self, nb_man: Any, kernel: Kernel, *, observer: Observer, redactor: Redactor, log_name: str) -> None:
        super().__init__(nb_man, km=kernel.manager, iopub_timeout=IOPUB_SECONDS, raise_on_iopub_timeout=True)
        self.kernel = kernel
        self.observer = observer
        self.redactor = redactor
        self.log_name = log_name
        self._streams: dict[int, Stream] = {}
        """Streams of the current cell by the identity of their output."""
        self._redacted: dict[str, RedactedStream] = {}
        self._printed_chars = 0
        self.asked_to_exit = False
        """The current cell called ``quit()``: the kernel lives on, but the notebook wants to end."""
        self.on_cell_executed = self._look_for_exit

    def _look_for_exit(self, *, execute_reply: dict[str, Any], **_: Any) -> None:
        payload = execute_reply["content"].get("payload") or []
        self.asked_to_exit = any(item.get("source") == "ask_exit" for item in payload)

    async def _async_poll_kernel_alive(self) -> None:
        """Notice the kernel's death at once, but let its last messages arrive."""
        while self.kernel.alive:  # noqa: ASYNC110  (a process has no event to wait for)
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)
        if self.task_poll_for_reply is not None:
            self.task_poll_for_reply.cancel()

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Handle one message of the kernel as nbclient does, and tell the observer."""
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
        """Add an output: streams bounded, everything redacted."""
        hooked = bool(self.output_hook_stack[msg["parent_header"].get("msg_id")])
        if msg["msg_type"] == "stream" and not hooked and not self.clear_before_next_output:
            return self._print(outs, msg["content"]["name"], msg["content"]["text"])
        if self.redactor:
            msg = {**msg, "content": self.redactor.tree(msg["content"])}
        if msg["msg_type"] == "error":
            self.observer.printed("stderr", "\n".join(msg["content"].get("traceback", [])) + "\n")
        return super().output(outs, msg, display_id, cell_index)

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        if self.redactor:
            msg["content"] = self.redactor.tree(msg["content"])
        super()._update_display_id(display_id, msg)

    def _print(self, outs: list[NotebookNode], name: str, text: str) -> NotebookNode | None:
        """Add printed text in pieces: a kernel may send tens of megabytes in one message."""
        redacted = self._redacted.setdefault(name, self.redactor.stream())
        node = None
        for start in range(0, len(text), PIECE_CHARS):
            piece = redacted.feed(text[start : start + PIECE_CHARS])
            if piece:
                self.observer.printed(name, piece)
                stream = self._stream(outs, name)
                stream.write(piece)
                node = stream.node
        self._printed_chars += len(text)
        if self._printed_chars >= COLLECT_CHARS:
            # Messages lie in cycles of asyncio's futures, and a few megabytes in few objects do not
            # make the garbage collector run by itself.
            self._printed_chars = 0
            gc.collect()
        return node

    def _stream(self, outs: list[NotebookNode], name: str) -> Stream:
        """Return the stream to append to: one of the streams at the end of the outputs, or a new one."""
        for node in reversed(outs):
            if node.output_type != "stream":
                break
            if node.name == name and id(node) in self._streams:
                return self._streams[id(node)]
        node = NotebookNode(output_type="stream", name=name, text="")
        outs.append(node)
        stream = self._streams[id(node)] = Stream(node, self.log_name)
        return stream

    def settle(self) -> None:
        """Write the bounded text of the current cell's streams into the notebook."""
        for stream in self._streams.values():
            stream.settle()

    def end_cell(self, cell: NotebookNode) -> int:
        """Finish the cell's streams and return how many characters stand in the log only."""
        for name, redacted in self._redacted.items():
            rest = redacted.flush()
            if rest:
                self.observer.printed(name, rest)
                self._stream(cell.outputs, name).write(rest)
        self.settle()
        dropped = sum(stream.dropped_chars for stream in self._streams.values())
        self._streams.clear()
        self._redacted.clear()
        return dropped
