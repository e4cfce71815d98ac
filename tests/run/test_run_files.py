# SPDX-License-Identifier: Apache-2.0
"""Files of runs: nothing is overwritten, nothing is half written, nobody writes beside anybody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from support import cli, notebooks


def test_the_first_run_is_kept_when_a_second_one_writes(tmp_path: Path) -> None:
    """Earlier files of a name move to attempts/NAME/<n>/, whole."""
    out = tmp_path / "out"
    for value in ("first", "second", "third"):
        notebooks.write(tmp_path / "n.ipynb", f"print('{value}')")
        assert cli.runner("run", tmp_path / "n.ipynb", "--output-dir", out).code == 0

    assert "third" in cli.text_of(cli.executed(out, "n"))
    assert "first" in cli.text_of(cli.executed(out / "attempts" / "n" / "1", "n"))
    assert "second" in cli.text_of(cli.executed(out / "attempts" / "n" / "2", "n"))
    assert cli.metrics(out, "n")["outputs"]["attempts"] == ["attempts/n/1", "attempts/n/2"]


def _landed(folder: Path) -> list[str]:
    """Names of the files in `folder`, without those that a living run is about to rename."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".part")


def test_two_runs_of_one_name_at_once_end_with_usage(tmp_path: Path) -> None:
    """The second exits 2, says who runs, and writes nothing."""
    notebooks.write(tmp_path / "n.ipynb", "import time; time.sleep(300)")
    first = cli.start("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out")
    try:
        cli.until((tmp_path / "out" / "n.executed.ipynb").exists, "the first run's first save")
        cli.until((tmp_path / "out" / "n.samples.csv").exists, "the first run's first sample")
        before = _landed(tmp_path / "out")
        second = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out")
        assert second.code == 2
        assert f"pid {first.pid}" in second.err
        assert "--name" in second.err
        assert _landed(tmp_path / "out") == before
        other = cli.runner(
            "run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", "--name", "m", "--timeout", "1s"
        )
        assert other.code == 4
    finally:
        first.terminate()
        first.communicate(timeout=cli.PATIENCE)


def test_a_dead_run_of_this_machine_is_taken_over(tmp_path: Path) -> None:
    """The file of a killed runner does not block the name; the record says whose it was."""
    notebooks.write(tmp_path / "n.ipynb", "import os, time; time.sleep(300 if os.environ.get('SLOW') else 0)")
    first = cli.start("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", env={"SLOW": "1"})
    cli.until((tmp_path / "out" / "n.executed.ipynb").exists, "the first run's first save")
    first.kill()
    first.wait()
    assert (tmp_path / "out" / "n.running").exists()

    second = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out")

    assert second.code == 0, second.err
    assert any("took over" in warning for warning in cli.metrics(tmp_path / "out", "n")["warnings"])


def foreign(out: Path, beat: int) -> None:
    """Write what a run on another machine would have written."""
    out.mkdir(exist_ok=True)
    running = {
        "notebook": "n",
        "run_id": "r",
        "pid": 1,
        "host": "node-7",
        "started_at": "2026-01-01T00:00:00Z",
        "beat": beat,
    }
    part = out / "part"
    part.write_text(json.dumps(running))
    part.replace(out / "n.running")


@pytest.mark.slow
def test_a_stale_run_of_another_machine_is_taken_over_after_watching(tmp_path: Path) -> None:
    """A heartbeat that does not change is dead, whatever pid and clock the file shows."""
    notebooks.write(tmp_path / "n.ipynb", "1")
    foreign(tmp_path / "out", 7)

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out")

    assert ended.code == 0, ended.err
    assert "taken-over" in ended.err
    assert "node-7" in ended.err


def test_a_live_run_of_another_machine_is_respected(tmp_path: Path) -> None:
    """A heartbeat that changes is alive, though its pid is not here."""
    notebooks.write(tmp_path / "n.ipynb", "1")
    foreign(tmp_path / "out", 0)
    process = cli.start("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out")
    beat = 0
    while process.poll() is None:
        beat += 1
        foreign(tmp_path / "out", beat)
        time.sleep(0.3)

    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "node-7" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["n.running"]


