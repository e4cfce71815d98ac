# SPDX-License-Identifier: Apache-2.0
"""What a notebook starts ends with it, however it was started, and nobody else is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cli, notebooks
from support.children import CHILD, HOW, WAIT, gone

DIE = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def bystander() -> Iterator[int]:
    """Give the pid of a process like the children, but not of the run."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("end", ["normally", "killed"])
@pytest.mark.parametrize("how", HOW)
def test_what_a_notebook_leaves_behind_is_ended_and_listed(tmp_path: Path, bystander: int, how: str, end: str) -> None:
    """Its pid stands in the metrics with the way it ended; a process of somebody else lives on."""
    pid_file = str(tmp_path / "pid")
    start = HOW[how].format(child=CHILD.format(pid_file=pid_file))
    last = DIE if end == "killed" else "print('done')"
    source = notebooks.write(tmp_path / "n.ipynb", start, WAIT.format(pid_file=pid_file), last)

    ended = cli.runner("run", source, "--output-dir", tmp_path / "out", "--no-html", "--cell-timeout", "60s")

    assert ended.code == (5 if end == "killed" else 0), ended.err
    pid = int(Path(pid_file).read_text())
    assert gone(pid)
    assert not gone(bystander)
    record = cli.metrics(tmp_path / "out", "n")
    swept = {process["pid"]: process["ended_by"] for process in record["release"]["swept"]}
    assert bystander not in swept
    if (how, end) == ("a child", "normally"):
        return  # in the kernel's own group: ipykernel ends it itself when it is shut down
    assert swept[pid] == ("SIGKILL" if how == "deaf to SIGTERM" else "SIGTERM")
    assert any(f"pid {pid}" in warning for warning in record["warnings"])


def test_a_notebook_that_leaves_nothing_has_nothing_to_list(tmp_path: Path) -> None:
    """A child that came to its end is no child left behind."""
    source = notebooks.write(tmp_path / "n.ipynb", "import subprocess; subprocess.run(['true'], check=True)")

    assert cli.runner("run", source, "--output-dir", tmp_path, "--no-html").code == 0

    record = cli.metrics(tmp_path, "n")
    assert record["release"]["swept"] == []
    assert record["warnings"] == []


def test_children_end_with_a_run_that_is_told_to_end(tmp_path: Path, bystander: int) -> None:
    """SIGTERM to the runner ends the notebook and what it started."""
    pid_file = str(tmp_path / "pid")
    start = HOW["a session of its own"].format(child=CHILD.format(pid_file=pid_file))
    source = notebooks.write(tmp_path / "n.ipynb", start, WAIT.format(pid_file=pid_file) + "time.sleep(600)")
    process = cli.start("run", source, "--output-dir", tmp_path / "out", "--no-html")
    cli.until(lambda: Path(pid_file).exists() and Path(pid_file).read_text(), "the child")

    process.terminate()
    _, err = process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == 143, err
    pid = int(Path(pid_file).read_text())
    assert gone(pid)
    assert not gone(bystander)
    assert pid in {swept["pid"] for swept in cli.metrics(tmp_path / "out", "n")["release"]["swept"]}


def test_processes_of_another_run_are_left_alone(tmp_path: Path) -> None:
    """Two runs side by side: the end of one does not touch the children of the other."""
    pid_file = str(tmp_path / "pid")
    start = HOW["a session of its own"].format(child=CHILD.format(pid_file=pid_file))
    long = notebooks.write(tmp_path / "long.ipynb", start, WAIT.format(pid_file=pid_file) + "time.sleep(600)")
    short = notebooks.write(tmp_path / "short.ipynb", "1")
    process = cli.start("run", long, "--output-dir", tmp_path / "out", "--no-html")
    try:
        cli.until(lambda: Path(pid_file).exists() and Path(pid_file).read_text(), "the child")
        assert cli.runner("run", short, "--output-dir", tmp_path / "out", "--no-html").code == 0
        os.kill(int(Path(pid_file).read_text()), 0)
        assert cli.metrics(tmp_path / "out", "short")["release"]["swept"] == []
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=cli.PATIENCE)
