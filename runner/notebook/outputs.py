# SPDX-License-Identifier: Apache-2.0
"""Outputs of a cell, kept within bounds.

A cell that prints 200 MB must neither fill our memory nor the notebook: of each stream the
first and the last part are kept, with a marker between them; the whole text goes to the log.
Progress bars that redraw their line with a carriage return leave their last state only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.units import format_bytes

if TYPE_CHECKING:
    from nbformat import NotebookNode

HEAD_CHARS = 1_000_000
TAIL_CHARS = 200_000
LINE_CHARS = 65_536


class Stream:
    """The text of one stream output, bounded.

    Parameters
    ----------
    node
        The output in the notebook; `settle` writes the bounded text into it.
    log_name
        Where the whole text is, for the marker.
    """

    def __init__(self, node: NotebookNode, log_name: str) -> None:
        self.node = node
        self._log_name = log_name
        self._head: list[str] = []
        self._head_chars = 0
        self._tail = ""
        self._dropped = 0
        self._line = ""
        """The unfinished last line, still open for a carriage return."""

    def write(self, text: str) -> None:
        """Append text as a terminal would show it."""
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
        room = HEAD_CHARS - self._head_chars
        if room > 0:
            self._head.append(text[:room])
            self._head_chars += min(room, len(text))
            text = text[room:]
        self._tail += text
        # Trimmed at twice its length only: cutting at every message would copy it every time.
        if len(self._tail) > 2 * TAIL_CHARS:
            self._trim()

    def _trim(self) -> None:
        excess = max(0, len(self._tail) - TAIL_CHARS)
        self._dropped += excess
        self._tail = self._tail[excess:]

    def settle(self) -> None:
        """Put the bounded text into the notebook's output."""
        self._trim()
        marker = ""
        if self._dropped:
            marker = f"\n… {format_bytes(self._dropped)} more of this stream: see {self._log_name} …\n"
        self._head = ["".join(self._head)]
        self.node["text"] = self._head[0] + marker + self._tail + self._line.removesuffix("\r")

    @property
    def dropped_chars(self) -> int:
        """How many characters stand in the log only."""
        return self._dropped


def _last_state(line: str) -> str:
    """Return what is left of a line that was redrawn; a final carriage return stays open for the next state."""
    if "\r" not in line:
        return line
    states = [state for state in line.split("\r") if state]
    return (states[-1] if states else "") + ("\r" if line.endswith("\r") else "")


def output_bytes(output: Any) -> int:
    """Return the size of one output of a cell as text."""
    if output["output_type"] == "stream":
        return len(output.get("text", ""))
    if output["output_type"] == "error":
        return sum(map(len, output.get("traceback", [])))
    return sum(len(value) if isinstance(value, str) else len(str(value)) for value in output.get("data", {}).values())


def is_figure(output: Any) -> bool:
    """Tell whether an output shows an image."""
    return any(kind.startswith("image/") for kind in output.get("data", {}))
