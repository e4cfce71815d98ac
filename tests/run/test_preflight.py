# SPDX-License-Identifier: Apache-2.0
"""What is checked before anything is moved: a typo costs neither a queue nor an earlier result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import cli, notebooks

from runner.commands.run import make_options
from runner.core.errors import BrokenInputError, UsageError
from runner.plan.job import Job, Options, resolve
from runner.run import preflight


def state(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def job(folder: Path, name: str = "good.ipynb", **changes: Any) -> Job:
    """Return the job of a call in a folder that holds good.ipynb and the folder work."""
    notebooks.write(folder / "good.ipynb", "n_cells = 3", "print(n_cells)")
    (folder / "work").mkdir(exist_ok=True)
    return resolve(Options(notebook=str(folder / name), output_dir=folder / "out", **changes))


TYPOS: dict[str, tuple[str, dict[str, Any], str]] = {
    "without the ending": ("good", {}, "did you mean 'good.ipynb'?"),
    "another case": ("GOOD.ipynb", {}, "did you mean 'good.ipynb'?"),
    "a letter missing": ("god.ipynb", {}, "did you mean 'good.ipynb'?"),
    "a kernel": ("good.ipynb", {"kernel": "pyton3"}, "did you mean 'python3'?"),
    "a parameter": ("good.ipynb", {"parameters": {"n_cell": 4}}, "did you mean 'n_cells'?"),
    "no identifier": ("good.ipynb", {"parameters": {"n-cells": 4}}, "use a plain name"),
    "a folder to work in": ("good.ipynb", {"cwd": Path("wrk")}, "did you mean 'work'?"),
}


@pytest.mark.parametrize("typo", TYPOS)
def test_each_typo_is_a_wrong_call_with_a_hint(typo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone a usage error that says what was meant; as a part of a run, broken input to be recorded."""
    monkeypatch.chdir(tmp_path)
    name, changes, meant = TYPOS[typo]

    with pytest.raises(UsageError) as refused:
        preflight.check_standalone(job(tmp_path, name, **changes))
    assert meant in str(refused.value)
    assert "nothing was written" in str(refused.value)

    part = job(tmp_path, name, **changes, run_id="r")
    assert preflight.check_standalone(part) is None
    with pytest.raises(BrokenInputError) as broken:
        preflight.check(part)
    assert meant in str(broken.value)


def test_a_typo_leaves_the_earlier_result_where_it_is(tmp_path: Path) -> None:
    """Exit 2, no file changed, no attempt, a report that is as green as before; `--prepare-only` alike."""
    source = notebooks.write(tmp_path / "good.ipynb", "n_cells = 3")
    out = tmp_path / "out"
    assert cli.runner("run", source, "--output-dir", out).code == 0
    before = state(tmp_path)

    for wrong in (("-p", "n_cell", "4"), ("-p", "n_cell", "4", "--prepare-only")):
        ended = cli.runner("run", source, "--output-dir", out, *wrong)
        assert ended.code == 2, ended.err
        assert "did you mean 'n_cells'?" in ended.err
        assert "Traceback" not in ended.err
        assert state(tmp_path) == before

    assert cli.runner("report", out, "--fail-on-failure").code == 0


@pytest.mark.parametrize("part", [("--run-id", "r"), ("--results-dir", "results")], ids=str)
def test_somebody_who_waits_for_a_record_gets_it(tmp_path: Path, part: tuple[str, str]) -> None:
    """As a part of a plan's run the same typo is broken input, and the report lists it."""
    source = notebooks.write(tmp_path / "good.ipynb", "n_cells = 3")

    ended = cli.runner("run", source, "--output-dir", "out", "-p", "n_cell", "4", *part, cwd=tmp_path)

    assert ended.code == 9, ended.err
    record = cli.metrics(tmp_path / "out", "good")
    assert (record["status"], record["exit_code"]) == ("broken-input", 9)
    assert "did you mean 'n_cells'?" in record["reason"]