@pytest.mark.parametrize("name", ["../n", "a/b", "..", ".hidden", "-p", "a\nb", "a\u202eb", "", " n"])
def test_names_that_leave_the_folder_or_break_a_line_are_refused(tmp_path: Path, name: str) -> None:
    """Such a name is a usage error, and nothing is written."""
    notebooks.write(tmp_path / "n.ipynb", "1")

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", f"--name={name}")

    assert ended.code == (2 if name else 0), ended.err
    assert (tmp_path / "out").exists() == (not name)


def test_names_with_blanks_and_letters_of_any_script_work(tmp_path: Path) -> None:
    """The files carry the name as it is."""
    name = "01 scRNA – ещё раз 単一細胞"  # noqa: RUF001
    notebooks.write(tmp_path / f"{name}.ipynb", "print('x')")

    ended = cli.runner("run", tmp_path / f"{name}.ipynb", "--output-dir", tmp_path / "my out")

    assert ended.code == 0, ended.err
    assert cli.metrics(tmp_path / "my out", name)["notebook"] == name
    assert (tmp_path / "my out" / f"{name}.html").exists()


def test_an_output_folder_that_cannot_be_made_is_told_with_its_code(tmp_path: Path) -> None:
    """Exit 74, the path and what to do; no traceback."""
    notebooks.write(tmp_path / "n.ipynb", "1")
    (tmp_path / "file").write_text("in the way")

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "file" / "out")

    assert ended.code == 74
    assert str(tmp_path / "file") in ended.err
    assert "Traceback" not in ended.err


def test_a_full_disk_damages_nothing_that_was_there(tmp_path: Path, small_disk: Path) -> None:
    """The earlier run's files stay whole, the exit code says the record could not be written."""
    notebooks.write(tmp_path / "n.ipynb", "print('first')")
    assert cli.runner("run", tmp_path / "n.ipynb", "--output-dir", small_disk).code == 0
    notebooks.write(
        tmp_path / "n.ipynb",
        "import os, base64\nfrom IPython.display import Image, display\n"
        "display({'image/png': base64.b64encode(os.urandom(3_000_000)).decode()}, raw=True)",
    )

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", small_disk)

    assert ended.code == 74, ended.err
    assert "No space left" in ended.err
    assert "Traceback" not in ended.err
    assert "first" in cli.text_of(cli.executed(small_disk / "attempts" / "n" / "1", "n"))
    assert not list(small_disk.rglob("*.part"))


def test_a_folder_of_another_user_is_told_with_its_uid(tmp_path: Path) -> None:
    """The message names uid and the Kubernetes setting."""
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and setpriv is not here to be somebody else")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    notebooks.write(tmp_path / "n.ipynb", "1")
    command = [*cli.RUNNER, "run", str(tmp_path / "n.ipynb"), "--output-dir", str(locked)]
    if os.getuid() == 0:
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--clear-groups", *cli.RUNNER, "--version"], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("another user cannot run this Python")
        for folder in tmp_path.relative_to("/tmp").parents if tmp_path.is_relative_to("/tmp") else ():
            (Path("/tmp") / folder).chmod(0o755) if str(folder) != "." else None
        tmp_path.chmod(0o755)
        command = ["setpriv", "--reuid=65534", "--clear-groups", *command]
    done = subprocess.run(command, capture_output=True, text=True, env=cli.environment({"HOME": "/tmp"}), check=False)
    assert done.returncode == 74, done.stderr
    assert "fsGroup" in done.stderr


def test_interactive_figures_stay_on_the_page_of_a_run(tmp_path: Path) -> None:
    """With --interactive the page keeps them, and so does the page that a reused run makes again."""
    figure = '{"text/html": "<script>window.a = 1</script><b>drawn</b>"}'
    notebooks.write(tmp_path / "n.ipynb", f"from IPython.display import display\ndisplay({figure}, raw=True)")
    given = ["run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out"]
    for more in ([], ["--interactive"], ["--interactive", "--resume"]):
        page = tmp_path / "out" / "n.html"
        page.unlink(missing_ok=True)
        assert cli.runner(*given, *more).code == 0
        assert ("<iframe" in page.read_text()) is bool(more)
