# SPDX-License-Identifier: Apache-2.0
"""Build the records of cells and failure from facts and samples.

A clone without git-lfs has pointers, three lines of text, instead of data. Readers then report a wrong format, so the
files that a failed cell names are checked for pointers.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core import endings
from runner.core.records import Cell, CellStatus, Failure, Status
from runner.core.stop import StopKind
from runner.core.surrogates import without_colours
from runner.machine.host import place
from runner.machine.usage import CellUse, Span
from runner.stages.execute.diagnose import Evidence, bounded, diagnose, is_unreadable
from runner.stages.execute.output_limits import is_figure, output_bytes

if TYPE_CHECKING:
    from runner.stages.execute.diagnose import Diagnosis
    from runner.stages.execute.outcome import CellEvent, Facts, NotebookResult

_MESSAGE_CHARS = 10_000
_TAIL_LINES = 25
_FIRST_LINE = b"version https://git-lfs.github.com/spec/"
_LARGEST_BYTES = 1024
"""Maximum size of a pointer by the git-lfs specification."""
_MOST_NAMES = 2000
_QUOTED = re.compile(r"""["']([^"'\n]{1,400})["']""")


def cells(notebook: Any, facts: Facts, result: NotebookResult) -> tuple[Cell, ...]:
    """Return the records of the source's code cells, in order."""
    found = []
    for cell in notebook.cells:
        index = cell.metadata.get("runner", {}).get("index")
        if cell.cell_type != "code" or index is None:
            continue
        event = facts.cells.get(cell.id)
        found.append(
            Cell(
                index=index,
                id=cell.id,
                status=result.cells.get(cell.id, CellStatus.NOT_RUN),
                started_at=event.started_at if event else None,
                runs=facts.runs.get(cell.id, ()),
                wall_seconds=round(event.ended_monotonic - event.started_monotonic, 6) if event else None,
                output_bytes=sum(map(output_bytes, cell.outputs)),
                figures=sum(map(is_figure, cell.outputs)),
                title=title_of(cell.source),
            )
        )
    return tuple(sorted(found, key=lambda cell: cell.index))


def failure(
    notebook: Any,
    facts: Facts,
    result: NotebookResult,
    *,
    crash_output: str,
    shm_free_bytes: int | None,
    gpu_fraction: float | None,
    cwd: Path,
    ucx_tls: str | None,
) -> Failure | None:
    """Return the failure with cause and hint, None after a success.

    Parameters
    ----------
    crash_output
        Output of faulthandler and the kernel's raw stderr.
    gpu_fraction
        Largest share of a GPU's memory in use near the end.
    cwd
        The kernel's working directory, where the cell's files are checked for git-lfs pointers.
    ucx_tls
        The kernel's ``UCX_TLS``.
    """
    if result.status is Status.SUCCEEDED:
        return None
    event = facts.cells.get(result.cell_id or "")
    raised = event if event is not None and event.outcome == "error" else None
    traceback = without_colours("\n".join(raised.traceback)) if raised else ""
    message = (raised.error_message if raised else "") or ""
    cell = next((c for c in notebook.cells if c.id == result.cell_id), None)
    diagnosis = diagnose(
        Evidence(
            status=result.status,
            error_name=(raised.error_name if raised else "") or "",
            message=message,
            traceback=traceback,
            crash_output=crash_output,
            signal=result.signal,
            oom_kills=facts.oom_kills,
            guard_acted=facts.stop is not None and facts.stop.kind is StopKind.MEMORY_GUARD,
            shm_free_bytes=shm_free_bytes,
            gpu_peak_fraction=gpu_fraction,
            lfs_pointers=_pointers(cell, message, cwd) if raised else (),
            ucx_tls=ucx_tls,
            place=place(),
        )
    )
    return Failure(
        message=((raised.error_message if raised else None) or result.reason)[:_MESSAGE_CHARS],
        cell_index=cell.metadata.runner.get("index") if cell is not None else None,
        cell_id=result.cell_id,
        error_name=raised.error_name if raised else None,
        traceback_tail=endings.tail(traceback, _TAIL_LINES) or _crash(crash_output) or None,
        signal=result.signal,
        cause=diagnosis.cause if diagnosis else None,
        hint=_hint(diagnosis, event),
    )


def _hint(diagnosis: Diagnosis | None, event: CellEvent | None) -> str | None:
    """Return the hint with the failed line of the cell."""
    line = event.failed_line if event is not None else None
    at = f"the failed line is `{line}`" if line else None
    return "; ".join(filter(None, (diagnosis.hint if diagnosis else None, at))) or None


def spans(found: Sequence[Cell], facts: Facts, started_monotonic: float) -> list[Span]:
    """Return the time span of each cell, in seconds since the run's start."""
    return [
        Span(cell.index, event.started_monotonic - started_monotonic, event.ended_monotonic - started_monotonic)
        for cell in found
        if (event := facts.cells.get(cell.id)) is not None
    ]


def with_use(found: Sequence[Cell], uses: Mapping[int, CellUse]) -> tuple[Cell, ...]:
    """Return the cells with their resource usage from the samples."""
    return tuple(
        dataclasses.replace(cell, **{field.name: getattr(use, field.name) for field in dataclasses.fields(use)})
        if (use := uses.get(cell.index)) is not None
        else cell
        for cell in found
    )


def _pointers(cell: Any, message: str, cwd: Path) -> tuple[str, ...]:
    """Return the git-lfs pointers that may have failed a cell.

    They are named in the cell or its error; after an error about a file's format, all in the folder count.
    """
    named = named_pointers((bounded(message), bounded(cell.source) if cell is not None else ""), cwd)
    return named or (pointers_below(cwd) if is_unreadable(message) else ())


def title_of(source: str, limit: int = 80) -> str | None:
    """Return the first line of a cell that is neither blank nor a cell magic."""
    for line in source.splitlines():
        text = line.strip()
        if text and not text.startswith("%%"):
            return text if len(text) <= limit else f"{text[: limit - 1]}…"
    return None


def _crash(crash_output: str) -> str:
    """Return the lines of a dead kernel's output that are closest to the crash."""
    fatal, current, calls = crash_output.partition("Current thread")
    if current:  # faulthandler prints the most recent call first
        title = fatal.splitlines()[:1]
        return "\n".join([*title, *(current + calls).splitlines()][:_TAIL_LINES])
    return endings.tail(crash_output, _TAIL_LINES)


def is_pointer(path: Path) -> bool:
    """Return True if this is a regular file with a git-lfs pointer."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_BYTES:
            return False
        with path.open("rb") as stream:
            return stream.read(len(_FIRST_LINE)) == _FIRST_LINE
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return False


def named_pointers(texts: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Return the pointers among the files named in quotes in source or messages.

    Parameters
    ----------
    texts
        Texts that contain quoted names.
    folder
        Base of relative names.
    """
    names = islice((match[1] for text in texts for match in _QUOTED.finditer(text)), _MOST_NAMES)
    return tuple(name for name in dict.fromkeys(names) if is_pointer(folder / name))


def pointers_below(folder: Path) -> tuple[str, ...]:
    """Return the pointers among the first files of a folder and its subfolders."""
    return tuple(str(path.relative_to(folder)) for path in islice(_files(folder), _MOST_NAMES) if is_pointer(path))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names))
