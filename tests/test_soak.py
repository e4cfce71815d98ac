# SPDX-License-Identifier: Apache-2.0
"""The invariants of `make soak` notice what they are there for; each is shown a world in which it is violated."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from soak import invariants
from soak.scenarios import SCENARIOS
from soak.world import NAME, Story, World
from support import cli

RECORD, PAGE = f"{NAME}.metrics.json", f"{NAME}.html"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the output folder of one healthy run."""
    world = World(tmp_path_factory.mktemp("earlier") / "w", seed=0)
    assert world.finish(world.start()) == 0, world.words()
    world.end()
    return world.out


@pytest.fixture
def world(tmp_path: Path, ended: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Give a world in which the healthy run has just ended, after one that was the same."""
    monkeypatch.setattr("soak.world.GONE_SECONDS", 0.5)
    made = World(tmp_path / "w", 0, ended)
    made.earlier_run = None
    return made


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_calm_run_violates_nothing(world: World) -> None:
    """What a healthy run leaves passes every invariant, also after the next run."""
    story = Story(code=0, allowed=frozenset({"succeeded"}))
    assert [line for check in invariants.INVARIANTS for line in check(world, story)] == []


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda out: edit(out / RECORD, exit_code=1), 0, "status succeeded with exit_code 1"),
        (lambda out: edit(out / RECORD, status="failed", exit_code=1, reason="x"), 0, "exit code 0, the record says 1"),
        (lambda out: (out / RECORD).unlink(), 0, "no word about n|but no final record|it is not-run"),
        (lambda out: None, -99, "does not end"),
        (lambda out: None, 120, "exit code 120, the record says 0"),
    ],
    ids=["code-of-record", "code-of-run", "no-record", "hang", "own-code"],
)
def test_disagreement_is_noticed(world: World, change: Callable[[Path], object], code: int, words: str) -> None:
    """Exit code, record and report have to tell one story."""
    change(world.out)
    found = invariants.all_agree(world, Story(code=code))
    assert any(part in line for line in found for part in words.split("|")), found


def test_a_status_that_the_fault_does_not_allow_is_noticed(world: World) -> None:
    """A success is no answer to a killed kernel."""
    found = invariants.all_agree(world, Story(code=0, allowed=frozenset({"kernel-died"})))
    assert "only ['kernel-died'] are right" in found[0]


def test_a_run_that_should_touch_nothing_is_watched(world: World) -> None:
    """After exit 2 every byte is as it was."""
    story = Story(code=2, untouched=True)
    assert invariants.all_agree(world, story) == []
    (world.out / PAGE).write_text("changed")
    assert invariants.all_agree(world, story) == ["a run that exits 2 changed the output folder"]


@pytest.mark.parametrize("suffix", [".metrics.json", ".executed.ipynb", ".html", ".samples.csv"])
def test_a_torn_file_is_noticed(world: World, suffix: str) -> None:
    """Half of any file is not whole; the last row of samples alone may be cut."""
    path = world.out / f"{NAME}{suffix}"
    content = path.read_bytes()
    half = content.replace(b",", b"", 1) if suffix == ".samples.csv" else content[: len(content) // 2]
    path.write_bytes(half)
    assert [line for line in invariants.files_are_whole(world, Story()) if path.name in line]


def test_lost_files_are_noticed_and_moved_ones_are_not(world: World) -> None:
    """What lies below attempts/ is kept; what is nowhere is lost."""
    (world.out / "attempts" / NAME / "1").mkdir(parents=True)
    (world.out / PAGE).rename(world.out / "attempts" / NAME / "1" / PAGE)
    assert invariants.nothing_is_lost(world, Story()) == []
    (world.out / "attempts" / NAME / "1" / PAGE).unlink()
    assert invariants.nothing_is_lost(world, Story()) == [f"of the earlier run is gone: {PAGE}"]


def test_processes_and_temporary_files_are_noticed(world: World) -> None:
    """A process with the tag, a part of a file, a claim, a folder in the place for temporary files."""
    with subprocess.Popen(["sleep", "600"], env=world.environ()) as process:
        assert "sleep 600" in invariants.no_process_is_left(world, Story(code=0))[0]
        world.end()
        assert process.wait() == -9
    for made in (world.out / ".n.html.x.part", world.out / f"{NAME}.running", world.temporary / "run-x"):
        made.write_text("")
        assert len(invariants.no_temporary_is_left(world, Story(code=0))) == 1
        made.unlink()


def test_a_seed_says_everything_and_each_scenario_has_its_turn(tmp_path: Path) -> None:
    """The same seed chooses the same moment; consecutive seeds go through all scenarios."""
    first, second = World(tmp_path / "a", 7), World(tmp_path / "b", 7)
    assert str(first.moment()) == str(second.moment())
    assert len({seed % len(SCENARIOS) for seed in range(len(SCENARIOS))}) == len(SCENARIOS)


@pytest.mark.slow
def test_an_iteration_is_played_by_its_seed_and_counted(tmp_path: Path) -> None:
    """The command prints the seed, the moment, the exit code and the counts."""
    seed = list(SCENARIOS).index("runner-signalled")
    script = "import sys; from soak.__main__ import main; sys.exit(main(sys.argv[1:]))"
    ended = cli.python(script, "--replay", seed, "--keep", tmp_path, env={"PYTHONPATH": str(Path(__file__).parent)})
    assert ended.code == 0, ended.out + ended.err
    assert f"\n{seed} runner-signalled: " in ended.out
    assert [line.split()[1:3] for line in ended.out.splitlines() if line.startswith("all ")] == [["1", "0"]]