def planned(folder: Path, *entries: dict[str, Any], **more: Any) -> Path:
    for entry in entries:
        notebooks.write(folder / f"{entry['name']}.ipynb", "1")
    listed = [{"path": f"{entry['name']}.ipynb", **entry} for entry in entries]
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": "small", "notebooks": listed, **more}))
    return path


def test_a_part_of_a_plan_is_checked_before_it_waits_for_a_gpu(tmp_path: Path) -> None:
    """The gate would wait for an hour; a rule that matches nothing is told at once, without a gate."""
    rule = {"drop_cells": {"containing": ["nowhere"]}}
    path = planned(tmp_path, {"name": "a", "requires": {"gpus": 64}, "prepare": [rule]})

    ended = cli.runner("run", "a", "--plan", path, "--output-dir", tmp_path / "out", "--wait", "1h")

    assert ended.code == 9, ended.err
    record = cli.metrics(tmp_path / "out", "a")
    assert "nowhere" in record["reason"]
    assert record["gate"] is None


def test_a_dataset_that_no_source_shows_is_refused_without_a_cache_too(tmp_path: Path) -> None:
    """It has neither a URL in the source nor a place: the plan speaks of another notebook."""
    data = {"census": {"url": "https://example.org/census.h5ad", "path": "census.h5ad"}}
    path = planned(tmp_path, {"name": "a", "datasets": ["census"]}, datasets=data)
    options = Options(notebook="a", plan=path, output_dir=tmp_path / "out")

    with pytest.raises(BrokenInputError, match="no cell contains"):
        preflight.check(resolve(options))

    data["census"]["place"] = {"path": "data/census.h5ad"}  # type: ignore[assignment]
    planned(tmp_path, {"name": "a", "datasets": ["census"]}, datasets=data)
    assert preflight.check(resolve(options)).kernel == "python3"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--kernel", "pyton3", "did you mean 'python3'?"),
        ("--checkout", "wrok", "did you mean 'work'?"),
        ("--cache", "staged", "b reads census"),
        ("--secret-env", "NOT_SET_ANYWHERE", "the variable is not set"),
        ("--only", "A", "did you mean 'a'?"),
        ("--from", "bb", "did you mean 'b'?"),
    ],
)
def test_run_all_checks_its_options_before_the_first_notebook(
    tmp_path: Path, option: str, value: str, told: str
) -> None:
    """Exit 2, nothing written: not one record for each notebook that says the same."""
    (tmp_path / "work").mkdir()
    data = {"census": {"url": "https://example.org/census.h5ad", "path": "census.h5ad"}}
    path = planned(tmp_path, {"name": "a"}, {"name": "b", "datasets": ["census"]}, datasets=data)
    before = state(tmp_path)

    ended = cli.runner("run-all", path, "--output-dir", "out", option, value, cwd=tmp_path)

    assert ended.code == 2, ended.err
    assert told in ended.err
    assert state(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_run_all_leaves_what_is_wrong_with_one_notebook_to_its_run(tmp_path: Path) -> None:
    """A missing notebook is no wrong option: the others run, and the report tells it."""
    path = planned(tmp_path, {"name": "a"}, {"name": "b"})
    (tmp_path / "a.ipynb").unlink()
    given = {"notebook": "", "plan": path, "parameters": (), "env": (), "no_html": True}
    jobs = [resolve(make_options({**given, "notebook": name})) for name in ("a", "b")]

    preflight.check_options(jobs)

    ended = cli.runner("run-all", path, "--output-dir", tmp_path / "out", "--no-html")
    assert ended.code == 1, ended.err
    summary = json.loads((tmp_path / "out" / "reports" / "summary.json").read_text())
    assert {nb["name"]: nb["status"] for nb in summary["notebooks"]} == {"a": "broken-input", "b": "succeeded"}
