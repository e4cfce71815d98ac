# SPDX-License-Identifier: Apache-2.0
"""`runner plan init`: a folder of notebooks becomes a plan that is sound and says what was guessed."""

from __future__ import annotations

import shutil
from importlib import resources

import pytest
from support import cli, notebooks

from runner.core.errors import UsageError
from runner.plan.model import load, parse
from runner.stages.prepare.plan_starter import starter


def test_needs_follow_from_files_that_one_writes_and_another_reads(tmp_path):
    """Through variables, Path and f-strings; the order of the plan is the order of the needs, not of the names."""
    notebooks.write(
        tmp_path / "1_plot.ipynb",
        "%matplotlib inline\nfrom pathlib import Path",
        "D = Path('h5')",
        "read(D / 'b.h5ad')",
    )
    notebooks.write(tmp_path / "2_fit.ipynb", "A = 'h5'\nx = sc.read(f'{A}/a.h5ad')", "x.write('h5/b.h5ad')")
    notebooks.write(
        tmp_path / "sub" / "3_prep.ipynb", "import cudf", "x.write_h5ad('../h5/a.h5ad')", "x.read('../h5/a.h5ad')"
    )
    plan = parse(starter(tmp_path, tmp_path).text, "plan.yaml")
    assert [(one.name, one.needs) for one in plan.notebooks] == [
        ("3_prep", []),
        ("2_fit", ["3_prep"]),
        ("1_plot", ["2_fit"]),
    ]
    assert plan.notebook("3_prep").products == ["h5/a.h5ad"]
    assert plan.notebook("3_prep").requires.gpus == 1
    assert plan.notebook("1_plot").requires.gpus is None


def test_a_file_changed_in_place_is_no_product(tmp_path):
    """It was there before, so nothing may move it away."""
    notebooks.write(tmp_path / "a.ipynb", "x = pd.read_csv('data.csv')", "x.to_csv('data.csv')")
    notebooks.write(tmp_path / "b.ipynb", "x = pd.read_csv('data.csv')")
    plan = parse(starter(tmp_path, tmp_path).text, "plan.yaml")
    assert [(one.products, one.needs) for one in plan.notebooks] == [([], []), ([], [])]


def test_notebooks_that_read_each_other_still_make_a_plan(tmp_path):
    """A plan has no circles: the one that comes first by name does not wait."""
    notebooks.write(tmp_path / "a.ipynb", "read('b.csv')", "write('a.csv')")
    notebooks.write(tmp_path / "b.ipynb", "read('a.csv')", "write('b.csv')")
    plan = parse(starter(tmp_path, tmp_path).text, "plan.yaml")
    assert [(one.name, one.needs) for one in plan.notebooks] == [("a", []), ("b", ["a"])]


@pytest.mark.parametrize("name", ["yes", "a: b #c", "-x", "größe", "x" * 200, "01", "'"])
def test_odd_names_make_a_valid_plan(tmp_path, name):
    """Whatever files are called, and twice the same name in two folders."""
    notebooks.write(tmp_path / f"{name}.ipynb", "1", kernel="a: [b")
    notebooks.write(tmp_path / "d" / f"{name}.ipynb", "1")
    plan = parse(starter(tmp_path, tmp_path).text, "plan.yaml")
    assert {one.path for one in plan.notebooks} == {f"{name}.ipynb", f"d/{name}.ipynb"}
    assert {one.kernel for one in plan.notebooks} == {"a: [b", "python3"}


def test_the_command_writes_a_sound_plan_with_its_schema(tmp_path):
    """Of the demo's notebooks it guesses what their own plan says; a plan that exists is left alone."""
    with resources.as_file(resources.files("runner.demo")) as demo:
        for path in demo.glob("*.ipynb"):
            shutil.copy(path, tmp_path)
        shipped = load(demo / "plan.yaml")
    (tmp_path / "broken.ipynb").write_text("{")
    shown = cli.runner("plan", "init", "--from", tmp_path)
    assert shown.code == 0, shown.err
    assert "3 notebooks" in shown.out
    assert "broken.ipynb is not valid JSON" in shown.err
    made = load(tmp_path / "plan.yaml")
    guessed = [(one.name, one.needs, one.products, one.requires.cpu_fallback) for one in made.notebooks]
    assert guessed == [(one.name, one.needs, one.products, True) for one in shipped.notebooks]
    assert cli.runner("plan", "check", tmp_path / "plan.yaml").code == 0
    assert (tmp_path / "plan.yaml").read_text().startswith("# yaml-language-server: $schema=plan.schema.json\n")
    assert '"$id"' in (tmp_path / "plan.schema.json").read_text()
    assert cli.runner("plan", "init", "--from", tmp_path).code == 2


def test_a_folder_that_cannot_be_planned_says_why(tmp_path):
    """Without notebooks, or beside the plan's own."""
    with pytest.raises(UsageError, match="no notebook found in"):
        starter(tmp_path, tmp_path)
    with pytest.raises(UsageError, match="is not below"):
        starter(tmp_path, tmp_path / "plans")
