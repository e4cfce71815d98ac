# SPDX-License-Identifier: Apache-2.0
"""Who ends a run from outside still finds everything that was done."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from simdriver import Device, hold_source
from support import cli, notebooks

from runner.core.units import format_seconds

SLOW = "print('begun', flush=True)\nimport time\ntime.sleep(300)"


def begin(tmp_path: Path, *cells: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a run and return when its last cell is at work."""
    source = notebooks.write(tmp_path / "n.ipynb", *cells)
    process = cli.start("run", source, "--output-dir", tmp_path / "out", *options)
    log = tmp_path / "out" / "n.log"
    cli.until(lambda: log.exists() and "begun" in log.read_text().replace("title=", ""), "the cell's start")
    cli.until(lambda: "\nbegun" in log.read_text(), "the cell's print")
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
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
    (lost,) = summary["notebooks"]
    assert lost["status"] == "lost"
    assert "the notebook was last saved at 20" in lost["reason"]
    assert "with 1 cell done" in lost["reason"]


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


def test_a_signal_while_another_notebook_makes_the_files_is_recorded(tmp_path: Path) -> None:
    """The lock of shared products may be held for hours; nobody waits for it with a signal at hand."""
    entries = [{"name": name, "path": f"{name}.ipynb", "products": ["made.txt"]} for name in ("m", "n")]
    plan = {"version": 1, "name": "p", "notebooks": entries}
    for name in ("m", "n"):
        notebooks.write(tmp_path / f"{name}.ipynb", "open('made.txt', 'w').close()")
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    hold = cli.start(script=HOLD_PRODUCTS.format(folder=str(tmp_path)))
    try:
        assert hold.stdout is not None
        assert hold.stdout.readline() == "held\n"
        process = cli.start("run", "n", "--plan", tmp_path / "plan.yaml", "--output-dir", tmp_path / "out")
        log = tmp_path / "out" / "n.log"
        cli.until(lambda: log.exists() and "waits nb=n" in log.read_text(), "the wait for the lock")
        process.terminate()
        process.communicate(timeout=cli.PATIENCE)
    finally:
        hold.kill()
        hold.communicate()

    assert process.returncode == 143
    record = cli.metrics(tmp_path / "out", "n")
    assert record["reason"] == "received SIGTERM before the notebook started"
    assert not (tmp_path / "made.txt").exists()


HOLD_PRODUCTS = """
import pathlib, time
from runner.stages.prepare.products import exclusive
with exclusive(["made.txt"], checkout=pathlib.Path({folder!r}), warm=False, name="other"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_signal_while_a_dead_run_is_watched_leaves_everything_as_it_is(tmp_path: Path) -> None:
    """The name is not ours yet: nothing is written, and the exit code is that of the signal."""
    out = tmp_path / "out"
    out.mkdir()
    theirs = {"notebook": "n", "run_id": "r", "pid": 1, "host": "node-7", "started_at": "2026-01-01T00:00:00Z"}
    (out / "n.running").write_text(json.dumps(theirs))
    source = notebooks.write(tmp_path / "n.ipynb", "1")
    process = cli.start(*("run", source, "--output-dir", out), script=WATCHING)
    assert process.stdout is not None
    assert process.stdout.readline() == "watching\n"
    process.terminate()
    _, err = process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == 143, err
    assert "received SIGTERM" in err
    assert "Traceback" not in err
    assert [path.name for path in out.iterdir()] == ["n.running"]
    assert json.loads((out / "n.running").read_text()) == theirs


WATCHING = """
from runner.outputs import claim as inflight
real = inflight.alive
def alive(paths, seconds, *, sleep):
    print("watching", flush=True)
    return real(paths, 600, sleep=sleep)
inflight.alive = alive
from runner.cli import main
main()
"""


def test_a_signal_while_the_kernel_starts_is_recorded(tmp_path: Path) -> None:
    """A kernel that never answers is not waited for."""
    spec = tmp_path / "jupyter" / "kernels" / "mute"
    spec.mkdir(parents=True)
    begun = tmp_path / "begun"
    script = f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(600)"
    argv = [sys.executable, "-c", script, "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "mute", "language": "python"}))
    source = notebooks.write(tmp_path / "n.ipynb", "1", kernel="mute")
    env = {"JUPYTER_PATH": str(tmp_path / "jupyter")}
    process = cli.start("run", source, "--output-dir", tmp_path / "out", "--no-html", env=env)
    cli.until(begun.exists, "the kernel's process")
    process.terminate()
    _, err = process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == 143, err
    record = cli.metrics(tmp_path / "out", "n")
    assert (record["status"], record["reason"]) == ("terminated", "received SIGTERM")
    assert [cell["status"] for cell in record["cells"]] == ["not-run"]


ENDLESS = """
import pathlib, time
from runner.stages.convert import page as convert
from runner.run import recorder
recorder.SIGNAL_HTML_SECONDS = 1.0
def write_page(notebook, path, **_):
    pathlib.Path(f"{path}.begun").touch()
    time.sleep(600)
