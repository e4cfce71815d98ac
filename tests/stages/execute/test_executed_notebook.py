# SPDX-License-Identifier: Apache-2.0
"""Saving is rare enough to be cheap, often enough to lose little, and never leaves less than there was."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import nbformat
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from support.cli import PATIENCE

from runner.core import files
from runner.core.errors import RecordError
from runner.stages.execute import executed_notebook
from runner.stages.execute.executed_notebook import SHORTEST_SECONDS, Saver, notebook_bytes


class Clock:
    """A clock that stands still until it is told to go on; each save takes what `cost` says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cost = 0.0
        self.saved_at: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.7e9 + self.now

    def write(self, _path: Path, _content: bytes) -> None:
        self.saved_at.append(self.now)
        self.now += self.cost


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give a clock under the saver and its storage."""
    it = Clock()
    monkeypatch.setattr(executed_notebook, "time", it)
    monkeypatch.setattr(files, "write", it.write)
    return it


def saver() -> Saver:
    return Saver(Path("n.executed.ipynb"), lambda: b"{}")


def run(it: Saver, clock: Clock, seconds: float, *, tick: float = 0.25) -> None:
    """Let time pass with a notebook that changes all the time."""
    end = clock.now + seconds
    while clock.now < end:
        it.dirty = True
        asyncio.run(it.save_if_due())
        clock.now += tick


def test_the_first_change_is_saved_at_once(clock: Clock) -> None:
    """A notebook that dies early has left something."""
    it = saver()
    asyncio.run(it.save_if_due())
    assert clock.saved_at == []
    it.dirty = True
    asyncio.run(it.save_if_due())
    assert clock.saved_at == [1000.0]
    assert not it.dirty


def test_nothing_is_written_while_nothing_changes(clock: Clock) -> None:
    """A cell that computes for hours costs no saves."""
    it = saver()
    run(it, clock, 1)
    it.dirty = False
    clock.now += 3600
    asyncio.run(it.save_if_due())
    assert len(clock.saved_at) == 1


@pytest.mark.parametrize(
    ("cost", "pause"), [(0.0, SHORTEST_SECONDS), (0.1, SHORTEST_SECONDS), (1.0, 20.0), (3.0, 60.0)]
)
def test_the_time_between_saves_follows_from_their_cost(clock: Clock, cost: float, pause: float) -> None:
    """At most 5 % of the time goes into saving, and at most the larger of 5 s and 20 saves can be lost."""
    clock.cost = cost
    it, told = saver(), []
    it.on_saved = lambda: told.append(clock.now - cost)
    run(it, clock, 600)
    between = [b - a for a, b in zip(clock.saved_at, clock.saved_at[1:], strict=False)]
    assert min(between) >= pause
    assert max(between) <= max(5.0, 20 * cost + 0.5)
    assert it.saves == len(clock.saved_at)
    assert it.seconds == pytest.approx(cost * it.saves)
    assert it.seconds <= 0.05 * 600 + cost
    assert told == clock.saved_at


def test_a_save_that_failed_is_tried_again_and_is_told(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error there is still something to save; the next save when it is due writes it."""

    def full(_path: Path, _content: bytes) -> None:
        raise RecordError("cannot write: No space left on device")

    it = saver()
    it.dirty = True
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(RecordError):
            asyncio.run(it.save_if_due())
        with pytest.raises(RecordError):
            it.save()
    assert (it.dirty, it.saves) == (True, 0)
    clock.now += SHORTEST_SECONDS
    asyncio.run(it.save_if_due())
    assert (it.dirty, it.saves) == (False, 1)


