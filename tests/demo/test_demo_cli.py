# SPDX-License-Identifier: Apache-2.0
"""`runner demo` runs from nothing to a report, without a download."""

from __future__ import annotations

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
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


@pytest.mark.slow
@pytest.mark.skipif(find_spec("scanpy") is None, reason="scanpy is not installed: make setup")
def test_the_demo_ends_with_three_successes_and_a_report(tmp_path: Path) -> None:
    """Each notebook has its record and page, and the report says on what they ran."""
    process = subprocess.run(
        [*cli.RUNNER, "demo", "--output-dir", str(tmp_path / "out"), "--json"],
        capture_output=True,
        text=True,
        env=cli.environment(),
        check=False,
    )

    assert process.returncode == 0, process.stderr
    summary = json.loads(process.stdout)
    assert [(notebook["name"], notebook["status"]) for notebook in summary["notebooks"]] == [
        (name, "succeeded") for name in NAMES
    ]
    for name in NAMES:
        record = cli.metrics(tmp_path / "out", name)
        assert {cell["status"] for cell in record["cells"]} <= {"succeeded", "dropped"}
        assert all(expectation["met"] for expectation in record["expectations"])
        assert (tmp_path / "out" / f"{name}.html").stat().st_size > 10_000
    assert cli.metrics(tmp_path / "out", NAMES[0])["outputs"]["figures"] >= 5
    (page,) = (tmp_path / "out" / "reports").glob("complete_analysis_report_*.html")
    text = page.read_text()
    assert all(name in text for name in NAMES)
    assert "scanpy" in text or "rapids" in text