convert.write_page = write_page
from runner.cli import main
main()
"""


@pytest.mark.parametrize(("cell", "status", "code"), [(SLOW, "terminated", 143), ("1", "succeeded", 0)])
def test_after_a_signal_the_page_has_its_time_and_no_more(tmp_path: Path, cell: str, status: str, code: int) -> None:
    """Notebook and metrics come first; a page that takes too long is missed with the reason."""
    source = notebooks.write(tmp_path / "n.ipynb", cell)
    out = tmp_path / "out"
    process = cli.start("run", source, "--output-dir", out, script=ENDLESS)
    if status == "terminated":
        cli.until(lambda: (out / "n.log").exists() and "\nbegun" in (out / "n.log").read_text(), "the cell's print")
        process.terminate()
    cli.until((out / "n.html.begun").exists, "the conversion")
    # The page is under way: what must not be lost is on the disk already.
    assert cli.metrics(out, "n")["status"] == status
    assert cli.executed(out, "n").metadata.runner.status == status
    process.terminate()
    _, err = process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == code, err
    record = cli.metrics(out, "n")
    assert record["status"] == status
    assert record["outputs"]["html"] is None
    assert "not done within 1 s after the signal" in record["outputs"]["unavailable"]["html"]


def test_a_signal_while_the_release_is_proved_ends_the_wait(tmp_path: Path, simulated_driver) -> None:
    """Memory that does not come back is told with what is known after the time that is left."""
    uuid = "GPU-00000000-0000-4000-8000-00000000000a"
    simulated_driver.write(Device(uuid=uuid))
    source = notebooks.write(tmp_path / "n.ipynb", hold_source(uuid, 5 * 10**9, pid="0"))
    options = ("--output-dir", tmp_path / "out", "--min-gpus", "1", "--no-html")
    process = cli.start("run", source, *options, env=simulated_driver.env, script=PROVING)
    assert process.stdout is not None
    assert process.stdout.readline() == "proving\n"
    assert cli.metrics(tmp_path / "out", "n")["status"] == "succeeded"
    process.terminate()
    _, err = process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == 0, err
    release = cli.metrics(tmp_path / "out", "n")["release"]
    assert release["released"] is False
    assert release["reason"].startswith(f"not back after {format_seconds(release['seconds'])}")


PROVING = """
from runner.run import lifecycle
from runner.stages.release import release
lifecycle.SIGNAL_RECORD_SECONDS = 1.0
release.RELEASE_SECONDS = 600.0
real = release.prove
def prove(*arguments, **more):
    print("proving", flush=True)
    return real(*arguments, **more)
release.prove = prove
from runner.cli import main
main()
"""


SIGNALLED = """
import os, signal, sys
from runner.commands import answer, run, run_all
code, command = signal.Signals[sys.argv.pop(1)], run if sys.argv[1] == "run" else run_all
real = answer.answer
def signalled(text):
    os.kill(os.getpid(), code)
    real(text)
command.answer = signalled
from runner.cli import main
main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize(("cell", "code"), [("1", 0), ("1 / 0", 1)])
@pytest.mark.parametrize("command", ["run", "run-all"])
def test_a_signal_while_the_answer_prints_changes_nothing(
    tmp_path: Path, name: str, cell: str, code: int, command: str
) -> None:
    """The record is final then; the exit code is the record's."""
    source = notebooks.write(tmp_path / "n.ipynb", cell)
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nname: p\nnotebooks: [{name: n, path: n.ipynb}]\n")
    asked = source if command == "run" else plan

    ended = cli.python(SIGNALLED, name, command, asked, "--output-dir", tmp_path / "out", "--no-html")

    assert ended.code == code, ended.err
    assert cli.metrics(tmp_path / "out", "n")["exit_code"] == code
    assert "saving and ending" not in ended.err


def test_a_signal_ends_a_run_whose_answer_nobody_reads(tmp_path: Path) -> None:
    """A reader that does not read holds the process; a signal ends it, with the record's code."""
    source, out = notebooks.write(tmp_path / "n.ipynb", "1 / 0"), tmp_path / "out"
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(65536))
    os.set_blocking(writing, True)
    process = subprocess.Popen(
        [*cli.RUNNER, "run", str(source), "--output-dir", str(out), "--no-html"],
        stdout=writing,
        stderr=subprocess.DEVNULL,
        env=cli.environment(),
    )
    try:
        cli.until(lambda: (out / "n.metrics.json").exists() and not (out / "n.running").exists(), "the end of the run")

        def ended() -> bool:
            process.terminate()
            return process.poll() is not None

        cli.until(ended, "the end by a signal")
        assert process.returncode == 1
    finally:
        process.kill()
        os.close(reading)
        os.close(writing)
