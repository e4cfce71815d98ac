# SPDX-License-Identifier: Apache-2.0
"""What GitHub shows of a run: annotations at the failing cell, and the action of this repository."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from support import cli, notebooks

from runner.report.exports.github import line_of_cell

ROOT = Path(__file__).parents[2]
PLAN = """
version: 1
name: p
notebooks:
  - {name: good, path: nb/good.ipynb}
  - {name: bad, path: nb/bad.ipynb}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Lay out a repository with a plan of a good notebook and one that fails in its second code cell."""
    folder = tmp_path / "repo" / "nb"
    folder.mkdir(parents=True)
    notebooks.write(folder / "good.ipynb", "print(1)")
    bad = nbformat.v4.new_notebook()
    bad.cells = [
        nbformat.v4.new_code_cell("x = 1"),
        nbformat.v4.new_markdown_cell("# raise"),
        nbformat.v4.new_code_cell("# second\nraise ValueError('100% wrong\\nand more')"),
    ]
    nbformat.write(bad, folder / "bad.ipynb")
    (tmp_path / "repo" / "plan.yaml").write_text(PLAN)
    return tmp_path / "repo"


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("::")]


@pytest.mark.slow
def test_a_failure_is_annotated_at_the_line_of_its_cell(workspace: Path) -> None:
    """File and line are those of the repository; no line break ends the command early. Elsewhere nothing is printed."""
    on_github = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(workspace)}
    ended = cli.runner("run-all", "plan.yaml", "--output-dir", "out", "--no-html", cwd=workspace, env=on_github)
    assert ended.code == 1
    (found,) = commands(ended.err)
    line = next(
        n for n, text in enumerate((workspace / "nb/bad.ipynb").read_text().splitlines(), 1) if "# second" in text
    )
    assert found.startswith(f"::error title=bad%3A failed,file=nb/bad.ipynb,line={line}::cell 2: raise ValueError(")
    assert "100%25 wrong" in found
    assert not commands(ended.out)

    ended = cli.runner("report", "out", "--plan", "plan.yaml", cwd=workspace, env={"GITHUB_ACTIONS": ""})
    assert not commands(ended.err + ended.out)


@pytest.mark.slow
def test_the_action_runs_a_plan(workspace: Path) -> None:
    """Its step, as GitHub's shell runs it; inputs are variables and become no code."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    step = next(step for step in action["runs"]["steps"] if step.get("id") == "run")
    inputs = {name: str(one.get("default", "")) for name, one in action["inputs"].items()}
    inputs |= {"plan": "plan.yaml", "output-dir": "out $(touch hacked)", "only": "good\n"}
    filled = {
        name: re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda match: inputs[match[1]], value)
        for name, value in step["env"].items()
    }
    assert "${{" not in step["run"]
    environ = cli.environment(filled) | {
        "GITHUB_OUTPUT": str(workspace / "set"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(shell, cwd=workspace, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outputs = dict(line.split("=", 1) for line in (workspace / "set").read_text().splitlines())
    assert set(outputs) == set(action["outputs"])
    assert all((workspace / path).is_file() for path in outputs.values())
    summary = json.loads((workspace / outputs["summary"]).read_text())
    assert [one["name"] for one in summary["notebooks"]] == ["good"]
    assert not (workspace / "hacked").exists()


@pytest.mark.parametrize("split", [True, False], ids=["lines", "one text"])
@pytest.mark.parametrize("escaped", [True, False], ids=["ascii", "unicode"])
def test_the_line_of_a_cell_is_found_however_json_is_written(tmp_path: Path, *, split: bool, escaped: bool) -> None:
    """Equal first lines count in order; a source is a list of lines or one text, with or without escapes."""
    sources = ["same = 'é'\n1\n", "same = 'é'\n2\n", '"quoted" \\ back\n3\n']
    cells = [
        {"cell_type": "code", "source": one.splitlines(keepends=True) if split else one, "outputs": []}
        for one in sources
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}, indent=1, ensure_ascii=escaped), encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = [json.dumps(one.splitlines()[0], ensure_ascii=escaped)[1:-1] for one in sources]
    starts = [n for n, line in enumerate(lines, 1) if any(head in line for head in heads)]
    assert [line_of_cell(path, index) for index in range(3)] == starts
    assert line_of_cell(path, 3) is None


@pytest.mark.parametrize("text", ["", "[]", '{"cells": [1]}', '{"cells": [{"cell_type": "code"}]}', "{"])
def test_a_file_that_is_not_a_notebook_has_no_line(tmp_path: Path, text: str) -> None:
    """The annotation then names the file alone."""
    (tmp_path / "a.ipynb").write_text(text)
    assert line_of_cell(tmp_path / "a.ipynb", 0) is None
    assert line_of_cell(tmp_path / "none.ipynb", 0) is None