def test_a_change_during_a_save_is_saved_by_the_next(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives while a save is under way is not taken for saved."""
    it = saver()

    def change(path: Path, content: bytes) -> None:
        clock.write(path, content)
        it.dirty = True

    it.dirty = True
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", change)
        asyncio.run(it.save_if_due())
    assert it.dirty


@pytest.mark.parametrize(("every", "pauses"), [(0.0, [4, None]), (30.0, [4, 30]), (1.0, [4, 4])])
def test_the_pause_within_a_cell_is_the_callers(clock: Clock, every: float, pauses: list[float | None]) -> None:
    """Papermill's autosave_cell_every: 0 saves between cells only; the end of a cell never waits longer than usual."""
    for cell_ended, pause in zip([True, False], pauses, strict=True):
        it = Saver(Path("n.executed.ipynb"), lambda: b"{}", every)
        it.save()
        it.dirty, it.cell_ended, it._last_cost = True, cell_ended, 0.0
        clock.now += (pause or 1e9) - 0.1
        assert not it.due
        clock.now += 0.2
        assert it.due is (pause is not None)


def test_a_slow_save_of_before_does_not_replace_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends while slow storage still takes an earlier state: the last state stands in the end."""
    content = [b"early"]
    it = Saver(tmp_path / "n.ipynb", lambda: content[0])
    begun, go_on = threading.Event(), threading.Event()
    really_write = files.write

    def write(path: Path, data: bytes) -> int:
        if data == b"early":
            begun.set()
            assert go_on.wait(PATIENCE)
        return really_write(path, data)

    monkeypatch.setattr(files, "write", write)

    async def end_within_a_save() -> None:
        it.dirty = True
        saving = asyncio.create_task(it.save_if_due())
        await asyncio.to_thread(begun.wait, PATIENCE)
        saving.cancel()
        await asyncio.wait([saving])
        content[0] = b"last"
        final = asyncio.create_task(asyncio.to_thread(it.save))
        await asyncio.wait([final], timeout=0.2)  # gives it the time to overtake, if it can
        go_on.set()
        await final

    asyncio.run(end_within_a_save())  # waits for the threads, too

    assert (tmp_path / "n.ipynb").read_bytes() == b"last"


def test_a_save_that_comes_late_to_the_storage_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread starts only after the last save: what it has is old by then."""
    content = [b"early"]
    it = Saver(tmp_path / "n.ipynb", lambda: content[0])
    late: list = []

    async def not_yet(function, *arguments) -> None:
        late.append((function, arguments))
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "to_thread", not_yet)
    it.dirty = True
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(it.save_if_due())
    assert it.dirty
    content[0] = b"last"
    it.save()
    for function, arguments in late:
        function(*arguments)

    assert (tmp_path / "n.ipynb").read_bytes() == b"last"


def outputs() -> list:
    """Return one output of each kind."""
    return [
        new_output("stream", name="stdout", text="a\nb\r\nc\u2028d"),
        new_output("stream", name="stderr", text=""),
        new_output("display_data", data={"image/png": "iVBORw0KGgo=", "application/json": {"a": [1, None]}}),
        new_output("execute_result", data={"text/plain": "ещё 単一 🧬"}, execution_count=3),
        new_output("error", ename="ValueError", evalue="x", traceback=["\x1b[31mTraceback\x1b[0m", "x"]),
    ]


def test_a_saved_notebook_is_what_it_was_and_valid() -> None:
    """Bytes read by nbformat give the same notebook, valid, as nbformat's own writer does."""
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# one\n\ntwo"),
            new_code_cell("x = 1\ny = 2\n", outputs=outputs()),
            new_code_cell("", metadata={"tags": ["raises-exception"]}),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}, "runner": {"status": "succeeded"}},
    )
    before = json.dumps(notebook, sort_keys=True)

    again = nbformat.reads(notebook_bytes(notebook).decode(), as_version=4)

    nbformat.validate(again)
    assert again == notebook
    assert again == nbformat.reads(nbformat.writes(notebook), as_version=4)
    assert json.dumps(notebook, sort_keys=True) == before


def test_sources_and_prints_are_saved_line_by_line() -> None:
    """A changed line is a changed line in a diff."""
    notebook = new_notebook(cells=[new_code_cell("x = 1\ny = 2", outputs=outputs()[:1])])

    written = json.loads(notebook_bytes(notebook))

    assert written["cells"][0]["source"] == ["x = 1\n", "y = 2"]
    assert written["cells"][0]["outputs"][0]["text"][0] == "a\n"


any_text = st.text(st.characters(categories=None), max_size=30)


def joined(text: str) -> str:
    """Return the text with the two halves of a character put together, as reading JSON does."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@given(any_text, any_text)
@example("half \ud83d", "\udc80 \ud83d\udc00")
def test_text_of_any_kind_is_saved_as_valid_json(source: str, printed: str) -> None:
    """Halves of characters and control characters come back as they were; the file is UTF-8."""
    notebook = new_notebook(cells=[new_code_cell(source, outputs=[new_output("stream", name="stdout", text=printed)])])

    again = nbformat.reads(notebook_bytes(notebook).decode("utf-8"), as_version=4)

    assert again.cells[0].source == joined(source)
    assert again.cells[0].outputs[0].text == joined(printed)
