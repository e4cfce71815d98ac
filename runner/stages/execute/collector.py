# SPDX-License-Identifier: Apache-2.0
"""Collect a kernel's outputs for a cell, or for an Output widget that captures them.

Both have the same limits and redaction, and write the same text to the log. Captured outputs are
sent back to the kernel, as a frontend does, but only between cells: a message sent while a reply is
awaited on the same socket consumes the wake-up of that reply (ZeroMQ is edge-triggered, and
jupyter_client bypasses the asyncio socket), and the cell seems to run until its deadline. A busy
kernel would not read it earlier, and would block us once its queue is full.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode
from nbformat.v4 import output_from_msg

from runner.stages.execute.output_limits import Bound, Results, Stream, redacted_output

if TYPE_CHECKING:
    from runner.core.redact import RedactedStream, Redactor

PIECE_CHARS = 1_000_000
COLLECT_CHARS = 32_000_000

Displays = dict[str, list[NotebookNode]]
"""Outputs by display id, in all cells; an update changes all of them."""


class Collector:
    """Adds outputs to a list: bounded, redacted, and logged.

    Parameters
    ----------
    outputs
        The list, which is changed in place.
    printed
        Called with the name of a stream and text for the log.
    displays
        Shared by all collectors of a notebook.
    """

    def __init__(
        self,
        outputs: list[NotebookNode],
        *,
        redactor: Redactor,
        log_name: str,
        printed: Callable[[str, str], None],
        displays: Displays,
    ) -> None:
        self.outputs = outputs
        self._redactor = redactor
        self._log_name = log_name
        self._printed = printed
        self._displays = displays
        self._streams: dict[int, Stream] = {}
        """Streams by the `id` of their output."""
        self._bounds: dict[str, Bound] = {}
        self._results = Results(log_name)
        self._redacted: dict[str, RedactedStream] = {}
        self._printed_chars = 0
        self._clear_first = False

    def take(self, msg: dict[str, Any], display_id: str | None) -> NotebookNode | None:
        """Add the output of a message."""
        if self._clear_first:
            self.clear()
        if msg["msg_type"] == "stream":
            return self._print(msg["content"]["name"], msg["content"]["text"])
        msg = self._without_secrets(msg)
        if msg["msg_type"] == "error":
            self._printed("stderr", "\n".join(msg["content"].get("traceback", [])) + "\n")
        node: NotebookNode = output_from_msg(self._bounded(msg, self._results))
        self.outputs.append(node)
        if display_id:
            self._displays.setdefault(display_id, []).append(node)
        return node

    def update(self, display_id: str, msg: dict[str, Any]) -> None:
        """Replace the content of all outputs of a display."""
        nodes = self._displays.get(display_id)
        if not nodes:
            return
        logged = msg["msg_type"] == "update_display_data"
        shown = {**msg, "header": {**msg["header"], "msg_type": "display_data"}}
        # A replacement does not use up the limit for new outputs.
        new = output_from_msg(self._bounded(self._without_secrets(shown), Results(self._log_name), logged=logged))
        for node in nodes:
            node["data"], node["metadata"] = new["data"], new["metadata"]

    def clear(self, *, wait: bool = False) -> None:
        """Clear the outputs and their use of the limits, at once or when the next output arrives."""
        self._clear_first = wait
        if wait:
            return
        gone = set(map(id, self.outputs))
        self.outputs.clear()
        for display_id, nodes in list(self._displays.items()):
            nodes[:] = [node for node in nodes if id(node) not in gone]
            if not nodes:
                del self._displays[display_id]
        self._streams.clear()
        self._bounds.clear()
        self._results = Results(self._log_name)

    def error(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return name, message and traceback of an error, redacted and bounded."""
        msg = {"msg_type": "error", "content": content}
        bounded: dict[str, Any] = self._bounded(self._without_secrets(msg), Results(self._log_name))["content"]
        return bounded

    def _without_secrets(self, msg: dict[str, Any]) -> dict[str, Any]:
        return {**msg, "content": redacted_output(msg["content"], self._redactor)} if self._redactor else msg

    def _bounded(self, msg: dict[str, Any], results: Results, *, logged: bool = True) -> dict[str, Any]:
        """Return the message of a result or error with truncated texts; the log gets them in full."""
        content = dict(msg["content"])
        data = content.get("data")
        if isinstance(data, dict) and isinstance(data.get("text/plain"), str):
            text = data["text/plain"]
            content["data"] = {**data, "text/plain": results.text(text)}
            if logged and content["data"]["text/plain"] is not text:
                self._printed("stdout", f"{text}\n")
        if msg["msg_type"] == "error":
            content["evalue"] = results.text(str(content.get("evalue", "")))
            content["traceback"] = [results.text(str(line)) for line in content.get("traceback") or []]
        return {**msg, "content": content}

    def _print(self, name: str, text: str) -> NotebookNode | None:
        """Add printed text in pieces: a kernel may send tens of megabytes in one message."""
        redacted = self._redacted.setdefault(name, self._redactor.stream())
        node = None
        for start in range(0, len(text), PIECE_CHARS):
            piece = redacted.feed(text[start : start + PIECE_CHARS])
            if piece:
                node = self._write(name, piece)
        self._printed_chars += len(text)
        if self._printed_chars >= COLLECT_CHARS:
            # Messages are in reference cycles of asyncio's futures, and megabytes in a few objects do
            # not trigger the garbage collector.
            self._printed_chars = 0
            gc.collect()
        return node

    def _write(self, name: str, text: str) -> NotebookNode:
        self._printed(name, text)
        stream = self._stream(name)
        stream.write(text)
        return stream.node

    def _stream(self, name: str) -> Stream:
        """Return the stream to append to: one of the streams at the end of the outputs, or a new one."""
        for node in reversed(self.outputs):
            if node.output_type != "stream":
                break
            if node.name == name and id(node) in self._streams:
                return self._streams[id(node)]
        node = NotebookNode(output_type="stream", name=name, text="")
        self.outputs.append(node)
        stream = self._streams[id(node)] = Stream(node, self._log_name, self._bounds.setdefault(name, Bound()))
        return stream

    def settle(self) -> None:
        """Write the bounded text of the streams into the notebook."""
        for stream in self._streams.values():
            stream.settle()

    def flush(self) -> None:
        """Write text that was held back because it may be the start of a secret."""
        for name, redacted in self._redacted.items():
            rest = redacted.flush()
            if rest:
                self._write(name, rest)
        self.settle()

    def finish(self) -> int:
        """Finish the streams and return the number of characters that only the log has."""
        self.flush()
        return self._results.dropped_chars + sum(stream.dropped_chars for stream in self._streams.values())


