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
from runner.notebook.document import DEEPEST, nested_too_deeply
from runner.notebook.outputs import Bound, Results, Stream, redacted_output

if TYPE_CHECKING:
    from runner.notebook.kernel import Kernel
    from runner.notebook.status import CellEvent
    from runner.redact import RedactedStream, Redactor

PIECE_CHARS = 1_000_000
COLLECT_CHARS = 32_000_000
_OUTPUTS = {"stream", "display_data", "execute_result", "error"}
_FLAT = {"stream", "status", "execute_input", "error", "clear_output"}
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
        self._bounds: dict[str, Bound] = {}
        self._results = Results(log_name)
        self._redacted: dict[str, RedactedStream] = {}
        self._printed_chars = 0
        self.clear_before_next_output: bool = False
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
        """Add an output: streams bounded, everything redacted."""
        if self.output_hook_stack[msg["parent_header"].get("msg_id")]:  # a widget takes it
            return super().output(outs, self._without_secrets(msg), display_id, cell_index)
        if self.clear_before_next_output and msg["msg_type"] in _OUTPUTS:
            self.clear_before_next_output = False
            outs.clear()
            self.clear_display_id_mapping(cell_index)
            self._forget()
        if msg["msg_type"] == "stream":
            return self._print(outs, msg["content"]["name"], msg["content"]["text"])
        msg = self._without_secrets(msg)
        if msg["msg_type"] == "error":
            self.observer.printed("stderr", "\n".join(msg["content"].get("traceback", [])) + "\n")
        return super().output(outs, self._bounded(msg, self._results), display_id, cell_index)

    def clear_output(self, outs: list[NotebookNode], msg: dict[str, Any], cell_index: int) -> None:
        """Take the outputs away, at once or when the next one comes; what they took of the bounds is free again."""
        super().clear_output(outs, msg, cell_index)
        if not outs:
            self._forget()

    def _forget(self) -> None:
        self._streams.clear()
        self._bounds.clear()
        self._results = Results(self.log_name)

    def _update_display_id(self, display_id: str, msg: dict[str, Any]) -> None:
        if display_id not in self._display_id_map:
            return
        msg = self._without_secrets(msg)
        # What replaces another output takes nothing of what new ones may have.
        bounded = self._bounded(msg, Results(self.log_name), logged=msg["msg_type"] == "update_display_data")
        super()._update_display_id(display_id, bounded)

    def _without_secrets(self, msg: dict[str, Any]) -> dict[str, Any]:
        return {**msg, "content": redacted_output(msg["content"], self.redactor)} if self.redactor else msg

    def _bounded(self, msg: dict[str, Any], results: Results, *, logged: bool = True) -> dict[str, Any]:
        """Return the message of a result or an error with texts that are not too long; the log gets them whole."""
        content = dict(msg["content"])
        data = content.get("data")
        if isinstance(data, dict) and isinstance(data.get("text/plain"), str):
            text = data["text/plain"]
            content["data"] = {**data, "text/plain": results.text(text)}
            if logged and content["data"]["text/plain"] is not text:
                self.observer.printed("stdout", f"{text}\n")
        if msg["msg_type"] == "error":
            content["evalue"] = results.text(str(content.get("evalue", "")))
            content["traceback"] = [results.text(str(line)) for line in content.get("traceback") or []]
        return {**msg, "content": content}

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
        stream = self._streams[id(node)] = Stream(node, self.log_name, self._bounds.setdefault(name, Bound()))
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
        dropped = self._results.dropped_chars + sum(stream.dropped_chars for stream in self._streams.values())
        self._forget()
        self._redacted.clear()
        self.clear_before_next_output = False  # a cell clears its own outputs only
        return dropped
