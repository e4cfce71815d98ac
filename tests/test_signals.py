# SPDX-License-Identifier: Apache-2.0
"""Who ends a run from outside still finds everything that was done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from simdriver import Device
from support import cli, notebooks

SLOW = "print('begun', flush=True)\nimport time\ntime.sleep(300)"


def begin(tmp_path: Path, *cells: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a run and return when its last cell is at work."""
    source = notebooks.write(tmp_path / "n.ipynb", *cells)
    process = cli.start("run", source, "--output-dir", tmp_path / "out", *options)
    log = tmp_path / "out" / "n.log"
    cli.until(lambda: log.exists() and "begun" in log.read_text().replace("title=", ""), "the cell's start")
    cli.until(lambda: "\nbegun" in log.read_text(), "the cell's print")
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_everything_and_ends_with_its_code(tmp_path: Path, number: int, code: int) -> None:
    """Notebook, metrics and HTML are there, the running cell is interrupted, no process is left."""
    process = begin(tmp_path, "print('first')", SLOW)
    process.send_signal(number)
    _, err = process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == code, err
    record = cli.metrics(tmp_path / "out", "n")
    assert (record["status"], record["exit_code"]) == ("terminated", code)
    assert [cell["status"] for cell in record["cells"]] == ["succeeded", "interrupted"]
    assert "begun" in cli.text_of(cli.executed(tmp_path / "out", "n"))
    assert "first" in (tmp_path / "out" / "n.html").read_text()
    assert not (tmp_path / "out" / "n.running").exists()


def test_a_cell_that_ignores_the_interrupt_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """The kernel is killed after a short grace, and the record is written all the same."""
    stubborn = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{SLOW}"
    process = begin(tmp_path, stubborn)
    process.terminate()
    process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == 143
    assert cli.metrics(tmp_path / "out", "n")["status"] == "terminated"


def test_a_second_signal_changes_nothing(tmp_path: Path) -> None:
    """Impatience does not cost the record."""
    process = begin(tmp_path, SLOW)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
        time.sleep(0.05)
    process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == 143
    assert cli.metrics(tmp_path / "out", "n")["reason"].startswith("received SIGTERM")


def test_a_signal_while_the_gate_waits_is_recorded(tmp_path: Path, simulated_driver) -> None:
    """Nothing ran, and that is what the record says."""
    simulated_driver.write(Device(used_bytes=70 * 10**9))
    source = notebooks.write(tmp_path / "n.ipynb", "1")
    options = ["--output-dir", tmp_path / "out", "--min-gpu-memory-gb", "40", "--wait", "5m"]
    process = cli.start("run", source, *options, env=simulated_driver.env)
    cli.until((tmp_path / "out" / "n.running").exists, "the run's claim")
    time.sleep(1)
    process.terminate()
    process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == 143
    record = cli.metrics(tmp_path / "out", "n")
    assert record["status"] == "terminated"
    assert record["cells"] == []


def test_a_killed_runner_leaves_a_valid_notebook_and_is_reported_lost(tmp_path: Path) -> None:
    """After SIGKILL the notebook on disk is whole and has what was printed before the last save was due."""
    ticks = "import time\nprint('begun', flush=True)\nfor i in range(600):\n    print('tick', time.time(), flush=True)\n    time.sleep(0.1)"
    process = begin(tmp_path, "print('first')", ticks)
    executed = tmp_path / "out" / "n.executed.ipynb"
    cli.until(lambda: executed.exists() and "tick 1" in executed.read_text(), "a save within the cell")
    time.sleep(6)
    process.kill()
    killed_at = time.time()
    process.wait()

    printed = [
        line.split()[1] for line in cli.text_of(cli.executed(tmp_path / "out", "n")).splitlines() if "tick" in line
    ]
    assert killed_at - float(printed[-1]) < 5 + 5  # 5 s by contract; as much again for a loaded machine
    report = cli.runner("report", tmp_path / "out", "--fail-on-failure")
    summary = json.loads((tmp_path / "out" / "reports" / "summary.json").read_text())
    assert report.code == 1
    assert [notebook["status"] for notebook in summary["notebooks"]] == ["lost"]


def test_the_kernel_ends_when_its_runner_is_killed(tmp_path: Path) -> None:
    """No kernel goes on alone with a GPU after its runner is gone."""
    process = begin(tmp_path, f"import os; print('pid', os.getpid())\n{SLOW}")
    log = (tmp_path / "out" / "n.log").read_text()
    kernel = int(log.split("\npid ")[1].split()[0])
    process.kill()
    process.wait()

    def gone() -> bool:
        try:
            os.kill(kernel, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{kernel}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    cli.until(gone, "the kernel's end")


def test_a_signal_while_children_are_swept_finds_the_record_written(tmp_path: Path) -> None:
    """The record is on the disk before the sweep of stubborn children, which takes its time."""
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    start = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)\nimport time; time.sleep(1)"
    source = notebooks.write(tmp_path / "n.ipynb", start)
    process = cli.start("run", source, "--output-dir", tmp_path / "out")
    cli.until((tmp_path / "out" / "n.metrics.json").exists, "the early record")
    process.terminate()
    process.communicate(timeout=cli.PATIENCE)

    record = cli.metrics(tmp_path / "out", "n")
    assert record["status"] == "succeeded"
    assert [found["ended_by"] for found in record["release"]["swept"]] == ["SIGKILL"]
