# SPDX-License-Identifier: Apache-2.0
"""Save the executed notebook regularly and mark its cells with their status.

Saves take at most 5 % of the wall time, and a killed runner loses at most the larger of 5 s and 20
times the duration of a save: the interval between the starts of two saves is 20 times the duration
of the last one, and at least `SHORTEST_SECONDS`.

The metadata of each cell has its status, and banners mark where the notebook failed.
"""

from __future__ import annotations

import asyncio
import html
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbformat.v4 import new_markdown_cell

from runner.core import files
from runner.core.records import CellStatus, Status
from runner.stages.execute.outcome import CodeCell, Facts, NotebookResult
from runner.stages.execute.output_limits import redacted_output

if TYPE_CHECKING:
    from runner.core.redact import Redactor

SHORTEST_SECONDS = 4.0
# papermill's names of a cell's status; the metadata that it writes is wrong if a kernel dies.
_PAPERMILL = {
    CellStatus.SUCCEEDED: "completed",
    CellStatus.FAILED: "failed",
    CellStatus.INTERRUPTED: "failed",
    CellStatus.NOT_RUN: "pending",
    CellStatus.DROPPED: "pending",
}


def notebook_bytes(notebook: Any, redactor: Redactor | None = None) -> bytes:
    """Return a notebook as JSON, with sources and streams split into lines for readable diffs.

    Unlike `nbformat.write` this neither copies nor validates the outputs, which is slow for images
    of megabytes.
    """
    if redactor:
        notebook = redacted(notebook, redactor)
    document = {**notebook, "cells": [_cell(cell) for cell in notebook["cells"]]}
    # A lone surrogate has no UTF-8; Python and JSON escape it in the same way.
    return (json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode(errors="backslashreplace")


def _cell(cell: Any) -> dict[str, Any]:
    split = {**cell, "source": cell["source"].splitlines(keepends=True)}
    if "outputs" in cell:
        split["outputs"] = [
            {**output, "text": output["text"].splitlines(keepends=True)} if "text" in output else output
            for output in cell["outputs"]
        ]
    return split


def redacted(notebook: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Return a copy of a notebook with masked secrets that is still valid.

    Secrets may occur in sources, in the state of widgets, and in the keys of JSON outputs. Names and
    types of nbformat are kept, even if a secret equals one.
    """
    return {
        **notebook,
        "metadata": redactor.tree(notebook.get("metadata", {}), keys=True),
        "cells": [_redacted_cell(cell, redactor) for cell in notebook["cells"]],
    }


def _redacted_cell(cell: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    found = {
        **cell,
        "source": redactor.tree(cell["source"]),
        "metadata": redactor.tree(cell.get("metadata", {}), keys=True),
    }
    if "attachments" in cell:
        found["attachments"] = redactor.tree(cell["attachments"], keys=True)
    if "outputs" in cell:
        found["outputs"] = [redacted_output(output, redactor) for output in cell["outputs"]]
    return found


_State = tuple[int, int, int, int]


def _state(path: Path) -> _State | None:
    """Return device, inode, size and time of a file, which change if it is replaced or written."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Saver:
    """Saves a notebook when it has changed and enough time has passed.

    Parameters
    ----------
    path
        File to write.
    content
        Returns the notebook's current bytes; called on the event loop, so that they are consistent.
    within_cell_seconds
        Interval of saves while a cell runs; 0: only save after cells.
    """

    def __init__(self, path: Path, content: Callable[[], bytes], within_cell_seconds: float = SHORTEST_SECONDS) -> None:
        self._within_cell_seconds = within_cell_seconds or math.inf
        self._path = path
        self._content = content
        self._last_start = float("-inf")
        self._last_cost = 0.0
        self._begun = 0
        self._written = 0
        self._storage = threading.Lock()
        self.dirty = False
        self.cell_ended = True
        """True if a cell has ended since the last save."""
        self.saves = 0
        self.seconds = 0.0
        self.on_saved: Callable[[], None] = lambda: None
        """Called after each successful save, before the next one can start."""
        self._left: _State | None = None

    @property
    def intact(self) -> bool:
        """True if the file is unchanged since the last save; a notebook may delete, move or rewrite it."""
        return self._left is not None and _state(self._path) == self._left

    @property
    def due(self) -> bool:
        """True if there are unsaved changes and the interval has passed."""
        shortest = SHORTEST_SECONDS if self.cell_ended else max(SHORTEST_SECONDS, self._within_cell_seconds)
        pause = max(shortest, 20 * self._last_cost)
        return self.dirty and time.monotonic() - self._last_start >= pause

    async def save_if_due(self) -> None:
        """Save in a thread, so that slow storage does not delay the kernel's messages."""
        if self.due:
            with self._save() as content:
                await asyncio.to_thread(self._write, self._begun, content)

    def save(self) -> None:
        """Save now.

        Raises
        ------
        RecordError
            The file cannot be written; the old content and the unsaved changes are kept.
        """
        with self._save() as content:
            self._write(self._begun, content)

    def _write(self, number: int, content: bytes) -> None:
        """Write unless a later save was written: the thread of a cancelled save keeps running."""
        with self._storage:
            if number > self._written:
                files.write(self._path, content)
                self._left = _state(self._path)
                self._written = number
                self.on_saved()

    @contextmanager
    def _save(self) -> Iterator[bytes]:
        self._begun += 1
        self._last_start = time.monotonic()
        self.dirty = self.cell_ended = False
        try:
            yield self._content()
        except BaseException:
            self.dirty = True
            raise
        self._last_cost = time.monotonic() - self._last_start
        self.saves += 1
        self.seconds += self._last_cost


def code_cells(notebook: Any) -> tuple[CodeCell, ...]:
    """Return the code cells of a prepared notebook for `outcome.derive`."""
    cells = []
    position = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        mark = cell.metadata.get("runner", {})
        index = None if mark.get("inserted") else mark.get("index", position)
        position += 0 if mark.get("inserted") else 1
        cells.append(CodeCell(cell.id, index, blank=not cell.source.strip(), dropped=bool(mark.get("dropped"))))
    return tuple(cells)


def mark(notebook: Any, result: NotebookResult, facts: Facts) -> None:
    """Write the derived status to the metadata of cells and notebook."""
    for cell in notebook.cells:
        if cell.cell_type != "code" or cell.id not in result.cells:
            continue
        status = result.cells[cell.id]
        cell.metadata.setdefault("runner", {})["status"] = status.value
        event = facts.cells.get(cell.id)
        papermill = cell.metadata.setdefault("papermill", {})
        papermill["status"] = _PAPERMILL[status]
        papermill["exception"] = status in {CellStatus.FAILED, CellStatus.INTERRUPTED} if event else None
        if event is not None:
            papermill["duration"] = round(event.ended_monotonic - event.started_monotonic, 6)
    wrong = result.status is not Status.SUCCEEDED
    notebook.metadata.setdefault("papermill", {})["exception"] = True if wrong else None
    notebook.metadata["runner"] = {
        "status": result.status.value,
        "reason": result.reason,
        "exit_code": result.exit_code,
    }


def add_banners(notebook: Any, result: NotebookResult, hint: str | None = None) -> None:
    """Add banners: on top of a failed notebook, above the cell that failed, and above repaired cells."""
    remove_banners(notebook)
    for place, cell in reversed(list(enumerate(notebook.cells))):
        if "repaired" in cell.metadata.get("runner", {}):
            notebook.cells.insert(place, _banner(_repaired(cell.metadata.runner.repaired["old_source"])))
    if result.status is Status.SUCCEEDED:
        return
    text = f"**{result.status.value}** — {_plain(result.reason)}"
    if hint:
        text += f"\n\nHint: {_plain(hint)}"
    place = next((i for i, cell in enumerate(notebook.cells) if cell.id == result.cell_id), None)
    if place is not None:
        here = f'<a id="failure"></a>\n\n**The notebook ended here: {result.status.value}**'
        notebook.cells.insert(place, _banner(here))
        text += "\n\n[Go to the cell](#failure)"
    notebook.cells.insert(0, _banner(text))


def _repaired(old_source: str) -> str:
    """Return the banner's text for a repaired cell, with a fence longer than any in the source."""
    fence = "`" * (2 + max(map(len, re.findall("`+", old_source)), default=1))
    return f"**This cell was repaired while the notebook ran. Its original source:**\n\n{fence}\n{old_source}\n{fence}"


def remove_banners(notebook: Any) -> None:
    """Remove the banners of runner and papermill."""
    notebook.cells = [
        cell
        for cell in notebook.cells
        if not cell.metadata.get("runner", {}).get("banner")
        and "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]


def _banner(text: str) -> Any:
    return new_markdown_cell(text, metadata={"runner": {"banner": True}, "tags": ["runner-banner"]})


def _plain(text: str) -> str:
    """Return text escaped for Markdown."""
    escaped = html.escape(text, quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]#|$" else c for c in escaped)