class CapturedOutput(OutputWidget):  # type: ignore[misc]
    """An Output widget as in a frontend; ``executor`` is a `NotebookClient`."""

    def __init__(self, comm_id: str, state: dict[str, Any], kernel_client: Any, executor: Any) -> None:
        super().__init__(comm_id, {**state, "outputs": []}, kernel_client, executor)
        self.collector: Collector = executor.new_collector(self.outputs)
        self._set_outputs(state)

    def output(self, outs: Any, msg: dict[str, Any], display_id: str | None, cell_index: int) -> None:
        """Capture an output."""
        self.collector.take(msg, display_id)
        self._changed(msg)

    def clear_output(self, outs: Any, msg: dict[str, Any], cell_index: int) -> None:
        """Clear the outputs, at once or when the next one arrives."""
        self.collector.clear(wait=bool(msg["content"].get("wait")))
        self._changed(msg)

    def set_state(self, state: dict[str, Any]) -> None:
        """Apply the state sent by the kernel."""
        super().set_state(state)
        if "outputs" in state:
            self._set_outputs(state)

    def _set_outputs(self, state: dict[str, Any]) -> None:
        given = state.get("outputs")
        self.collector.clear()
        self.outputs += [NotebookNode(each) for each in given or () if isinstance(each, dict) and "output_type" in each]
        if self.comm_id in self.executor.widget_state:
            self.executor.widget_state[self.comm_id]["outputs"] = self.outputs

    def _changed(self, msg: dict[str, Any]) -> None:
        self.parent_header = msg["parent_header"]
        self.executor.widgets_to_sync[self.comm_id] = self

    def sync_to_kernel(self) -> None:
        """Send the outputs to the kernel's copy of the widget, for the next cells to read."""
        self.collector.flush()
        self.sync_state()
