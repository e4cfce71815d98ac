# SPDX-License-Identifier: Apache-2.0
"""How a notebook ended, derived from what happened.

papermill's own metadata is wrong exactly when things go wrong (a killed kernel leaves every
cell ``completed``), so nothing is read from it. Everything here is pure: facts in, words out.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from runner.records import EXIT_CODES, CellStatus, Status
from runner.stop import Stop, StopKind
from runner.units import format_bytes

Outcome = Literal["ok", "error", "unfinished"]
"""Of a cell that was started: it ended well, it raised, or no reply ever came."""


@dataclass(frozen=True, slots=True)
class CodeCell:
    """A code cell as prepared. ``index`` counts the source's code cells; None: a rule inserted it."""

    id: str
    index: int | None
    blank: bool = False
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class CellEvent:
    """What happened to a cell that was started.

    ``outcome`` is ``ok``, ``error`` (it raised) or ``unfinished`` (no reply ever came). An
    error in a cell tagged ``raises-exception`` is ``ok``, unless it is SystemExit.
    """

    id: str
    started_at: str
    started_monotonic: float
    ended_monotonic: float
    outcome: Outcome
    error_name: str | None = None
    error_message: str | None = None
    traceback: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the status is derived from."""

    cells: Mapping[str, CellEvent] = field(default_factory=dict)
    stop: Stop | None = None
    kernel_returncode: int | None = None
    """Exit status of a kernel that ended on its own account; None while it lived or when we ended it."""
    kernel_dead: bool = False
    """The kernel ended on its own account before the notebook was done."""
    start_problem: str | None = None
    """Why the kernel never answered."""
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status of the notebook and of each of its cells."""

    status: Status
    reason: str
    exit_code: int
    cells: dict[str, CellStatus]
    cell_id: str | None = None
    """The cell it went wrong in."""
    signal: str | None = None


def derive(cells: Sequence[CodeCell], facts: Facts) -> Verdict:
    """Return how the notebook ended.

    Parameters
    ----------
    cells
        All code cells of the prepared notebook, in order.
    facts
        What was seen of cells, kernel and stop requests.
    """
    culprit = next((c for c in cells if _broke(facts.cells.get(c.id), facts)), None)
    status, reason, death = _notebook(cells, facts, culprit)
    statuses = {cell.id: _cell(cell, facts) for cell in cells}
    if status is not Status.SUCCEEDED:
        _forget_unreached_blanks(cells, statuses)
    exit_code = facts.stop.exit_code if facts.stop and status is Status.TERMINATED else EXIT_CODES[status]
    return Verdict(status, reason, exit_code, statuses, culprit.id if culprit else None, death)


def _notebook(cells: Sequence[CodeCell], facts: Facts, culprit: CodeCell | None) -> tuple[Status, str, str | None]:
    where = _where(culprit)
    event = facts.cells[culprit.id] if culprit else None
    raised_first = event is not None and event.outcome == "error" and not _after(event, facts.stop)
    if facts.start_problem and facts.stop is None:
        return (
            Status.KERNEL_DIED,
            f"the kernel never answered: {facts.start_problem}",
            signal_name(facts.kernel_returncode),
        )
    if raised_first and event is not None:
        return _raised(event, where)
    if facts.stop is not None and not _too_late(cells, facts, facts.stop, event):
        return _stopped(facts.stop, where)
    if any(_unreached(cell, facts) for cell in cells):
        return _died(facts, where or " between cells")
    return Status.SUCCEEDED, "all cells ran", None


def _raised(event: CellEvent, where: str) -> tuple[Status, str, str | None]:
    if event.error_name == "SystemExit":
        return Status.INCOMPLETE, f"the notebook ended itself{where} by SystemExit({event.error_message or '0'})", None
    return Status.FAILED, f"{event.error_name}{where}: {_short(event.error_message)}", None


