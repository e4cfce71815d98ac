# SPDX-License-Identifier: Apache-2.0
"""`runner demo` runs from nothing to a report, without a download."""

from __future__ import annotations

from pathlib import Path

from support import cli

from runner.plan.model import load

NAMES = ["01_quality_and_pca", "02_clusters_and_markers", "03_pearson_residuals"]


def test_the_demo_can_be_copied_to_be_run_step_by_step(tmp_path: Path) -> None:
    """A pipeline takes the plan and its notebooks from there; nothing runs."""
    ended = cli.runner("demo", "--copy-to", tmp_path / "checkout", cwd=tmp_path)

    assert ended.code == 0, ended.err
    path = Path(ended.out.strip())
    assert [notebook.name for notebook in load(path).notebooks] == NAMES
    assert all((path.parent / notebook.path).exists() for notebook in load(path).notebooks)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkout"]
