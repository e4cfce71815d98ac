# SPDX-License-Identifier: Apache-2.0
"""What a repair changes, decided before anything runs."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from support import notebooks

from runner.core.errors import BrokenInputError, RunnerError, UsageError
from runner.core.notebook_document import read_notebook
from runner.plan.model import Rule
from runner.run.repair import Repair, plan_repair
from runner.stages.prepare.prepare import prepare

CELLS = ("a = 1", notebooks.markdown("# two"), "b = a", "raise ValueError", "c = b")
RULES = [Rule.model_validate({"insert": {"source": "d = 0", "before": "b = a"}})]


def repair(folder: Path, request: dict[str, Any], *, ids: bool = True, rules: list[Rule] = RULES) -> Repair:
    """Plan a repair of the notebook above, which failed in its third code cell."""
    source = read_notebook(_written(folder / "n.ipynb", CELLS, ids=ids))
    again = functools.partial(prepare, rules=rules, parameters={"a": 7})
    executed = again(source).notebook
    failed = next(at for at, cell in enumerate(executed.cells) if "raise" in cell.source)
    if "cells" in request:
        fixed = read_notebook(_written(folder / "fixed.ipynb", request.pop("cells"), ids=ids))
        request["notebook"] = json.loads(json.dumps(fixed))
    return plan_repair(request, executed=executed, source=source, prepare=again, failed=failed)


def _written(path: Path, cells: tuple[Any, ...], *, ids: bool) -> Path:
    document = notebooks.document(*cells)
    if not ids:
        document["nbformat_minor"] = 4
        for cell in document["cells"]:
            del cell["id"]
    path.write_text(json.dumps(document))
    return path


def test_one_cell_is_replaced_and_all_from_the_failed_one_on_run(tmp_path: Path) -> None:
    """Cells are numbered as in the source, whatever a rule inserted."""
    planned = repair(tmp_path, {"cell": 3, "source": "c = 3"})
    assert [number for number, _ in planned.changed] == [3]
    assert [cell.source for cell in planned.cells.values()] == ["c = 3", "c = b"]
    assert [cell.source for cell in planned.source.cells] == ["a = 1", "# two", "b = a", "c = 3", "c = b"]


def test_parameters_and_rules_hold_for_the_repair(tmp_path: Path) -> None:
    """From the first cell on, the parameter's value stands in the new source."""
    planned = repair(tmp_path, {"cells": ("a = 2", CELLS[1], "b = a", "c = 3", "c = b"), "from_cell": 1})
    assert [cell.source for cell in planned.cells.values()] == ["a = 7", "d = 0", "b = a", "c = 3", "c = b"]
    assert [number for number, _ in planned.changed] == [3]  # the first one is what the parameter makes it


def test_a_hint_names_no_cell_that_has_no_number(tmp_path: Path) -> None:
    """Where a cell that a rule inserted failed, one goes on from a cell of the source before it."""
    rules = [Rule.model_validate({"insert": {"source": "raise KeyError", "before": "raise ValueError"}})]
    cells = (*CELLS[:2], "b = a + 1", *CELLS[3:])
    with pytest.raises(UsageError, match="is before the failed cell inserted") as error:
        repair(tmp_path, {"cells": cells}, rules=rules)
    assert "--from-cell 2 continues" in (error.value.hint or "")
    assert "inserted" not in (error.value.hint or "")


def test_an_earlier_change_is_left_out_of_what_ran_when_the_user_says_so(tmp_path: Path) -> None:
    """The notebook that is recorded as run holds what ran, and the user is told."""
    cells = ("a = 1", CELLS[1], "b = a + 1", "c = 3", "c = b")
    rules = [Rule.model_validate({"insert": {"source": "d = 0", "before": "b = a"}})]
    with pytest.raises(UsageError, match="cell 2 was changed but is before the failed cell 3") as error:
        repair(tmp_path, {"cells": cells}, rules=rules)
    assert "--from-cell 2" in (error.value.hint or "")
    planned = repair(tmp_path, {"cells": cells, "from_cell": 3}, rules=rules)
    assert planned.source.cells[2].source == "b = a"
    assert "cell 2 was changed but does not run again: its effects are kept" in planned.summary


@pytest.mark.parametrize("ids", [True, False], ids=["with ids", "without ids"])
@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ((*CELLS, "e = 1"), "added, from cell 5"),
        (CELLS[:-1], "removed, from cell 4"),
        ((CELLS[0], CELLS[1], CELLS[3], CELLS[2], CELLS[4]), "moved"),
    ],
    ids=["added", "removed", "moved"],
)
def test_other_cells_are_refused(tmp_path: Path, cells: tuple[Any, ...], says: str, ids: bool) -> None:
    """Which of them ran could not be told; without ids their order tells."""
    if ids:
        known = {json.dumps(cell): f"c{at}" for at, cell in enumerate(CELLS)}
        made = [notebooks.code(cell) if isinstance(cell, str) else cell for cell in cells]
        cells = tuple({**new, "id": known.get(json.dumps(old), "new")} for new, old in zip(made, cells, strict=True))
    with pytest.raises(UsageError, match=says):
        repair(tmp_path, {"cells": cells}, ids=ids)


def test_markdown_may_change_as_it_likes(tmp_path: Path) -> None:
    """It is no part of what runs."""
    cells = ("a = 1", "b = a", notebooks.markdown("x"), notebooks.markdown("y"), "c = 3", "c = b")
    planned = repair(tmp_path, {"cells": cells}, ids=False)
    assert [cell.source for cell in planned.cells.values()] == ["c = 3", "c = b"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"cell": 9, "source": "1"}, "code cell 9 does not exist"),
        ({"cell": 3}, "no source for cell 3"),
        ({"retry": True, "from_cell": 4}, "is after the failed cell 3"),
        ({"retry": True, "from_cell": 9}, "code cell 9 does not exist"),
        ({"cell": 3, "source": "raise ValueError"}, "no cell from the failed one on is changed"),
        ({"cell": 2, "source": "x = 1"}, "matched|is in no cell"),
        ({"notebook": []}, "not a notebook"),
        ({"notebook": {"cells": 5}}, "no list of `cells`"),
        ({}, "no cell from the failed one on is changed"),
    ],
)
def test_what_cannot_work_is_said(tmp_path: Path, request_: dict[str, Any], says: str) -> None:
    """Each with what would."""
    with pytest.raises(RunnerError, match=says) as error:
        repair(tmp_path, request_)
    assert isinstance(error.value, UsageError | BrokenInputError)
    assert error.value.hint
