# SPDX-License-Identifier: Apache-2.0
"""The executed notebook: saved whole, often and cheaply enough, and made to say what happened.

A save costs at most 5 % of the wall time, and a killed runner loses at most the larger of 5 s
and 20 times one save: the time from the start of one save to the start of the next is
20 times what the last one cost, and never less than `SHORTEST_SECONDS`.

Each cell carries how it ended in its metadata, and banners show where the notebook went wrong.
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
# papermill's words for a cell; its own metadata is wrong whenever a kernel dies.
_PAPERMILL = {
    CellStatus.SUCCEEDED: "completed",
    CellStatus.FAILED: "failed",
    CellStatus.INTERRUPTED: "failed",
    CellStatus.NOT_RUN: "pending",
    CellStatus.DROPPED: "pending",
}


def notebook_bytes(notebook: Any, redactor: Redactor | None = None) -> bytes:
    """Return a notebook as JSON, sources and streams split into lines so that diffs stay readable.

    Unlike `nbformat.write` this neither copies nor validates the outputs, which is where the time
    goes with images of megabytes.
    """
    if redactor:
        notebook = redacted(notebook, redactor)
    document = {**notebook, "cells": [_cell(cell) for cell in notebook["cells"]]}
    # Half a character has no UTF-8; Python's way to escape it is JSON's as well.
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
    """Return a notebook without secrets: a copy whose texts are masked, and that is as valid as it was.

    Secrets may stand in sources, in the state of widgets, and in the keys of what a cell shows as JSON.
    The names and types of nbformat stay, whatever a secret looks like.
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


_Look = tuple[int, int, int, int]


def _look(path: Path) -> _Look | None:
    """Return what changes when something else is put in the place of a file, or it is written to."""
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
        Where to.
    content
        Gives the notebook's bytes as it is now; called on the event loop, so that it is consistent.
    within_cell_seconds
        How often to save while a cell runs; 0 is only when one has ended.
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
        """Whether a cell has ended since the last save."""
        self.saves = 0
        self.seconds = 0.0
        self.on_saved: Callable[[], None] = lambda: None
        """Called after each save that reached the disk, before the next one can begin."""
        self._left: _Look | None = None

    @property
    def intact(self) -> bool:
        """Whether the file is as the last save left it; a notebook may delete, move or rewrite its own record."""
        return self._left is not None and _look(self._path) == self._left

    @property
    def due(self) -> bool:
        """Whether there is something to save and it is time."""
        shortest = SHORTEST_SECONDS if self.cell_ended else max(SHORTEST_SECONDS, self._within_cell_seconds)
        pause = max(shortest, 20 * self._last_cost)
        return self.dirty and time.monotonic() - self._last_start >= pause

    async def save_if_due(self) -> None:
        """Save off the event loop, so that slow storage does not hold up the kernel's messages."""
        if self.due:
            with self._save() as content:
                await asyncio.to_thread(self._write, self._begun, content)

    def save(self) -> None:
        """Save now.

        Raises
        ------
        RecordError
            The file cannot be written; it is as it was, and there is still something to save.
        """
        with self._save() as content:
            self._write(self._begun, content)

    def _write(self, number: int, content: bytes) -> None:
        """Write unless a later save has been written: a thread lives on when its save is cancelled."""
        with self._storage:
            if number > self._written:
                files.write(self._path, content)
                self._left = _look(self._path)
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
    """Return the code cells of a prepared notebook as `status.derive` wants them."""
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
    """Repair the metadata of cells and notebook so that they tell the derived status."""
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
    """Put a banner on top of a notebook that went wrong, one above the cell where it did, and above repaired ones."""
    remove_banners(notebook)
    for place, cell in reversed(list(enumerate(notebook.cells))):
        if "repaired" in cell.metadata.get("runner", {}):
            notebook.cells.insert(place, _banner(_repaired(cell.metadata.runner.repaired["old_source"])))
    if result.status is Status.SUCCEEDED:
        return
    text = f"**{result.status.value}** — {_plain(result.reason)}"
    if hint:
        text += f"\n\nWhat may help: {_plain(hint)}"
    place = next((i for i, cell in enumerate(notebook.cells) if cell.id == result.cell_id), None)
    if place is not None:
        here = f'<a id="failure"></a>\n\n**The notebook ended here: {result.status.value}**'
        notebook.cells.insert(place, _banner(here))
        text += "\n\n[Go to the cell](#failure)"
    notebook.cells.insert(0, _banner(text))


def _repaired(old_source: str) -> str:
    """Return what stands above a repaired cell; the fence is longer than any in the source."""
    fence = "`" * (2 + max(map(len, re.findall("`+", old_source)), default=1))
    return f"**This cell was repaired while the notebook ran. Before, it was:**\n\n{fence}\n{old_source}\n{fence}"


def remove_banners(notebook: Any) -> None:
    """Take out banners, ours and papermill's, of an earlier run."""
    notebook.cells = [
        cell
        for cell in notebook.cells
        if not cell.metadata.get("runner", {}).get("banner")
        and "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]


def _banner(text: str) -> Any:
    return new_markdown_cell(text, metadata={"runner": {"banner": True}, "tags": ["runner-banner"]})


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    escaped = html.escape(text, quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]#|$" else c for c in escaped)
