# SPDX-License-Identifier: Apache-2.0
"""Progress of a run without a record, read from its last saved notebook."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runner.core import files
from runner.core.records import Cell, CellStatus

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """Progress of a run in its saved notebook."""

    run_id: str | None
    done: int
    """Number of completed code cells; execution counts do not show it, as they are set when a cell starts."""
    cells: tuple[Cell, ...] = ()
    """Code cells that had started; one without a duration was running at the save."""


def read(path: Path) -> Saved | None:
    """Return the progress in a saved notebook, None if it is not a notebook."""
    try:
        document = json.loads(files.read(path))
        code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
        done = sum(1 for cell in code if (cell["metadata"].get("papermill") or {}).get("end_time"))
        run_id = (document["metadata"].get("runner") or {}).get("run_id")
        return Saved(run_id=run_id, done=done, cells=tuple(filter(None, map(_cell, range(len(code)), code))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _cell(place: int, cell: dict[str, Any]) -> Cell | None:
    """Return a cell's times from papermill's metadata; its index includes dropped cells."""
    marks = cell["metadata"].get("papermill") or {}
    index = (cell["metadata"].get("runner") or {}).get("index", place)
    began, ended = marks.get("start_time"), marks.get("end_time")
    if not began or not isinstance(index, int):
        return None
    wall = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds() if ended else None
    status = CellStatus.INTERRUPTED if wall is None else CellStatus.SUCCEEDED
    if wall is not None and wall < 0:
        wall = None  # the clock stepped back within the cell
    source = cell.get("source", "")
    lines = "".join(source).splitlines()
    return Cell(
        index=index,
        id=str(cell.get("id", "")),
        status=status,
        started_at=str(began),
        wall_seconds=wall,
        title=next((line.strip() for line in lines if line.strip() and not line.startswith("#")), None),
    )
