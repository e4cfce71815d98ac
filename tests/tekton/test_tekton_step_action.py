# SPDX-License-Identifier: Apache-2.0
"""The step of the executor, for Tasks of other people."""

from __future__ import annotations

import re
import runpy

import yaml
from support import cli, notebooks, tekton

MADE = runpy.run_path(str(tekton.ROOT / ".ci" / "step_action.py"))
FILE = tekton.TEKTON / "stepactions" / "run-notebook.yaml"
ACTION = yaml.safe_load(FILE.read_text())["spec"]


def test_the_checked_in_file_is_made_from_the_task():
    """A parameter of the Task is one of the StepAction."""
    assert FILE.read_text() == MADE["text"](), "run `python .ci/step_action.py`"


def test_it_names_nothing_that_a_task_would_have_to_have():
    """Tekton replaces parameters alone in a StepAction, and each of them is declared and used."""
    names = {one["name"] for one in ACTION["params"]}
    used = set()
    for text in tekton.texts({key: value for key, value in ACTION.items() if key not in {"params", "description"}}):
        for reference in tekton.REFERENCE.findall(text):
            kind, _, name = reference.partition(".")
            assert reference == "context.task.retry-count" or kind == "params", text
            used |= {name} if kind == "params" else set()
    assert used == names
    assert "volumeMounts" not in ACTION
    assert "script" not in ACTION
    assert "/etc/runner" not in str({key: value for key, value in ACTION.items() if key != "description"})


def test_a_step_of_it_runs_a_notebook(tmp_path):
    """With the defaults, and what a Task has to say: where its workspace is."""
    volume = tmp_path / "volume"
    notebooks.write(volume / "source" / "one.ipynb", "1 + 1")
    values = {one["name"]: one["default"] for one in ACTION["params"] if "default" in one}
    values |= {
        "workspace": str(volume), "notebook-name": "source/one.ipynb", "results-dir": str(tmp_path / "results"),
    }  # fmt: skip

    def filled(text: str) -> str:
        return re.sub(r"\$\(params\.([\w-]+)\)", lambda match: values[match[1]], text).replace(
            "$(context.task.retry-count)", "0"
        )

    env = {one["name"]: filled(one["value"]) for one in ACTION["env"] if "value" in one}
    assert ACTION["command"] == ["runner"]
    ended = cli.runner(*map(filled, ACTION["args"]), env=env, cwd=volume)
    assert ended.code == 0, ended.err
    assert (tmp_path / "results" / "status").read_text() == "succeeded"
    assert (volume / "outputs" / "one.metrics.json").is_file()
