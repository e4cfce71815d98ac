# SPDX-License-Identifier: Apache-2.0
"""What a killed run leaves is taken away by the next one, and nothing that belongs to anybody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cli, notebooks
from support.children import CHILD, HOW, WAIT, gone

from runner.core import files

KNOWN_BY_ITS_TAG = [how for how in HOW if "nothing is left" not in how]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Give a folder in which runs are killed; whatever is left is ended."""
    world = World(tmp_path)
    yield world
    for pid in world.pids:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)


class World:
    """Runs of notebooks that start a child and then wait."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.pids: list[int] = []
        (folder / "plan.yaml").write_text(
            json.dumps({"version": 1, "name": "p", "notebooks": [{"name": "other", "path": "other.ipynb"}]})
        )
        notebooks.write(folder / "other.ipynb", "1")

    def start(self, name: str, how: str) -> tuple[subprocess.Popen[str], int]:
        """Start a run and return its process and the pid of its notebook's child."""
        pid_file = self.folder / f"{name}.pid"
        child = HOW[how].format(child=CHILD.format(pid_file=str(pid_file)))
        source = notebooks.write(
            self.folder / f"{name}.ipynb", child, WAIT.format(pid_file=str(pid_file)) + "time.sleep(600)"
        )
        process = cli.start("run", source, "--output-dir", self.out, "--no-html")
        cli.until(lambda: pid_file.exists() and pid_file.read_text(), "the child")
        self.pids.append(int(pid_file.read_text()))
        return process, self.pids[-1]

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill a run as the system does, without a chance to clean up."""
        process.kill()
        process.communicate(timeout=cli.PATIENCE)

    def folders(self, process: subprocess.Popen[str]) -> list[Path]:
        """Return the private folders of a run's kernel; a socket's path must be short, so they are not below ours."""
        return [*Path(tempfile.gettempdir()).glob(f"run-*-{process.pid:x}-*")]


@pytest.mark.parametrize("how", KNOWN_BY_ITS_TAG)
def test_the_next_run_of_a_name_ends_what_a_killed_one_left(world: World, how: str) -> None:
    """It says which processes these were; those of another live run go on."""
    process, left = world.start("n", how)
    living, alive = world.start("living", "a session of its own")
    world.kill(process)
    assert not gone(left)
    notebooks.write(world.folder / "n.ipynb", "1")
    (world.out / f".n.log.{files.mark()}.abcdefgh.part").write_text("of a live process")
    assert len(world.folders(process)) == 1

    ended = cli.runner("run", world.folder / "n.ipynb", "--output-dir", world.out, "--no-html")

    assert ended.code == 0, ended.err
    assert gone(left)
    assert not gone(alive)
    warnings = cli.metrics(world.out, "n")["warnings"]
    assert any(f"pid {left}, SIG" in warning for warning in warnings), warnings
    assert not any(f"pid {alive}" in warning for warning in warnings)
    assert world.folders(process) == []
    assert len(world.folders(living)) == 1
    assert [path.name for path in world.out.glob(".*.part")] == [f".n.log.{files.mark()}.abcdefgh.part"]
    living.terminate()
    living.communicate(timeout=cli.PATIENCE)
    assert world.folders(living) == []


def test_run_all_ends_what_killed_runs_of_any_name_left(world: World) -> None:
    """Their claims stay, so that a report finds them lost."""
    process, left = world.start("n", "a session of its own")
    world.kill(process)

    ended = cli.runner("run-all", world.folder / "plan.yaml", "--output-dir", world.out, "--no-html")

    assert ended.code == 0, ended.err
    assert gone(left)
    assert f"pid {left}" in ended.err
    assert (world.out / "n.running").exists()


def dead_mark() -> str:
    """Return the mark of a process that has ended."""
    script = "from runner.core import files; print(files.mark())"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_only_what_dead_processes_of_this_namespace_made_is_left_over() -> None:
    """Another namespace, a live process, and names without an owner are somebody's."""
    dead, live = dead_mark(), files.mark()
    elsewhere = f"{'0' * 8}{dead[8:]}"

    assert files.is_left_over(f".n.log.{dead}.abc_1234.part")
    assert files.is_left_over(f"run-{dead}-abc_1234")
    for mark in (live, elsewhere, "", "x" * 8, dead.replace("-", "_")):
        assert not files.is_left_over(f".n.log.{mark}.abc_1234.part")
        assert not files.is_left_over(f"run-{mark}-abc_1234")
    assert not files.is_left_over(f"{dead}.part")
    assert not files.is_left_over("." * 10_000)


def test_a_pid_that_is_used_again_is_another_process() -> None:
    """A process of that number that started at another time did not make the file."""
    namespace, pid, started = files.mark().split("-")

    assert files.is_left_over(f"run-{namespace}-{pid}-{int(started, 16) - 1:x}-abc_1234")


def test_left_over_files_and_folders_go_and_links_lead_nowhere(tmp_path: Path) -> None:
    """A link of a dead process goes, what it points to stays."""
    mark = dead_mark()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")
    (tmp_path / "tmp" / f"run-{mark}-aaaaaaaa").mkdir()
    (tmp_path / "tmp" / f"run-{mark}-aaaaaaaa" / "k.json").write_text("{}")
    (tmp_path / "tmp" / f"run-{mark}-bbbbbbbb").symlink_to(tmp_path / "kept")
    (tmp_path / "tmp" / "run-of-somebody").mkdir()

    files.remove_left_over(tmp_path / "tmp", "run-*")
    files.remove_left_over(tmp_path / "missing", "run-*")

    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["run-of-somebody"]
    assert (tmp_path / "kept" / "file").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_convert_ends_at_a_signal_and_leaves_whole_pages(tmp_path: Path, number: int, code: int) -> None:
    """Whatever it was doing: the pages that are there are whole, and no temporary file is."""
    cells = [notebooks.code(f"x = {n}", outputs=[notebooks.result("y" * 5000)]) for n in range(200)]
    for position in range(50):
        notebooks.write(tmp_path / "in" / f"{position:02}.ipynb", *cells)
    process = cli.start("convert", tmp_path / "in", "--output-dir", tmp_path / "pages")
    cli.until(lambda: (tmp_path / "pages").exists() and any((tmp_path / "pages").glob("*.html")), "a page")

    process.send_signal(number)
    out, err = process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == code, err
    pages = list((tmp_path / "pages").iterdir())
    assert all(page.suffix == ".html" and page.read_text().rstrip().endswith("</html>") for page in pages)
    assert 0 < len(pages) < 50
    assert set(out.split()) <= {str(page) for page in pages}
