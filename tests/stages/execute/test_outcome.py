# SPDX-License-Identifier: Apache-2.0
"""What happened is one status: each row of the vocabulary, and the first cause in time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.records import EXIT_CODES, CellStatus, Status
from runner.core.stop import Stop, StopKind
from runner.stages.execute.outcome import CellEvent, CodeCell, Facts, NotebookResult, Shown, derive, judge, signal_name

OK, FAILED, INTERRUPTED, NOT_RUN, DROPPED = (
    CellStatus.SUCCEEDED,
    CellStatus.FAILED,
    CellStatus.INTERRUPTED,
    CellStatus.NOT_RUN,
    CellStatus.DROPPED,
)


def event(position: int, outcome: str, *, ended: float | None = None, error: tuple[str, str] = ("", "")) -> CellEvent:
    """Return the event of the cell at a position; each takes a second."""
    return CellEvent(
        id=f"c{position}",
        started_at="2026-11-20T09:00:00.000Z",
        started_monotonic=float(position),
        ended_monotonic=position + 1.0 if ended is None else ended,
        outcome=outcome,
        error_name=error[0] or None,
        error_message=error[1] or None,
    )


def ok(position: int, **more) -> CellEvent:
    return event(position, "ok", **more)


def raised(position: int, name: str = "ValueError", message: str = "no such gene", **more) -> CellEvent:
    return event(position, "error", error=(name, message), **more)


def unfinished(position: int, **more) -> CellEvent:
    return event(position, "unfinished", **more)


def facts(*events: CellEvent, **more) -> Facts:
    return Facts(cells={e.id: e for e in events}, **more)


def cells(count: int = 3, **changes: CodeCell) -> tuple[CodeCell, ...]:
    """Return code cells c0, c1, ...; ``changes`` puts another one in place of some."""
    return tuple(changes.get(f"c{i}", CodeCell(f"c{i}", i)) for i in range(count))


def stop(kind: StopKind, at: float, detail: str = "somebody asked") -> Stop:
    return Stop(kind, detail, monotonic=at)


@dataclass(frozen=True)
class Case:
    """Facts over three cells, and what they mean."""

    facts: Facts
    status: Status
    statuses: tuple[CellStatus, ...]
    reason: str
    cell: str | None = None
    signal: str | None = None
    exit_code: int | None = None
    cells: tuple[CodeCell, ...] = field(default_factory=cells)


ALL_OK = (ok(0), ok(1), ok(2))
CASES = {
    "all cells ran": Case(facts(*ALL_OK), Status.SUCCEEDED, (OK, OK, OK), "all cells ran"),
    "the kernel died after the last cell": Case(
        facts(*ALL_OK, kernel_dead=True, kernel_returncode=-9), Status.SUCCEEDED, (OK, OK, OK), "all cells ran"
    ),
    "a cell raised": Case(
        facts(ok(0), raised(1)), Status.FAILED, (OK, FAILED, NOT_RUN), "ValueError in cell 2: no such gene", "c1"
    ),
    "a cell raised, then its kernel died": Case(
        facts(raised(0), kernel_dead=True, kernel_returncode=-11),
        Status.FAILED,
        (FAILED, NOT_RUN, NOT_RUN),
        "ValueError in cell 1",
        "c0",
    ),
    "a cell raised before anybody asked to stop": Case(
        facts(raised(0), stop=stop(StopKind.SIGTERM, 1.5)),
        Status.FAILED,
        (FAILED, NOT_RUN, NOT_RUN),
        "ValueError in cell 1",
        "c0",
    ),
    "a keyboard interrupt of the cell's own": Case(
        facts(raised(0, "KeyboardInterrupt", "")),
        Status.FAILED,
        (FAILED, NOT_RUN, NOT_RUN),
        "KeyboardInterrupt in cell 1",
        "c0",
    ),
    "an allowed exception": Case(
        facts(ok(0), ok(1, error=("ZeroDivisionError", "division by zero")), ok(2)),
        Status.SUCCEEDED,
        (OK, OK, OK),
        "all cells ran",
    ),
    "SystemExit in the middle": Case(
        facts(ok(0), raised(1, "SystemExit", "0")),
        Status.INCOMPLETE,
        (OK, FAILED, NOT_RUN),
        "the notebook ended itself in cell 2 by SystemExit(0)",
        "c1",
    ),
    "SystemExit in the last cell": Case(
        facts(ok(0), ok(1), raised(2, "SystemExit", "4")),
        Status.INCOMPLETE,
        (OK, OK, FAILED),
        "in cell 3 by SystemExit(4)",
        "c2",
    ),
    "SystemExit without a code": Case(
        facts(raised(0, "SystemExit", "")), Status.INCOMPLETE, (FAILED, NOT_RUN, NOT_RUN), "by SystemExit(0)", "c0"
    ),
    "the kernel exited by a code": Case(
        facts(ok(0), unfinished(1), kernel_dead=True, kernel_returncode=3),
        Status.INCOMPLETE,
        (OK, INTERRUPTED, NOT_RUN),
        "exited by itself in cell 2 with code 3",
        "c1",
    ),
    "the kernel exited by code 0": Case(
        facts(unfinished(0), kernel_dead=True, kernel_returncode=0),
        Status.INCOMPLETE,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "in cell 1 with code 0",
        "c0",
    ),
    "the kernel exited in the last cell": Case(
        facts(ok(0), ok(1), unfinished(2), kernel_dead=True, kernel_returncode=0),
        Status.INCOMPLETE,
        (OK, OK, INTERRUPTED),
        "in cell 3 with code 0",
        "c2",
    ),
    "the kernel exited between cells": Case(
        facts(ok(0), kernel_dead=True, kernel_returncode=1),
        Status.INCOMPLETE,
        (OK, NOT_RUN, NOT_RUN),
        "exited by itself between cells with code 1",
    ),
    "killed": Case(
        facts(ok(0), unfinished(1), kernel_dead=True, kernel_returncode=-9),
        Status.KERNEL_DIED,
        (OK, INTERRUPTED, NOT_RUN),
        "the kernel died in cell 2 by SIGKILL",
        "c1",
        "SIGKILL",
    ),
    "killed behind a shell": Case(
        facts(unfinished(0), kernel_dead=True, kernel_returncode=137),
        Status.KERNEL_DIED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "by SIGKILL",
        "c0",
        "SIGKILL",
    ),
    "segfault": Case(
        facts(unfinished(0), kernel_dead=True, kernel_returncode=-11),
        Status.KERNEL_DIED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "by SIGSEGV",
        "c0",
        "SIGSEGV",
    ),
    "killed between cells": Case(
        facts(ok(0), kernel_dead=True, kernel_returncode=-9),
        Status.KERNEL_DIED,
        (OK, NOT_RUN, NOT_RUN),
        "the kernel died between cells by SIGKILL",
        None,
        "SIGKILL",
    ),
    "gone without an exit status": Case(
        facts(unfinished(0), kernel_dead=True),
        Status.KERNEL_DIED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "the kernel died in cell 1",
        "c0",
    ),
    "silent, and not to be ended": Case(
        facts(unfinished(0)),
        Status.KERNEL_DIED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "the kernel stopped answering in cell 1",
        "c0",
    ),
    "the host's OOM killer": Case(
        facts(unfinished(0), kernel_dead=True, kernel_returncode=-9, oom_kills=1),
        Status.KERNEL_DIED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "killed by the host's OOM killer in cell 1",
        "c0",
        "SIGKILL",
    ),
    "a crash while the OOM killer took somebody else": Case(
        facts(unfinished(0), kernel_dead=True, kernel_returncode=-11, oom_kills=1),
        Status.KERNEL_DIED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "the kernel died in cell 1 by SIGSEGV",
        "c0",
        "SIGSEGV",
    ),
    "the memory guard": Case(
        facts(
            unfinished(0, ended=5),
            stop=stop(StopKind.MEMORY_GUARD, 4.9, "24.0 GB of 24.5 GB"),
            kernel_dead=True,
            kernel_returncode=-9,
        ),
        Status.KERNEL_DIED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "the memory guard ended the kernel in cell 1: 24.0 GB",
        "c0",
        "SIGKILL",
    ),
    "the memory guard, which kills before it asks": Case(
        facts(
            unfinished(0, ended=4.8),
            stop=stop(StopKind.MEMORY_GUARD, 4.9, "24.0 GB of 24.5 GB"),
            kernel_dead=True,
            kernel_returncode=-9,
        ),
        Status.KERNEL_DIED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "the memory guard ended the kernel in cell 1: 24.0 GB",
        "c0",
        "SIGKILL",
    ),
    "a signal after the kernel's death": Case(
        facts(
            unfinished(0, ended=4.8),
            stop=stop(StopKind.SIGTERM, 4.9, "received SIGTERM"),
            kernel_dead=True,
            kernel_returncode=-9,
        ),
        Status.KERNEL_DIED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "the kernel died in cell 1 by SIGKILL",
        "c0",
        "SIGKILL",
    ),
    "the kernel never answered": Case(
        facts(start_problem="its process ended with exit status 1 while it started", kernel_returncode=1),
        Status.KERNEL_DIED,
        (NOT_RUN, NOT_RUN, NOT_RUN),
        "the kernel never answered: its process ended with exit status 1",
    ),
    "the kernel was killed before it answered": Case(
        facts(start_problem="its process ended", kernel_returncode=-9),
        Status.KERNEL_DIED,
        (NOT_RUN, NOT_RUN, NOT_RUN),
        "never answered",
        None,
        "SIGKILL",
    ),
    "the cell's deadline": Case(
        facts(
            ok(0),
            raised(1, "KeyboardInterrupt", ""),
            stop=stop(StopKind.CELL_TIMEOUT, 1.5, "the cell did not end within 1.0s"),
        ),
        Status.TIMED_OUT,
        (OK, INTERRUPTED, NOT_RUN),
        "the cell did not end within 1.0s in cell 2",
        "c1",
    ),
    "the notebook's deadline, and the kernel had to be killed": Case(
        facts(
            ok(0),
            unfinished(1, ended=6),
            stop=stop(StopKind.NOTEBOOK_TIMEOUT, 4, "the notebook did not end within 4.0s"),
            kernel_dead=True,
            kernel_returncode=-9,
        ),
        Status.TIMED_OUT,
        (OK, INTERRUPTED, NOT_RUN),
        "within 4.0s in cell 2",
        "c1",
    ),
    "SIGTERM": Case(
        facts(raised(0, "KeyboardInterrupt", ""), stop=stop(StopKind.SIGTERM, 0.5, "received SIGTERM")),
        Status.TERMINATED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "received SIGTERM in cell 1",
        "c0",
        "SIGTERM",
        143,
    ),
    "SIGINT": Case(
        facts(raised(0, "KeyboardInterrupt", ""), stop=stop(StopKind.SIGINT, 0.5, "received SIGINT")),
        Status.TERMINATED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "received SIGINT in cell 1",
        "c0",
        "SIGINT",
        130,
    ),
    "SIGTERM between cells": Case(
        facts(ok(0), stop=stop(StopKind.SIGTERM, 1.01, "received SIGTERM")),
        Status.TERMINATED,
        (OK, NOT_RUN, NOT_RUN),
        "received SIGTERM",
        None,
        "SIGTERM",
        143,
    ),
    "SIGTERM before the kernel answered": Case(
        facts(stop=stop(StopKind.SIGTERM, 0.5, "received SIGTERM")),
        Status.TERMINATED,
        (NOT_RUN, NOT_RUN, NOT_RUN),
        "received SIGTERM",
        None,
        "SIGTERM",
        143,
    ),
    "SIGTERM ended the kernel while it started": Case(
        facts(
            stop=stop(StopKind.SIGTERM, 0.5, "received SIGTERM"),
            start_problem="its process ended",
            kernel_returncode=-15,
        ),
        Status.TERMINATED,
        (NOT_RUN, NOT_RUN, NOT_RUN),
        "received SIGTERM",
        None,
        "SIGTERM",
        143,
    ),
    "the kernel was dead before anybody asked to stop": Case(
        facts(
            ok(0), unfinished(1, ended=2.0), stop=stop(StopKind.SIGTERM, 2.5), kernel_dead=True, kernel_returncode=-11
        ),
        Status.KERNEL_DIED,
        (OK, INTERRUPTED, NOT_RUN),
        "the kernel died in cell 2 by SIGSEGV",
        "c1",
        "SIGSEGV",
    ),
    "the notebook was done before anybody asked to stop": Case(
        facts(*ALL_OK, stop=stop(StopKind.SIGTERM, 3.5)), Status.SUCCEEDED, (OK, OK, OK), "all cells ran"
    ),
    "the last cell came to its end only after the request": Case(
        facts(ok(0), ok(1), ok(2, ended=9), stop=stop(StopKind.CELL_TIMEOUT, 8, "the cell did not end within 6s")),
        Status.TIMED_OUT,
        (OK, OK, INTERRUPTED),
        "the cell did not end within 6s in cell 3",
        "c2",
    ),
    "a cell caught the interrupt of its deadline": Case(
        facts(ok(0), ok(1, ended=9), stop=stop(StopKind.CELL_TIMEOUT, 8, "too long")),
        Status.TIMED_OUT,
        (OK, INTERRUPTED, NOT_RUN),
        "too long in cell 2",
        "c1",
    ),
    "a cell caught the interrupt of SIGTERM": Case(
        facts(ok(0, ended=0.9), stop=stop(StopKind.SIGTERM, 0.5, "received SIGTERM")),
        Status.TERMINATED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "received SIGTERM in cell 1",
        "c0",
        "SIGTERM",
        143,
    ),
    "a closed terminal": Case(
        facts(raised(0, "KeyboardInterrupt", ""), stop=stop(StopKind.SIGHUP, 0.5, "received SIGHUP")),
        Status.TERMINATED,
        (INTERRUPTED, NOT_RUN, NOT_RUN),
        "received SIGHUP in cell 1",
        "c0",
        "SIGHUP",
        143,
    ),
    "a deadline in a cell that allows exceptions": Case(
        facts(ok(0), ok(1, ended=9, error=("KeyboardInterrupt", "")), stop=stop(StopKind.CELL_TIMEOUT, 8, "too long")),
        Status.TIMED_OUT,
        (OK, INTERRUPTED, NOT_RUN),
        "too long in cell 2",
        "c1",
    ),
    "an allowed interrupt of the cell's own": Case(
        facts(ok(0), ok(1, error=("KeyboardInterrupt", "")), ok(2)), Status.SUCCEEDED, (OK, OK, OK), "all cells ran"
    ),
    "an inserted cell raised": Case(
        facts(raised(0)),
        Status.FAILED,
        (FAILED, NOT_RUN, NOT_RUN),
        "ValueError in an inserted cell: no such gene",
        "c0",
        cells=cells(c0=CodeCell("c0", None), c1=CodeCell("c1", 0), c2=CodeCell("c2", 1)),
    ),
    "the index is that of the source": Case(
        facts(ok(0), raised(1)),
        Status.FAILED,
        (OK, FAILED, NOT_RUN),
        "in cell 1:",
        "c1",
        cells=cells(c0=CodeCell("c0", None), c1=CodeCell("c1", 0), c2=CodeCell("c2", 1)),
    ),
    "a dropped cell is neither run nor missed": Case(
        facts(ok(0), ok(1)),
        Status.SUCCEEDED,
        (OK, OK, DROPPED),
        "all cells ran",
        cells=cells(c2=CodeCell("c2", 2, dropped=True)),
    ),
    "dead with only a dropped and a blank cell left": Case(
        facts(ok(0), kernel_dead=True, kernel_returncode=-9),
        Status.SUCCEEDED,
        (OK, DROPPED, OK),
        "all cells ran",
        cells=cells(c1=CodeCell("c1", 1, dropped=True), c2=CodeCell("c2", 2, blank=True)),
    ),
    "blank cells before the end ran, those behind did not": Case(
        facts(raised(1)),
        Status.FAILED,
        (OK, FAILED, NOT_RUN),
        "in cell 2",
        "c1",
        cells=cells(c0=CodeCell("c0", 0, blank=True), c2=CodeCell("c2", 2, blank=True)),
    ),
    "a blank cell right behind the last one that ran": Case(
        facts(ok(0), kernel_dead=True, kernel_returncode=-9),
        Status.KERNEL_DIED,
        (OK, NOT_RUN, NOT_RUN),
        "between cells",
        None,
        "SIGKILL",
        cells=cells(c1=CodeCell("c1", 1, blank=True)),
    ),
    "a blank cell that a rule drops is dropped": Case(
        facts(ok(0), ok(1)),
        Status.SUCCEEDED,
        (OK, OK, DROPPED),
        "all cells ran",
        cells=cells(c2=CodeCell("c2", 2, blank=True, dropped=True)),
    ),
    "only blank cells": Case(
        facts(),
        Status.SUCCEEDED,
        (OK, OK, OK),
        "all cells ran",
        cells=tuple(CodeCell(f"c{i}", i, blank=True) for i in range(3)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_facts_give_one_status(name: str) -> None:
    """Status, reason, exit code, cell, signal and the status of each cell follow from the facts."""
    case = CASES[name]

    verdict = derive(case.cells, case.facts)

    assert verdict.status is case.status
    assert case.reason in verdict.reason
    assert tuple(verdict.cells[f"c{i}"] for i in range(3)) == case.statuses
    assert (verdict.cell_id, verdict.signal) == (case.cell, case.signal)
    assert verdict.exit_code == (EXIT_CODES[case.status] if case.exit_code is None else case.exit_code)


FIRST, SECOND, EXIT = Shown("ValueError", "first"), Shown("KeyError", "second"), Shown("SystemExit", "3")
DONE, ERROR, QUIT = (
    {"status": "ok"},
    {"status": "error", "ename": "KeyError", "evalue": "second"},
    [{"source": "ask_exit"}],
)


@pytest.mark.parametrize(
    ("shown", "reply", "expected", "ended"),
    [
        ([], DONE, False, ("ok", None)),
        ([], None, False, ("unfinished", None)),
        ([], None, True, ("unfinished", None)),
        ([FIRST], None, False, ("unfinished", FIRST)),
        ([FIRST], DONE, False, ("error", FIRST)),
        ([FIRST, EXIT], DONE, False, ("error", FIRST)),
        ([FIRST], ERROR, False, ("error", FIRST)),
        ([], ERROR, False, ("error", SECOND)),
        ([FIRST], DONE, True, ("ok", FIRST)),
        ([], ERROR, True, ("ok", SECOND)),
        ([FIRST, EXIT], DONE, True, ("error", EXIT)),
        ([], {**ERROR, "ename": "SystemExit", "evalue": "3"}, True, ("error", EXIT)),
        ([], {**DONE, "payload": QUIT}, True, ("error", Shown("SystemExit", "quit"))),
        ([FIRST], {**DONE, "payload": QUIT}, False, ("error", FIRST)),
    ],
)
def test_a_cell_ends_by_the_first_error_that_it_shows(shown, reply, expected, ended) -> None:
    """Whatever the kernel replied; only the tag allows one, and none without a reply is a success."""
    assert judge(shown, reply, expected=expected) == ended


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"status": None},
        {"status": "aborted"},
        {"status": "ok", "payload": "x"},
        {"status": "error", "traceback": 1},
    ],
)
def test_a_reply_of_any_kind_is_judged(reply) -> None:
    """A success is only the reply that says so."""
    outcome, error = judge([], reply)
    assert (outcome == "ok") == (reply.get("status") == "ok") == (error is None)


def test_a_long_message_is_cut_in_the_reason() -> None:
    """A reason stays short and on one line, whatever a cell raises."""
    verdict = derive(cells(1), facts(raised(0, message="a\nb" * 10_000)))

    assert "\n" not in verdict.reason
    assert len(verdict.reason) < 400


@pytest.mark.parametrize(
    ("returncode", "name"),
    [
        (None, None),
        (0, None),
        (1, None),
        (3, None),
        (127, None),
        (128, None),
        (129, None),
        (255, None),
        (-9, "SIGKILL"),
        (-11, "SIGSEGV"),
        (-6, "SIGABRT"),
        (-7, "SIGBUS"),
        (-4, "SIGILL"),
        (-15, "SIGTERM"),
        (-40, "signal 40"),
        (137, "SIGKILL"),
        (139, "SIGSEGV"),
        (134, "SIGABRT"),
        (135, "SIGBUS"),
        (132, "SIGILL"),
    ],
)
def test_an_exit_status_names_its_signal(returncode: int | None, name: str | None) -> None:
    """Negative as Python gives it, 128 + n as a shell does; other codes are no signal."""
    assert signal_name(returncode) == name


@st.composite
def runs(draw: st.DrawFn) -> tuple[tuple[CodeCell, ...], Facts]:
    """Return a notebook and facts as an execution leaves them: cells in order, at most the last one not ok."""
    kinds = draw(st.lists(st.sampled_from(["plain", "blank", "dropped", "inserted"]), min_size=1, max_size=8))
    made, index = [], 0
    for position, kind in enumerate(kinds):
        made.append(CodeCell(f"c{position}", None if kind == "inserted" else index, kind == "blank", kind == "dropped"))
        index += kind != "inserted"
    runnable = [i for i, kind in enumerate(kinds) if kind in {"plain", "inserted"}]
    reached = draw(st.integers(0, len(runnable)))
    events = [ok(i) for i in runnable[:reached]]
    if events and draw(st.booleans()):
        last = runnable[reached - 1]
        events[-1] = draw(
            st.sampled_from(
                [raised(last), raised(last, "SystemExit", "1"), raised(last, "KeyboardInterrupt"), unfinished(last)]
            )
        )
    asked = draw(st.none() | st.builds(Stop, st.sampled_from(StopKind), st.just("asked"), st.floats(0, 10)))
    dead = draw(st.booleans())
    code = draw(st.sampled_from([-9, -11, 0, 3, 137])) if dead else None
    return tuple(made), facts(
        *events, stop=asked, kernel_dead=dead, kernel_returncode=code, oom_kills=draw(st.integers(0, 1))
    )


def check(made: tuple[CodeCell, ...], seen: Facts, verdict: NotebookResult) -> None:
    """Assert what holds for every verdict."""
    assert set(verdict.cells) == {cell.id for cell in made}
    for cell in made:
        assert (verdict.cells[cell.id] is DROPPED) == cell.dropped
    if verdict.status is Status.SUCCEEDED:
        assert set(verdict.cells.values()) <= {OK, DROPPED}
        assert verdict.exit_code == 0
    else:
        assert verdict.exit_code not in {0, 2}
        assert verdict.reason
    broken = [status for status in verdict.cells.values() if status in {FAILED, INTERRUPTED}]
    assert len(broken) <= 1
    assert (verdict.status is Status.TERMINATED) <= (seen.stop is not None)
    assert (verdict.status is Status.FAILED) <= (FAILED in verdict.cells.values())


@given(runs())
def test_no_run_is_called_a_success_that_was_none(run: tuple[tuple[CodeCell, ...], Facts]) -> None:
    """Whatever happens: a success has run every cell, everything else has its code and reason."""
    made, seen = run

    check(made, seen, derive(made, seen))
