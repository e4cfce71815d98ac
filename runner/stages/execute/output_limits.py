# SPDX-License-Identifier: Apache-2.0
"""Limits for the outputs of a cell.

A cell that prints 200 MB must fill neither memory nor the notebook: the head and tail of each
stream are kept around a marker; the full text goes to the log. The limit applies to a cell's
stream even if displays divide it into several outputs. Texts of results and errors share another
limit. Of progress bars that redraw their line with a carriage return, only the last state is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.core.units import format_bytes

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.redact import Redactor

HEAD_CHARS = 1_000_000
TAIL_CHARS = 200_000
LINE_CHARS = 65_536
SHORT_CHARS = 2_000
"""Results up to this length are never truncated."""
_KINDS = {
    *(f"text/{kind}" for kind in ("plain", "html", "markdown", "latex")),
    *(f"image/{kind}" for kind in ("png", "jpeg", "gif", "webp", "bmp", "svg+xml")),
    *(f"application/{kind}" for kind in ("json", "javascript", "pdf", "vnd.jupyter.widget-view+json")),
}
_FIGURES = ("image/", "application/vnd.plotly.v", "application/vnd.vega")


class Bound:
    """The shared limit for all outputs of a stream in a cell."""

    def __init__(self) -> None:
        self._room = HEAD_CHARS
        self._ends: deque[Stream] = deque()
        """Streams with text after the head, oldest first."""
        self._end_chars = 0
        self._newest: Stream | None = None

    def follow(self, stream: Stream) -> None:
        """Add a stream; the previous one gets no more text."""
        if self._newest is not None:
            self._newest.finish()
        self._newest = stream

    def head(self, text: str) -> str:
        """Return the part of a text that still fits the head."""
        head = text[: self._room]
        self._room -= len(head)
        return head

    def grow(self, stream: Stream, count: int) -> None:
        """Count text of a stream after the head."""
        if not count:
            return
        if not self._ends or self._ends[-1] is not stream:
            self._ends.append(stream)
        self._end_chars += count
        # Trim only at twice the length: trimming for every message would copy it every time.
        if self._end_chars > 2 * TAIL_CHARS:
            self.trim()

    def trim(self) -> None:
        """Keep only the tail of the text after the head."""
        while self._end_chars > TAIL_CHARS:
            dropped, empty = self._ends[0].drop(self._end_chars - TAIL_CHARS)
            self._end_chars -= dropped
            if empty:
                self._ends.popleft()


class Stream:
    """The bounded text of a stream output.

    Parameters
    ----------
    node
        The output in the notebook; `settle` writes the bounded text into it.
    log_name
        Name of the log with the full text, for the marker.
    bound
        Shared by the outputs of this stream in the cell.
    """

    def __init__(self, node: NotebookNode, log_name: str, bound: Bound) -> None:
        self.node = node
        self._log_name = log_name
        self._bound = bound
        self._head: list[str] = []
        self._tail = ""
        self._line = ""
        """The unfinished last line, still open for a carriage return."""
        self.dropped_chars = 0
        """Number of characters that only the log has."""
        bound.follow(self)

    def write(self, text: str) -> None:
        """Append text, interpreting carriage returns as a terminal does."""
        done, newline, self._line = (self._line + text).rpartition("\n")
        done += newline
        if "\r" in done:
            done = "\n".join(_last_state(line.removesuffix("\r")) for line in done.split("\n"))
        if "\r" in self._line:
            self._line = _last_state(self._line)
        if len(self._line) > LINE_CHARS:
            done, self._line = done + self._line, ""
        self._store(done)

    def _store(self, text: str) -> None:
        head = self._bound.head(text)
        if head:
            self._head.append(head)
        rest = text[len(head) :]
        self._tail += rest
        self._bound.grow(self, len(rest))

    def drop(self, count: int) -> tuple[int, bool]:
        """Drop characters from the start of the tail; return their number, and True if the tail is empty."""
        count = min(count, len(self._tail))
        self._tail = self._tail[count:]
        self.dropped_chars += count
        return count, not self._tail

    def finish(self) -> None:
        """Store the unfinished line after the last text."""
        line, self._line = self._line.removesuffix("\r"), ""
        self._store(line)

    def settle(self) -> None:
        """Write the bounded text to the notebook's output."""
        self._bound.trim()
        marker = _marker(self.dropped_chars, "stream", self._log_name) if self.dropped_chars else ""
        self._head = ["".join(self._head)]
        self.node["text"] = self._head[0] + marker + self._tail + self._line.removesuffix("\r")


class Results:
    """Limit for the texts of results and errors of a cell.

    Images and HTML are kept in full, as they cannot be truncated.
    """

    def __init__(self, log_name: str) -> None:
        self._log_name = log_name
        self._room = HEAD_CHARS
        self.dropped_chars = 0
        """Number of characters that only the log has."""

    def text(self, text: str) -> str:
        """Return a text, or its head and tail around a marker if it exceeds the limit."""
        head = max(self._room, SHORT_CHARS)
        tail = head * TAIL_CHARS // HEAD_CHARS
        self._room -= min(self._room, len(text))
        dropped = len(text) - head - tail
        if dropped <= 0:
            return text
        self.dropped_chars += dropped
        return text[:head] + _marker(dropped, "result", self._log_name) + text[-tail:]


def _marker(dropped: int, what: str, log_name: str) -> str:
    return f"\n… {format_bytes(dropped)} more of this {what}: see {log_name} …\n"


def redacted_output(output: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Return an output, or the content of its message, with secrets masked.

    Names of nbformat are kept; keys within JSON data are masked as other texts are.
    """
    found = dict(output)
    for key in ("text", "ename", "evalue", "traceback"):
        if key in found:
            found[key] = redactor.tree(found[key])
    if isinstance(found.get("data"), Mapping):
        found["data"] = {
            kind if kind in _KINDS else redactor.text(str(kind)): redactor.tree(value, keys=True)
            for kind, value in found["data"].items()
        }
    if "metadata" in found:
        found["metadata"] = redactor.tree(found["metadata"], keys=True)
    return found


def _last_state(line: str) -> str:
    """Return the last state of a redrawn line; a final carriage return is kept for the next state."""
    if "\r" not in line:
        return line
    states = [state for state in line.split("\r") if state]
    return (states[-1] if states else "") + ("\r" if line.endswith("\r") else "")


def output_bytes(output: Any) -> int:
    """Return the size of an output as text."""
    if output["output_type"] == "stream":
        return len(output.get("text", ""))
    if output["output_type"] == "error":
        return sum(map(len, output.get("traceback", [])))
    return sum(len(value) if isinstance(value, str) else len(str(value)) for value in output.get("data", {}).values())


def is_figure(output: Any) -> bool:
    """Return True if an output shows an image or a figure that the page renders as one."""
    return any(kind.startswith(_FIGURES) for kind in output.get("data", {}))
