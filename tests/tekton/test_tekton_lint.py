# SPDX-License-Identifier: Apache-2.0
"""What other people's linters say about the manifests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import PATIENCE
from support.tekton import ROOT, TEKTON

LINTER = "@ibm/tekton-lint@1.1.0"
BUILD = ROOT / ".build" / "tekton-lint"


@pytest.fixture(scope="module")
def tekton_lint() -> Path:
    """Give the linter, installed once below .build."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    program = BUILD / "node_modules" / ".bin" / "tekton-lint"
    if not program.exists():
        done = subprocess.run(
            [ROOT / ".ci" / "npm-install", BUILD, LINTER],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        if done.returncode != 0:
            pytest.skip(done.stderr.strip().splitlines()[-1])
    return program


def lint(program: Path, *patterns: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), "--max-warnings", "0", *patterns],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=PATIENCE,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.mark.slow
def test_tekton_lint_finds_nothing(tekton_lint):
    """References between tasks, pipelines and runs hold for a linter that knows Tekton."""
    done = lint(tekton_lint, "tekton/tasks/*.yaml", "tekton/pipelines/*.yaml", "tekton/pipelineruns/*.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_tekton_lint_finds_a_planted_fault(tekton_lint, tmp_path):
    """The linter can fail: a runAfter to nothing is found."""
    name = "demo-workflow.yaml"
    text = (TEKTON / "pipelines" / name).read_text()
    (tmp_path / name).write_text(text.replace("- notebook-01-quality-and-pca\n", "- notebook-99\n"))
    assert (tmp_path / name).read_text() != text
    done = lint(tekton_lint, "tekton/tasks/*.yaml", str(tmp_path / name))
    assert done.returncode == 1


@pytest.mark.parametrize("tool", ["yamllint", "shellcheck"])
def test_yaml_and_shell_are_clean(tool):
    """The linters of YAML and of shell scripts are silent."""
    program = Path(sys.executable).with_name(tool)
    if not program.exists():
        pytest.skip(f"{tool} is not installed (extra `lint`)")
    what = ["--strict", str(TEKTON)] if tool == "yamllint" else [str(path) for path in TEKTON.glob("scripts/*.sh")]
    done = subprocess.run([str(program), *what], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
