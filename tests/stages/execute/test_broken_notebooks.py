# SPDX-License-Identifier: Apache-2.0
"""Damaged notebooks, kernels and plans are told as what they are; they are no fault of ours and cost nobody else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import papermill.engines  # noqa: F401  (first: it imports our engine by its entry point)
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from support import cli, notebooks

from runner.core.errors import BrokenInputError, PlanError
from runner.core.notebook_document import DEEPEST, read_notebook
from runner.plan.text import read
from runner.stages.execute.kernel import Kernel, check_kernel, runs_here
from runner.stages.execute.papermill_engine import RunnerEngine


def nested(levels: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def written(path: Path, *, cell: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a notebook of one cell with changes that no schema allows."""
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [{"cell_type": "code", "id": "a", "source": "1", "metadata": cell or {}, "outputs": []}],
        **changes,
    }
    path.write_text(json.dumps(document))
    return path


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "kernelspec is a text": ({"metadata": {"kernelspec": "python3"}}, "`metadata.kernelspec` that is not a mapping"),
    "kernel named 5": ({"metadata": {"kernelspec": {"name": 5}}}, "`metadata.kernelspec.name` that is not text, but 5"),
    "language named 5": ({"metadata": {"language_info": {"name": 5}}}, "`metadata.language_info.name`"),
    "tags are a number": ({"cell": {"tags": 5}}, "tags that are not a list of strings at cells[0], but 5"),
    "tags are a text": ({"cell": {"tags": "raises-exception"}}, "tags that are not a list of strings"),
    "tags are lists": ({"cell": {"tags": [["raises-exception"]]}}, "tags that are not a list of strings"),
    "metadata without end": (
        {"metadata": {"a": nested(900)}},
        f"nested too deeply to be a notebook: more than {DEEPEST}",
    ),
    "outputs without end": ({"cell": {"a": nested(DEEPEST)}}, "nested too deeply"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_damaged_notebook_says_where_and_what_stands_there(tmp_path: Path, name: str) -> None:
    """What decides what runs is not guessed."""
    changes, says = REFUSED[name]

    with pytest.raises(BrokenInputError) as caught:
        read_notebook(written(tmp_path / "n.ipynb", **changes))

    assert says in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000])
def test_json_that_python_does_not_read_is_a_broken_notebook(tmp_path: Path, text: str) -> None:
    """Numbers of thousands of digits and brackets without end."""
    (tmp_path / "n.ipynb").write_text(f'{{"nbformat": 4, "cells": [], "metadata": {{"a": {text}')
    if text.startswith("9"):
        (tmp_path / "n.ipynb").write_text(f'{{"nbformat": 4, "cells": [], "metadata": {{"a": {text}}}}}')

    with pytest.raises(BrokenInputError, match=r"digits|nested"):
        read_notebook(tmp_path / "n.ipynb")


@pytest.mark.parametrize(
    "changes",
    [
        {"nbformat_minor": "5"},
        {"nbformat_minor": None},
        {"metadata": {"kernelspec": None, "language_info": None, "papermill": None, "runner": 5, "widgets": "x"}},
        {"metadata": {"kernelspec": {"name": None, "display_name": None}, "language_info": "py"}},
        {"cell": {"tags": None, "papermill": "x", "runner": "x", "execution": None}},
    ],
    ids=str,
)
def test_what_is_null_or_left_from_an_earlier_run_is_as_if_it_was_not_there(tmp_path: Path, changes: Any) -> None:
    """A tool that fills fields in with null did no harm."""
    notebook = read_notebook(written(tmp_path / "n.ipynb", **changes))

    assert notebook.nbformat_minor == 5
    assert notebook.metadata in ({}, {"kernelspec": {}})
    assert notebook.cells[0].metadata == {}


def test_a_damaged_notebook_is_a_broken_input_with_a_record(tmp_path: Path) -> None:
    """Exit 9, metrics that say why, no traceback; a page can be made of it all the same."""
    written(tmp_path / "n.ipynb", cell={"tags": "raises-exception"})

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", "--run-id", "r")

    assert ended.code == 9
    assert "Traceback" not in ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert record["status"] == "broken-input"
    assert "tags that are not a list of strings at cells[0]" in record["reason"]
    assert read_notebook(tmp_path / "n.ipynb", to_run=False).cells


def test_papermills_users_are_told_as_well() -> None:
    """The engine checks what papermill hands over, before a kernel starts."""
    notebook = new_notebook(cells=[new_code_cell("1")])
    notebook.cells[0].metadata.tags = 5

    with pytest.raises(BrokenInputError, match=r"in\.ipynb has tags that are not a list of strings"):
        RunnerEngine.execute_notebook(notebook, "python3", input_path="in.ipynb", progress_bar=False)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of kernel specs of this user."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    return tmp_path / "jupyter" / "kernels"


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", "{}", '{"argv": []}', '{"argv": [""]}', '{"argv": 5}', "\udcff"],
)
def test_a_damaged_kernel_spec_is_named(kernels: Path, content: str) -> None:
    """The message leads to the file."""
    spec = kernels / "odd" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(content, errors="surrogateescape")

    with pytest.raises(BrokenInputError, match=str(spec)):
        check_kernel("odd")
    assert not runs_here("odd")


@pytest.mark.parametrize(
    "spec",
    [
        {"argv": ["/no/such/program"]},
        {"argv": ["python"], "metadata": {"kernel_provisioner": {"provisioner_name": "odd"}}},
        {"argv": ["python"], "env": {"A": "\0"}},
    ],
    ids=str,
)
def test_a_kernel_that_cannot_be_started_is_a_broken_input(kernels: Path, tmp_path: Path, spec: dict[str, Any]) -> None:
    """Whatever its spec makes go wrong."""
    (kernels / "odd").mkdir(parents=True)
    (kernels / "odd" / "kernel.json").write_text(json.dumps({"display_name": "Odd", "language": "x", **spec}))

    kernel = Kernel("odd", cwd=tmp_path, env={})
    try:
        with pytest.raises(BrokenInputError, match="'odd' cannot be started"):
            asyncio.run(kernel.start())
    finally:
        kernel.remove_folder()


def test_one_notebook_that_cannot_be_converted_costs_the_others_nothing(tmp_path: Path) -> None:
    """All are tried, also after one that does not exist or whose page cannot be written; the first decides the code."""
    written(tmp_path / "deep.ipynb", cell={"a": nested(900)})
    notebooks.write(tmp_path / "blocked.ipynb", "1")
    (tmp_path / "blocked.html").mkdir()
    notebooks.write(tmp_path / "good.ipynb", "1")
    names = ("blocked.ipynb", "none.ipynb", "deep.ipynb", "good.ipynb", "good.ipynb")

    ended = cli.runner("convert", *names, "--json", cwd=tmp_path)

    assert ended.code == 74
    assert "Traceback" not in ended.err
    answer = json.loads(ended.out)
    assert [Path(page["path"]).name for page in answer["converted"]] == ["good.html"]
    assert [problem["notebook"] for problem in answer["failed"]] == ["blocked.ipynb", "none.ipynb", "deep.ipynb"]


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nnotebooks: &x [*x]\n",
        "version: 1\nname: &x {a: *x}\n",
        "version: 1\nnotebooks: &x [*x, *x, *x]\n",
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b]\n"
        "d: &d [*c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e, *e, *e]\n",
    ],
)
def test_a_plan_that_unfolds_without_end_is_refused(text: str) -> None:
    """An alias of itself, and aliases of aliases."""
    with pytest.raises(PlanError, match="expands to more than"):
        read(text, "plan.yaml")
