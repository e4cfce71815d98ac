# SPDX-License-Identifier: Apache-2.0
"""`pytest --runner`: notebooks as tests."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from support import cli, notebooks


@pytest.fixture
def folder(tmp_path):
    notebooks.write(tmp_path / "good.ipynb", "1")
    notebooks.write(tmp_path / "sub" / "bad.ipynb", "x = 0", "1 / x")
    notebooks.write(tmp_path / "hidden.ipynb", "from IPython.display import *", "%%capture\n1 / 0")
    notebooks.write(tmp_path / ".ipynb_checkpoints" / "good-checkpoint.ipynb", "1 / 0")
    return tmp_path


def run_pytest(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", *arguments],
        cwd=folder, env=cli.environment(), capture_output=True, text=True, check=False, timeout=cli.PATIENCE,
    )  # fmt: skip


def test_each_notebook_is_a_test_with_our_truth(folder):
    """A hidden error fails as well; the failing cell is shown as a traceback; junit is pytest's; processes work."""
    ended = run_pytest(
        folder,
        "--runner",
        "-n",
        "2",
        "--junit-xml",
        "junit.xml",
        "--runner-args=--no-html",
        "--runner-output-dir",
        "out",
    )

    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout
    assert "2 failed" in ended.stdout
    assert "ZeroDivisionError: division by zero" in ended.stdout
    assert "1 / x" in ended.stdout
    assert "failed: ZeroDivisionError in cell 2" in ended.stdout
    assert "pytest_plugin.py" not in ended.stdout
    assert cli.metrics(folder / "out", "sub__bad")["status"] == "failed"
    assert len(ET.parse(folder / "junit.xml").findall(".//testcase")) == 3


def test_without_the_option_no_notebook_is_collected(folder):
    """Who installs us for something else sees no difference."""
    assert run_pytest(folder).returncode == 5


def test_a_wrong_option_is_shown_and_nothing_is_kept(folder):
    """What the command says is the failure; without a folder for them, records are deleted."""
    before = sorted(path.name for path in folder.iterdir())

    ended = run_pytest(folder, "--runner", "good.ipynb", "--runner-args=--no-such-option")

    assert ended.returncode == 1
    assert "no option '--no-such-option'" in ended.stdout
    assert sorted(path.name for path in folder.iterdir()) == before
