# SPDX-License-Identifier: Apache-2.0
"""The examples run as they are shown."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import yaml
from support import cli

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_the_laptop_example_and_the_ci_job_run_word_for_word(tmp_path):
    """Every `runner` command of the examples' README and of the CI job ends well, in a copy of the examples."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("work"))
    blocks = re.findall(r"```console\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    job = yaml.safe_load((EXAMPLES / "ci" / "github-actions.yml").read_text())["jobs"]["notebooks"]
    lines = [*"".join(blocks).splitlines(), *(step.get("run", "") for step in job["steps"])]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("runner ")]
    summary = tmp_path / "summary.md"

    for command in commands:
        ended = cli.runner(*command, cwd=tmp_path, env={"GITHUB_STEP_SUMMARY": str(summary)})
        assert ended.code == 0, ended.err + ended.out

    assert {command[0] for command in commands} == {"plan", "run", "run-all"}
    assert "laptop: 2 of 2 notebooks succeeded" in summary.read_text()
    for folder in (tmp_path / "outputs", tmp_path / "outputs" / "laptop"):
        assert cli.metrics(folder, "01_simulate_counts")["status"] == "succeeded"
        assert cli.metrics(folder, "02_quality_control")["status"] == "succeeded"
    kept = (tmp_path / "examples" / "laptop" / "work" / "kept_cells.csv").read_text().splitlines()
    assert 200 < len(kept) < 300
