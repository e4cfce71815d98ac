# SPDX-License-Identifier: Apache-2.0
"""Derive the status of a notebook and its cells from facts; all functions are pure.

papermill's metadata is not used, because it is wrong after failures: a killed kernel leaves every
cell ``completed``.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

from runner.core.records import EXIT_CODES, CellRun, CellStatus, Status
from runner.core.stop import Stop, StopKind
from runner.core.units import format_bytes

_OTHERS_NAMED = 20
Outcome = Literal["ok", "error", "unfinished"]
"""End of a started cell: it succeeded, raised, or got no reply."""


@dataclass(frozen=True, slots=True)
class CodeCell:
    """A prepared code cell; ``index`` counts the source's code cells and is None for an inserted one."""

    id: str
    index: int | None
    blank: bool = False
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """An error in a cell's outputs or in the kernel's reply."""

    name: str
    message: str = ""
    traceback: tuple[str, ...] = ()
    monotonic: float = 0.0
    """Time of its arrival."""

    @classmethod
    def of(cls, content: Mapping[str, Any], *, monotonic: float = 0.0) -> Self:
        """Return the error in the content of a message from any kernel."""
        lines = content.get("traceback")
        traceback = tuple(map(str, lines)) if isinstance(lines, list | tuple) else ()
        return cls(str(content.get("ename") or ""), str(content.get("evalue") or ""), traceback, monotonic)

    @property
    def ends_notebook(self) -> bool:
        """Return True if the notebook ends itself, regardless of the cell's tags."""
        return self.name == "SystemExit"


def judge(
    shown: Sequence[Shown], reply: Mapping[str, Any] | None, *, expected: bool = False, interrupted: bool = False
) -> tuple[Outcome, Shown | None]:
    """Return the outcome of a cell and its error.

    An error that a cell shows makes it fail, whatever the kernel replied: `%run`, `%%capture` and
    an Output widget show an error and continue. The first error counts; later ones, such as a
    debugger without input, follow from it.

    Parameters
    ----------
    shown
        Errors shown while the cell ran, including captured ones.
    reply
        Content of the kernel's reply; None if none arrived, and so the cell did not succeed.
    expected
        The cell is tagged ``raises-exception``.
    interrupted
        The kernel was asked to interrupt the cell, to which some reply as if it had not run.
    """
    errors = [*shown, *(_replied(reply, shown, interrupted=interrupted) if reply is not None else ())]
    first = errors[0] if errors else None
    if reply is None:
        return "unfinished", first
    if expected:
        ending = next((error for error in errors if error.ends_notebook), None)
        return ("error", ending) if ending else ("ok", first)
    return ("error", first) if first else ("ok", None)


def _replied(reply: Mapping[str, Any], shown: Sequence[Shown], *, interrupted: bool) -> Iterator[Shown]:
    """Yield the errors of a reply that the cell did not show."""
    status = reply.get("status")
    error = Shown.of(reply)
    if status == "error" and all(each.name != error.name for each in shown):
        yield error
    elif status not in {"ok", "error"}:
        answer = f"the kernel answered {str(status)[:40]!r}"
        if interrupted:
            yield Shown("Interrupted", f"{answer} to the interrupt")
        else:
            yield Shown("NotRun", f"{answer}: it did not run the cell")
    payload = reply.get("payload")
    if isinstance(payload, list) and any(isinstance(p, dict) and p.get("source") == "ask_exit" for p in payload):
        yield Shown("SystemExit", "quit")


@dataclass(frozen=True, slots=True)
class CellEvent:
    """A cell that was started, with its outcome from `judge`."""

    id: str
    started_at: str
    started_monotonic: float
    ended_monotonic: float
    outcome: Outcome
    error_name: str | None = None
    error_message: str | None = None
    traceback: tuple[str, ...] = ()
    failed_line: str | None = None
    """The failed line of the cell, if the traceback shows it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts that the status is derived from."""

    cells: Mapping[str, CellEvent] = field(default_factory=dict)
    runs: Mapping[str, tuple[CellRun, ...]] = field(default_factory=dict)
    """The executions of each cell, several if the notebook was repaired."""
    stop: Stop | None = None
    kernel_returncode: int | None = None
    """Exit status of a kernel that ended by itself; None if it was alive or ended by runner."""
    kernel_dead: bool = False
    """The kernel ended by itself before the notebook was done."""
    start_problem: str | None = None
    """The reason why the kernel never answered."""
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class NotebookResult:
    """The status of the notebook and of each of its cells."""

    status: Status
    reason: str
    exit_code: int
    cells: dict[str, CellStatus]
    cell_id: str | None = None
    """The cell that failed."""
    signal: str | None = None
    kernel_ended: bool = False
    """The kernel ended before the notebook did, or never started: no cell raised."""


class _End(NamedTuple):
    status: Status
    reason: str
    signal: str | None = None
    kernel_ended: bool = False


def derive(cells: Sequence[CodeCell], facts: Facts) -> NotebookResult:
    """Return the status of the notebook and its cells.

    Parameters
    ----------
    cells
        All code cells of the prepared notebook, in order.
    facts
        Facts about cells, kernel and stop requests.
    """
    culprit = next((c for c in cells if _broke(facts.cells.get(c.id), facts)), None)
    end = _notebook(cells, facts, culprit)
    statuses = {cell.id: _cell(cell, facts) for cell in cells}
    if end.status is not Status.SUCCEEDED:
        _forget_unreached_blanks(cells, statuses)
    exit_code = facts.stop.exit_code if facts.stop and end.status is Status.TERMINATED else EXIT_CODES[end.status]
    cell_id = culprit.id if culprit else None
    return NotebookResult(end.status, end.reason, exit_code, statuses, cell_id, end.signal, end.kernel_ended)


