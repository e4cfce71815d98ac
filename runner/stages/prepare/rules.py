# SPDX-License-Identifier: Apache-2.0
"""Apply the plan's rules to a notebook: drop cells, replace text, insert cells.

Rules apply in order to the source's code cells. A text that occurs more or less often than the
rule specifies is an error, which shows the nearest text: probably upstream's new version.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from runner.core.errors import BrokenInputError
from runner.core.records import Change

if TYPE_CHECKING:
    from runner.plan.model import DropCells, Insert, Replace, Rule

_SHOWN = 160
"""Characters of a text shown in a message."""
_COMPARED_LINES = 5000
"""Maximum number of lines searched for the nearest text."""


def apply(notebook: NotebookNode, rules: Sequence[Rule], name: str) -> Iterator[Change]:
    """Apply the rules in order to ``notebook`` and yield each change.

    Raises
    ------
    BrokenInputError
        A rule matched nothing, or not as often as specified.
    """
    for number, rule in enumerate(rules):
        where = f"notebook {name!r}, prepare[{number}]"
        if rule.drop_cells:
            yield from _drop(notebook, rule.drop_cells, where)
        elif rule.replace:
            yield from _replace(notebook, rule.replace, where)
        elif rule.insert:
            yield _insert(notebook, rule.insert, where)


def source_cells(notebook: NotebookNode, *, dropped: bool = False) -> list[NotebookNode]:
    """Return the source's code cells, without inserted ones, and with dropped ones only on request."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code"
        and "index" in cell.metadata.runner
        and (dropped or "dropped" not in cell.metadata.runner)
    ]


def running_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return every code cell that will run, inserted ones included."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and "dropped" not in cell.metadata.runner]


def change(rule: str, detail: str, cell: NotebookNode, *, times: int = 1, old: str, new: str | None) -> Change:
    """Record a change of one cell."""
    return Change(
        rule=rule,
        detail=detail,
        cell_index=cell.metadata.runner.get("index"),
        cell_id=cell.id,
        times=times,
        old=old,
        new=new,
    )


