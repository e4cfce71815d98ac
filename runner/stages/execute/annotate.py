# SPDX-License-Identifier: Apache-2.0
"""Makes the executed notebook say what happened: metadata per cell, banners where it went wrong."""

from __future__ import annotations

import html
import re
from typing import Any

from nbformat.v4 import new_markdown_cell

from runner.core.records import CellStatus, Status
from runner.stages.execute.outcome import CodeCell, Facts, NotebookResult

# papermill's words for a cell; its own metadata is wrong whenever a kernel dies.
_PAPERMILL = {
    CellStatus.SUCCEEDED: "completed",
    CellStatus.FAILED: "failed",
    CellStatus.INTERRUPTED: "failed",
    CellStatus.NOT_RUN: "pending",
    CellStatus.DROPPED: "pending",
}


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
