# SPDX-License-Identifier: Apache-2.0
"""Final status of a run and a short description of its failure: cell, line, error, hint.

A record is written early, so that a killed run leaves one. Until all checks are done the record is provisional and its
success not final. Readers of records call `settled`, so that dependencies, Tekton results and the report agree.

In a traceback the frames of libraries come below the notebook's and may be many, so the end alone does not show the
line to change. Frames of the notebook are found in IPython's tracebacks; of other kernels only the end is shown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from typing import TYPE_CHECKING

from runner.core import files
from runner.core.records import Status, read_metrics
from runner.core.surrogates import printable
from runner.core.units import format_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from runner.core.records import Failure, Metrics

_NOT_JUDGED = {
    "held": "it was held for a repair, and release was not judged",
    "release": "expectations and release were not judged",
    "convert": "expectations and release were judged, but the page and the final record are missing",
}
_LONGEST_TRACEBACK = 200_000
"""In characters; longer ones lose their middle: the notebook's frame is near the top, the error at the end."""
_LINE_CHARS = 500
_OWN = re.compile(r"(?:Cell |Input )?In ?\[\d{1,9}\]|<ipython-input-\d{1,9}-|File <timed (?:exec|eval)>")
"""Start of a cell's frame in IPython 8 and later, in 8.0, in 7, and below `%%time`."""
_FRAME = re.compile(r"…|File |Cell In|Input In|<ipython-input-|[~/]")
"""Start of any frame, or the ellipsis that `tail` writes in place of omitted frames."""
_ARROW = re.compile(r"-{1,8}> {1,8}\d{1,9} ?")
_TIMED = re.compile(r"File <timed (?:exec|eval)>:(\d{1,9})")
_FRAME_LINES = 8
_LONGEST = 300


def final_success(path: Path) -> Metrics | None:
    """Return the record if it is a final success; None for any other file."""
    with contextlib.suppress(OSError, ValueError):
        record = read_metrics(files.read(path))
        if record.status is Status.SUCCEEDED and not record.provisional:
            return record
    return None


def record_of_run(path: Path, run_id: str | None) -> Metrics | None:
    """Return the settled record that an earlier try of a run left; None for any other file."""
    with contextlib.suppress(OSError, ValueError):
        record = read_metrics(files.read(path))
        if record.run_id == run_id:
            return settled(record)
    return None


def status_of(status: Status, *, provisional: bool) -> Status:
    """Return the status of a record whose process has ended."""
    return Status.LOST if provisional and status is Status.SUCCEEDED else status


def settled(record: Metrics) -> Metrics:
    """Return a record as it counts once its process has ended.

    A provisional success becomes `lost` and names its last stage; any other status stays, with a warning.
    """
    if not record.provisional:
        return record
    stage = record.stage or "unknown"
    judged = _NOT_JUDGED.get(stage, "the rest was not judged")
    status = status_of(record.status, provisional=True)
    if status is record.status:
        warning = f"{judged}: the run was cut off in stage {stage}"
        return dataclasses.replace(record, warnings=(*record.warnings, warning))
    return dataclasses.replace(
        record, status=status, reason=f"cells ran, {judged}: the run was cut off in stage {stage}", exit_code=70
    )


def own_frame(traceback: str) -> list[str]:
    """Return the last frame of the notebook's own code, shortened around the line that failed."""
    if len(traceback) > _LONGEST_TRACEBACK:
        traceback = f"{traceback[: _LONGEST_TRACEBACK // 2]}\n…\n{traceback[-_LONGEST_TRACEBACK // 2 :]}"
    lines = traceback.splitlines()
    starts = [number for number, line in enumerate(lines) if _OWN.match(line)]
    if not starts:
        return []
    end = next((n for n in range(starts[-1] + 1, len(lines)) if not lines[n].strip() or _FRAME.match(lines[n])), None)
    frame = lines[starts[-1] : end]
    at = max((number for number, line in enumerate(frame) if _ARROW.match(line)), default=0)
    first = max(1, at - _FRAME_LINES // 2)
    return [line[:_LINE_CHARS] for line in (frame[0], *frame[first : first + _FRAME_LINES])]


def failed_line(traceback: str, source: str = "") -> str | None:
    """Return the line of a cell that failed.

    Parameters
    ----------
    traceback
        Without colours.
    source
        The cell. Below `%%time` IPython gives line numbers without the lines.
    """
    frame = own_frame(traceback)
    if frame and (timed := _TIMED.match(frame[0])):
        body = source.splitlines()[int(timed[1]) :][:1]
        return body[0].strip()[:_LINE_CHARS] if body else None
    marked = [line[match.end() :].strip() for line in frame if (match := _ARROW.match(line))]
    return marked[-1] if marked and marked[-1] else None


def tail(traceback: str, lines: int) -> str:
    """Return the last lines, preceded by the notebook's own last frame if that is further up."""
    every = traceback.strip().splitlines()
    if len(every) <= lines:
        return "\n".join(every)
    frame = own_frame(traceback)
    end = every[-lines:]
    if not frame or frame[0] in (line[:_LINE_CHARS] for line in end):
        return "\n".join(end)
    return "\n".join([*frame, "…", *every[-max(1, lines - len(frame) - 1) :]])


def error_of(failure: Failure) -> str:
    """Return name and message of an error on one line, without repeating a name that the message begins with."""
    name, message = failure.error_name or "", " ".join(failure.message[:500].split())
    if failure.error_name == "":  # as for bash, whose error is an exit status
        return f"an unnamed error: {message}"
    return message if message.startswith(f"{name}:") or not name else f"{name}: {message}".removesuffix(": ")


def failure_lines(metrics: Metrics) -> tuple[str, ...]:
    """Return at most three lines for a terminal: cell and line, error, hint; or the reason if no cell failed."""
    failure = metrics.failure
    if failure is None:
        return (_one_line(metrics.reason),)
    lines = []
    if failure.cell_index is not None:
        line = failed_line(failure.traceback_tail or "")
        lines.append(f"cell {failure.cell_index + 1}" + (f": {line}" if line else ""))
    lines.append(error_of(failure))
    if failure.hint:
        lines.append(f"hint: {failure.hint}")
    return tuple(map(_one_line, lines))


def end_lines(metrics: Metrics) -> tuple[str, ...]:
    """Return the outcome of a run, for a terminal."""
    first = f"{metrics.notebook}: {metrics.status.value} in {format_seconds(metrics.wall_seconds)}"
    return (first, *(f"  {line}" for line in failure_lines(metrics) if metrics.exit_code))


def _one_line(text: str) -> str:
    """Return one line of bounded length without terminal control sequences."""
    line = printable(text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