def _notebook(cells: Sequence[CodeCell], facts: Facts, culprit: CodeCell | None) -> _End:
    where = _where(culprit)
    event = facts.cells[culprit.id] if culprit else None
    raised_first = event is not None and event.outcome == "error" and not _after(event, facts.stop)
    if facts.start_problem and facts.stop is None:
        reason = f"the kernel never answered: {facts.start_problem}"
        return _End(Status.KERNEL_DIED, reason, signal_name(facts.kernel_returncode), kernel_ended=True)
    if raised_first and event is not None:
        others = [cell for cell in cells if cell is not culprit and _broke(facts.cells.get(cell.id), facts)]
        return _raised(event, where, _others(others, facts))
    if facts.stop is not None and not _too_late(cells, facts, facts.stop, event):
        return _stopped(facts.stop, where)
    if any(_unreached(cell, facts) for cell in cells):
        return _died(facts, where or " between cells")
    dropped = sum(cell.dropped for cell in cells)
    return _End(Status.SUCCEEDED, f"all cells ran, {dropped} dropped" if dropped else "all cells ran")


def _others(cells: Sequence[CodeCell], facts: Facts) -> str:
    """List the cells that failed after the first one."""
    if not cells:
        return ""
    named = [f"{facts.cells[c.id].error_name or facts.cells[c.id].outcome}{_where(c)}" for c in cells[:_OTHERS_NAMED]]
    more = f" and {len(cells) - len(named)} more" if len(cells) > len(named) else ""
    return f"; then {', '.join(named)}{more}"


def _raised(event: CellEvent, where: str, others: str) -> _End:
    if event.error_name == "SystemExit":
        reason = f"the notebook ended itself{where} by SystemExit({event.error_message or '0'})"
        return _End(Status.INCOMPLETE, reason)
    reason = f"{event.error_name or 'an unnamed error'}{where}"
    if event.error_message and event.error_message.strip():
        reason += f": {_short(event.error_message)}"
    elif event.failed_line:  # an exception without a message: show the line instead
        reason += f": {_short(event.failed_line)}"
    return _End(Status.FAILED, reason + others)


def _died(facts: Facts, where: str) -> _End:
    if not facts.kernel_dead:  # even SIGKILL did not end it: a hanging driver
        return _End(Status.KERNEL_DIED, f"the kernel stopped answering{where}", kernel_ended=True)
    death = signal_name(facts.kernel_returncode)
    if death is None and facts.kernel_returncode is not None:
        reason = f"the kernel exited by itself{where} with code {facts.kernel_returncode}"
        return _End(Status.INCOMPLETE, reason, kernel_ended=True)
    if facts.oom_kills and death in {None, "SIGKILL"}:  # another signal is a crash
        reason = f"the kernel was killed by the host's OOM killer{where}"
    else:
        reason = f"the kernel died{where}" + (f" by {death}" if death else "")
    return _End(Status.KERNEL_DIED, reason, death, kernel_ended=True)


def _stopped(stop: Stop, where: str) -> _End:
    match stop.kind:
        case StopKind.CELL_TIMEOUT | StopKind.NOTEBOOK_TIMEOUT:
            return _End(Status.TIMED_OUT, f"{stop.detail}{where}")
        case StopKind.MEMORY_GUARD:
            reason = f"the memory guard ended the kernel{where}: {stop.detail}"
            return _End(Status.KERNEL_DIED, reason, "SIGKILL", kernel_ended=True)
        case _:
            return _End(Status.TERMINATED, f"{stop.detail}{where}", stop.kind.value)


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
    """Mark blank cells after the end of the run as not run."""
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
    """Return True if a cell did not succeed.

    The cell that ran at a stop request did not, whatever its outcome: it may have caught the interrupt.
    """
    return event is not None and (event.outcome != "ok" or (_after(event, facts.stop) and _is_last(event, facts)))


def _is_last(event: CellEvent, facts: Facts) -> bool:
    return event.started_monotonic == max(each.started_monotonic for each in facts.cells.values())


def _after(event: CellEvent, stop: Stop | None) -> bool:
    """Return True if a cell ended after the stop request, which then caused its error."""
    return stop is not None and event.ended_monotonic >= stop.monotonic


def _too_late(cells: Sequence[CodeCell], facts: Facts, stop: Stop, event: CellEvent | None) -> bool:
    """Return True if the notebook was done, or its kernel dead, before the stop request."""
    if event is not None:
        # The memory guard kills before it requests the stop.
        died = facts.kernel_dead and event.outcome == "unfinished" and stop.kind is not StopKind.MEMORY_GUARD
        return died and not _after(event, stop)
    done = bool(facts.cells) and not any(_unreached(cell, facts) for cell in cells)
    return done and not any(_after(each, stop) for each in facts.cells.values())


def signal_name(returncode: int | None) -> str | None:
    """Return the signal in an exit status, including the 128 + n of a shell wrapper."""
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