def shown(text: str) -> str:
    """Return a text as a short line for a message."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def _drop(notebook: NotebookNode, rule: DropCells, where: str) -> Iterator[Change]:
    def matches(cell: NotebookNode) -> bool:
        return all(text in cell.source for text in rule.containing)

    found = [cell for cell in source_cells(notebook, dropped=True) if matches(cell)]
    texts = " and ".join(shown(text) for text in rule.containing)
    if not found or (rule.times is not None and len(found) != rule.times):
        needed = "at least one cell" if rule.times is None else _cells(rule.times)
        missing = [text for text in rule.containing if not any(text in cell.source for cell in source_cells(notebook))]
        _refuse(notebook, f"{where}: drop_cells containing {texts} matched {_cells(len(found))}, not {needed}", missing)
    for cell in found:
        if "dropped" not in cell.metadata.runner:
            yield mark_dropped(cell, f"contains {texts}")


def mark_dropped(cell: NotebookNode, reason: str) -> Change:
    """Exclude a cell from the run; it stays visible with the reason."""
    cell.metadata.runner.dropped = reason
    return change("drop_cells", f"dropped: {reason}", cell, old=cell.source, new=None)


def _replace(notebook: NotebookNode, rule: Replace, where: str) -> Iterator[Change]:
    counts = [(cell, cell.source.count(rule.find)) for cell in source_cells(notebook)]
    total = sum(count for _cell, count in counts)
    if total != rule.times:
        places = ", ".join(str(cell.metadata.runner.index) for cell, count in counts if count)
        found = f"occurs {_times(total)}" + (f" (code cells {places})" if places else "")
        problem = f"{where}: replace: {shown(rule.find)} {found}, the rule requires {_times(rule.times)}"
        _refuse(notebook, problem, [] if total else [rule.find])
    for cell, count in counts:
        if count:
            cell.source = cell.source.replace(rule.find, rule.with_)
            detail = f"{shown(rule.find)} -> {shown(rule.with_)}"
            yield change("replace", detail, cell, times=count, old=rule.find, new=rule.with_)


def _insert(notebook: NotebookNode, rule: Insert, where: str) -> Change:
    side, anchor = ("before", rule.before) if rule.before is not None else ("after", rule.after or "")
    found = [cell for cell in source_cells(notebook) if anchor in cell.source]
    if len(found) != 1:
        problem = f"{where}: insert {side} {shown(anchor)}: the text is in {_cells(len(found))}, not in exactly one"
        _refuse(notebook, problem, [] if found else [anchor])
    return add_cell(notebook, rule.source, found[0], side, f"cell inserted {side} {shown(anchor)}")


def add_cell(notebook: NotebookNode, source: str, anchor: NotebookNode, side: str, detail: str) -> Change:
    """Add a code cell next to ``anchor``, after those added there before."""
    position = next(place for place, cell in enumerate(notebook.cells) if cell is anchor)
    if side == "after":
        position += 1
        while position < len(notebook.cells) and "inserted" in notebook.cells[position].metadata.get("runner", {}):
            position += 1
    cell = new_code_cell(source=source)
    taken = {other.get("id") for other in notebook.cells}
    number = next(number for number in range(len(taken) + 1) if f"inserted-{number}" not in taken)
    cell.id, cell.metadata.runner = f"inserted-{number}", NotebookNode(inserted=True)
    notebook.cells.insert(position, cell)
    return Change(rule="insert", detail=detail, cell_index=None, cell_id=cell.id, new=source)


def _refuse(notebook: NotebookNode, problem: str, missing: list[str]) -> NoReturn:
    """Raise an error with the nearest text to the first missing text."""
    hint = "upstream changed the notebook: adapt the rule"
    if missing:
        location = _location(notebook, missing[0])
        near = nearest(missing[0], [cell.source for cell in source_cells(notebook)])
        hint = location or (f"nearest text: {shown(near)}; adapt the rule" if near else hint)
    raise BrokenInputError(problem, hint=hint)


def _location(notebook: NotebookNode, text: str) -> str | None:
    """Describe where a text occurs outside of the code cells that run."""
    kinds: list[tuple[str, Callable[[NotebookNode], bool]]] = [
        ("a dropped cell", lambda cell: cell.cell_type == "code" and "dropped" in cell.metadata.runner),
        ("a cell that is not code", lambda cell: cell.cell_type != "code"),
    ]
    for kind, is_kind in kinds:
        if any(text in cell.source for cell in notebook.cells if is_kind(cell)):
            return f"the text occurs only in {kind}; rules change only code that runs"
    return None


def nearest(text: str, sources: Sequence[str]) -> str | None:
    """Return the lines of the sources most similar to ``text``, None if nothing is similar."""
    height = max(1, len(text.splitlines()))
    windows: list[str] = []
    for source in sources:
        lines = source.splitlines()
        windows += ["\n".join(lines[at : at + height]) for at in range(max(1, len(lines) - height + 1))]
    windows = [window.strip()[:1000] for window in windows[:_COMPARED_LINES]]
    best, score = None, 0.4
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(text[:1000])
    for window in windows:
        ratio, part = _similarity(matcher, window, len(text))
        if ratio > score:
            best, score = (window if len(window) <= _SHOWN else part), ratio
    return best


def _similarity(matcher: difflib.SequenceMatcher[str], window: str, length: int) -> tuple[float, str]:
    """Return the similarity of text and window, and the part of the window aligned with the text."""
    matcher.set_seq1(window)
    if len(window) <= length:
        return matcher.ratio(), window
    longest = matcher.find_longest_match()
    start = max(0, min(longest.a - longest.b, len(window) - length))
    part = window[start : start + length]
    matcher.set_seq1(part)
    return matcher.ratio(), part


def _cells(count: int) -> str:
    return {0: "no cell", 1: "one cell"}.get(count, f"{count} cells")


def _times(count: int) -> str:
    return {0: "nowhere", 1: "once"}.get(count, f"{count} times")