def _died(facts: Facts, where: str) -> tuple[Status, str, str | None]:
    if not facts.kernel_dead:  # killed for its silence, and not even that ended it: a hanging driver
        return Status.KERNEL_DIED, f"the kernel stopped answering{where}", None
    death = signal_name(facts.kernel_returncode)
    if death is None and facts.kernel_returncode is not None:
        return Status.INCOMPLETE, f"the kernel exited by itself{where} with code {facts.kernel_returncode}", None
    if facts.oom_kills and death in {None, "SIGKILL"}:  # a crash is none of the OOM killer's
        return Status.KERNEL_DIED, f"the kernel was killed by the host's OOM killer{where}", death
    return Status.KERNEL_DIED, f"the kernel died{where}" + (f" by {death}" if death else ""), death


def _stopped(stop: Stop, where: str) -> tuple[Status, str, str | None]:
    match stop.kind:
        case StopKind.CELL_TIMEOUT | StopKind.NOTEBOOK_TIMEOUT:
            return Status.TIMED_OUT, f"{stop.detail}{where}", None
        case StopKind.MEMORY_GUARD:
            return Status.KERNEL_DIED, f"the memory guard ended the kernel{where}: {stop.detail}", "SIGKILL"
        case _:
            return Status.TERMINATED, f"{stop.detail}{where}", stop.kind.value


def _cell(cell: CodeCell, facts: Facts) -> CellStatus:
    event = facts.cells.get(cell.id)
    if cell.dropped:
        return CellStatus.DROPPED
    if cell.blank:
        return CellStatus.SUCCEEDED
    if event is None:
        return CellStatus.NOT_RUN
    if not _broke(event, facts):
        return CellStatus.SUCCEEDED
    if event.outcome == "unfinished" or _after(event, facts.stop):
        return CellStatus.INTERRUPTED
    return CellStatus.FAILED


def _forget_unreached_blanks(cells: Sequence[CodeCell], statuses: dict[str, CellStatus]) -> None:
    """Take back that blank cells behind the point where the run ended were reached."""
    reached = max(
        (
            i
            for i, c in enumerate(cells)
            if statuses[c.id] not in {CellStatus.NOT_RUN, CellStatus.DROPPED} and not c.blank
        ),
        default=-1,
    )
    for cell in cells[reached + 1 :]:
        if cell.blank and not cell.dropped:
            statuses[cell.id] = CellStatus.NOT_RUN


def _unreached(cell: CodeCell, facts: Facts) -> bool:
    event = facts.cells.get(cell.id)
    return not (cell.blank or cell.dropped) and (event is None or event.outcome == "unfinished")


def _broke(event: CellEvent | None, facts: Facts) -> bool:
    """Tell whether a cell did not come to a good end.

    The one that ran when somebody asked to stop did not, whatever it says: it may have caught our interrupt.
    """
    return event is not None and (event.outcome != "ok" or (_after(event, facts.stop) and _is_last(event, facts)))


def _is_last(event: CellEvent, facts: Facts) -> bool:
    return event.started_monotonic == max(each.started_monotonic for each in facts.cells.values())


def _after(event: CellEvent, stop: Stop | None) -> bool:
    """Tell whether a cell ended after the request: its error is then the echo of it and not its own."""
    return stop is not None and event.ended_monotonic >= stop.monotonic


def _too_late(cells: Sequence[CodeCell], facts: Facts, stop: Stop, event: CellEvent | None) -> bool:
    """Tell whether the notebook was done, or its kernel dead, before anybody asked to stop."""
    if event is not None:
        # The guard kills before it asks.
        died = facts.kernel_dead and event.outcome == "unfinished" and stop.kind is not StopKind.MEMORY_GUARD
        return died and not _after(event, stop)
    done = bool(facts.cells) and not any(_unreached(cell, facts) for cell in cells)
    return done and not any(_after(each, stop) for each in facts.cells.values())


def signal_name(returncode: int | None) -> str | None:
    """Return the signal in an exit status, also as a shell wrapper reports it (128 + n)."""
    if returncode is None:
        return None
    number = -returncode if returncode < 0 else returncode - 128
    if returncode > 0 and number not in {signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL}:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if returncode < 0 else None


def _where(cell: CodeCell | None) -> str:
    if cell is None:
        return ""
    return f" in cell {cell.index + 1}" if cell.index is not None else " in an inserted cell"


def _short(message: str | None, limit: int = 300) -> str:
    text = " ".join((message or "").split())
    return text if len(text) <= limit else f"{text[:limit]}… ({format_bytes(len(text))})"
