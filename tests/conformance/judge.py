# SPDX-License-Identifier: Apache-2.0
"""Holds what an engine left against the truth of the case: four questions, each answered right or wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.engines import Ended, Engine
    from conformance.truths import Case

QUESTIONS = ("exit", "cell", "outputs", "processes")
"""Exit code right, failing cell right, saved outputs whole, nothing left running."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answers for one case and one engine."""

    wrong: dict[str, str]
    """Question -> what is wrong; questions that are not listed were answered right."""
    hangs: bool = False

    @property
    def right(self) -> bool:
        """Whether all four answers are right."""
        return not self.wrong


def judge(case: Case, engine: Engine, ended: Ended) -> Verdict:
    """Return the verdict on one run."""
    if ended.code is None:
        wrong = dict.fromkeys(("exit", "cell", "processes"), "it does not end")
    else:
        found = {"exit": engine.wrong_code(case, ended), "cell": _wrong_cell(case, engine.blamed(ended))}
        found["processes"] = f"left running: {'; '.join(ended.left)}" if ended.left else None
        wrong = {question: reason for question, reason in found.items() if reason}
    outputs = _wrong_outputs(case, ended)
    if outputs:
        wrong["outputs"] = outputs
    return Verdict(wrong={q: wrong[q] for q in QUESTIONS if q in wrong}, hangs=ended.code is None)


def _wrong_cell(case: Case, blamed: set[int]) -> str | None:
    due = set() if case.cell is None else {case.cell}
    if blamed == due:
        return None
    return f"it names {_cells(blamed)}, at fault is {_cells(due)}"


def _cells(places: set[int]) -> str:
    return f"cell {', '.join(map(str, sorted(places)))}" if places else "no cell"


def _wrong_outputs(case: Case, ended: Ended) -> str | None:
    if ended.damaged:
        return ended.damaged
    if ended.saved is None:
        return "nothing was saved" if case.saved else None
    text = printed(ended.code_cells())
    missing = [want for want in case.kept if want not in text] if case.saved else []
    false = [lie for lie in case.absent if lie in text]
    if missing:
        return f"missing from the saved outputs: {missing[0][-60:]!r}"
    return f"among the saved outputs, but never happened: {false[0][:60]!r}" if false else None


def printed(cells: list[dict[str, Any]]) -> str:
    """Return everything that the outputs of cells show, in one text."""
    parts: list[str] = []
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            pieces = [output.get("text"), output.get("ename"), output.get("evalue"), *data.values()]
            parts += ["".join(p) if isinstance(p, list) else str(p) for p in pieces if p is not None]
    return "\n".join(parts)
