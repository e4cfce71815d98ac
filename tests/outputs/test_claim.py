# SPDX-License-Identifier: Apache-2.0
"""A name in a folder belongs to one live run; a dead one gives it up, and to one heir only."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.cli import PATIENCE, until

from runner.core.errors import AlreadyRunningError, RecordError
from runner.outputs import claim as inflight
from runner.outputs.claim import Claim, Running, alive, read

WATCH_SECONDS = 0.5
"""How long tests watch a file of another machine."""


def foreign(path: Path, **changes) -> Path:
    """Write a heartbeat of a run on another machine."""
    running = Running(notebook="n", run_id="theirs", pid=1, host="node-7", started_at="2026-01-01T00:00:00Z", beat=7)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**dataclasses.asdict(running), **changes}))
    part.replace(path)
    return path


def claim(folder: Path, run_id: str = "ours") -> Claim:
    running = Running(notebook="n", run_id=run_id, pid=os.getpid(), host="here", started_at="2026-11-20T09:00:00Z")
    return Claim(folder, running, watch_seconds=WATCH_SECONDS)


def beating(path: Path, stop: threading.Event, text=None) -> threading.Thread:
    """Start the heartbeat of another process."""

    def beat() -> None:
        number = 0
        while not stop.wait(0.05):
            number += 1
            if text is None:
                foreign(path, beat=number)
            else:
                path.write_text(f"{text} {number}")

    thread = threading.Thread(target=beat)
    thread.start()
    return thread


def test_a_claim_says_whose_it_is_and_goes_with_it(tmp_path: Path) -> None:
    """The folder is made, the file names run, process and host, and the end of the run removes it."""
    with Claim.of(tmp_path / "new", "n", "r-1", "a plan") as mine:
        found = read(mine.path)
        assert found is not None
        assert (found.notebook, found.run_id, found.pid, found.plan) == ("n", "r-1", os.getpid(), "a plan")
        assert found.host
        assert mine.took_over is None
    assert list((tmp_path / "new").iterdir()) == []


def test_a_live_claim_of_this_machine_is_respected_at_once(tmp_path: Path) -> None:
    """The message has owner and hint; its file is unchanged."""
    with Claim.of(tmp_path, "n", "first"):
        with pytest.raises(AlreadyRunningError) as caught:
            Claim.of(tmp_path, "n", "second")
        assert f"pid {os.getpid()}" in caught.value.message
        assert "run first" in caught.value.message
        assert "--name" in caught.value.hint
        with Claim.of(tmp_path, "m", "second"):
            assert len(list(tmp_path.iterdir())) == 2
        assert read(tmp_path / "n.running").run_id == "first"


def test_a_dead_process_of_this_machine_loses_its_claim_at_once(tmp_path: Path) -> None:
    """Its pid is checked with the start time, without waiting, and a reused pid is recognized."""
    script = (
        "import sys, os; from pathlib import Path; from runner.outputs.claim import Claim; "
        "Claim.of(Path(sys.argv[1]), 'n', 'dead'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert read(tmp_path / "n.running").run_id == "dead"

    with Claim.of(tmp_path, "n", "heir") as heir:
        assert heir.took_over.run_id == "dead"
        assert read(heir.path).run_id == "heir"


def test_a_pid_that_was_given_out_again_is_not_the_run(tmp_path: Path) -> None:
    """The same pid with another start time is another process."""
    mine = claim(tmp_path)
    again = json.loads(mine.path.read_text())
    mine.release()
    mine.path.write_text(json.dumps({**again, "pid_started": again["pid_started"] - 1}))

    assert alive([mine.path], PATIENCE) == {mine.path: False}
    mine.path.write_text(json.dumps(again))
    assert alive([mine.path], 0) == {mine.path: True}


def test_a_heartbeat_of_another_machine_that_stands_still_is_dead(tmp_path: Path) -> None:
    """Neither its clock nor its pid is trusted; the new run logs from whom it took over."""
    foreign(tmp_path / "n.running", pid=os.getpid(), started_at="2999-01-01T00:00:00Z")

    with claim(tmp_path) as heir:
        assert heir.took_over.host == "node-7"
        assert read(heir.path).run_id == "ours"
    assert list(tmp_path.iterdir()) == []


def test_a_heartbeat_of_another_machine_that_changes_is_alive(tmp_path: Path) -> None:
    """It is respected, although its pid may not exist here."""
    stop = threading.Event()
    thread = beating(foreign(tmp_path / "n.running"), stop)
    try:
        with pytest.raises(AlreadyRunningError, match="node-7"):
            claim(tmp_path)
    finally:
        stop.set()
        thread.join()
    assert read(tmp_path / "n.running").run_id == "theirs"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"notebook": "n"}', '"\\ud800"', "\x00"])
def test_a_file_that_cannot_be_understood_is_watched_like_any_other(tmp_path: Path, content: str) -> None:
    """An unchanged file is dead; a changing one is a run of an unknown version."""
    path = tmp_path / "n.running"
    path.write_text(content)
    assert read(path) is None
    with claim(tmp_path) as heir:
        assert heir.took_over is None
        assert read(path).run_id == "ours"

    stop = threading.Event()
    thread = beating(path, stop, text=content)
    try:
        until(path.exists, "the first beat")
        with pytest.raises(AlreadyRunningError, match="a live run"):
            claim(tmp_path)
    finally:
        stop.set()
        thread.join()


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    """A newer runner's file is read as far as it is known."""
    assert read(foreign(tmp_path / "n.running", colour="green")).host == "node-7"


def test_who_comes_second_to_a_dead_run_does_not_bury_the_living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two judge one file dead; the slower one finds the faster one's file in its place and leaves it there."""
    foreign(tmp_path / "n.running")
    faster: list[Claim] = []

    def slowly(paths, seconds, **more) -> dict[Path, bool]:
        verdict = alive(paths, seconds, **more)
        monkeypatch.setattr(inflight, "alive", alive)
        faster.append(claim(tmp_path, "faster"))
        return verdict

    monkeypatch.setattr(inflight, "alive", slowly)
    with pytest.raises(AlreadyRunningError, match="run faster"):
        claim(tmp_path, "slower")

    assert faster[0].took_over.run_id == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["n.running"]
    assert read(tmp_path / "n.running").run_id == "faster"
    faster[0].release()
    assert list(tmp_path.iterdir()) == []


RACER = """
import sys, time
from pathlib import Path
from runner.outputs import claim as inflight
from runner.core.errors import AlreadyRunningError

running = inflight.Running(notebook="n", run_id=sys.argv[2], pid=1, host=f"node-{sys.argv[2]}", started_at="now")
print("ready", flush=True)
sys.stdin.readline()
try:
    inflight.Claim(Path(sys.argv[1]), running, watch_seconds=0.5)
except AlreadyRunningError:
    print("refused", flush=True)
else:
    print("claimed", flush=True)
sys.stdin.readline()
"""


def test_of_processes_that_find_one_dead_run_one_takes_over(tmp_path: Path) -> None:
    """They watch at the same time, judge at the same time, and one of them has the name afterwards."""
    foreign(tmp_path / "n.running")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    try:
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
        for racer in racers:
            racer.stdin.write("\n")
            racer.stdin.flush()
        answers = [racer.stdout.readline().strip() for racer in racers]
        winner = answers.index("claimed")
        assert sorted(answers) == ["claimed", "refused", "refused", "refused"]
        assert read(tmp_path / "n.running").run_id == str(winner)
    finally:
        for racer in racers:
            racer.communicate("\n", timeout=PATIENCE)


def test_a_run_that_was_taken_for_dead_leaves_its_heir_alone(tmp_path: Path, monkeypatch) -> None:
    """A machine that slept wakes up: its end does not remove the file of the run that followed."""
    slept = claim(tmp_path, "slept")
    foreign(slept.path)
    monkeypatch.setattr(inflight, "DEAD_AFTER_SECONDS", 0.0)
    slept.release()

    assert read(slept.path).run_id == "theirs"


@pytest.mark.parametrize("text", ["", "rewritten", '{"run_id": "other", "pid": 1, "host": "x"}', None])
def test_what_a_notebook_does_to_the_file_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text) -> None:
    """Rewritten, deleted or made a folder: the next beat writes it again, and the end of the run removes it."""
    monkeypatch.setattr(inflight, "BEAT_SECONDS", 0.05)
    other = json.dumps(dataclasses.asdict(Running(notebook="n", run_id="x", pid=1, host="h", started_at="now")))
    with claim(tmp_path) as mine:
        mine.path.unlink()
        if text is None:
            (mine.path / "kept").mkdir(parents=True)
        else:
            mine.path.write_text(other if text.startswith("{") else text)
        until(lambda: (found := read(mine.path)) and found.run_id == "ours", "the next beat")
    assert not mine.path.exists()
    assert [path.name for path in tmp_path.rglob("kept")] == (["kept"] if text is None else [])


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_stops_neither_this_run_nor_the_next(tmp_path: Path, make) -> None:
    """A folder, a pipe or a device in place of the file is not a claim, and does not block."""
    with claim(tmp_path) as mine:
        mine.path.unlink()
        make(mine.path)
    mine.path.unlink(missing_ok=True)
    make(mine.path)
    with claim(tmp_path, "next") as heir:
        assert read(heir.path).run_id == "next"
    assert not heir.path.exists()


def test_a_save_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies right after a save is not called one that saved nothing."""
    monkeypatch.setattr(inflight, "BEAT_SECONDS", PATIENCE)
    with claim(tmp_path) as mine:
        mine.saved()
        until(lambda: read(mine.path).last_save_at, "the time of the save")


def test_the_beat_counts_and_carries_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others see that it lives, and how far it is."""
    monkeypatch.setattr(inflight, "BEAT_SECONDS", 0.05)
    with claim(tmp_path) as mine:
        mine.update(cell_index=3, cell_count=9)
        found = until(lambda: (now := read(mine.path)) and now.beat > 2 and now, "the third beat")
        assert (found.cell_index, found.cell_count) == (3, 9)
        assert alive([mine.path], 0) == {mine.path: True}


@pytest.mark.parametrize(
    ("number", "said", "not_said"),
    [
        (errno.EACCES, f"uid {os.getuid()}", "full"),
        (errno.EPERM, "fsGroup", "full"),
        (errno.ENOSPC, "the volume is full (", "fsGroup"),
        (errno.EDQUOT, "quota", "fsGroup"),
        (errno.EROFS, "read-only", "fsGroup"),
        (errno.ENOTDIR, "something else has the name", "fsGroup"),
    ],
)
def test_a_folder_that_cannot_be_written_is_told_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, not_said: str
) -> None:
    """A full volume is not a matter of permissions, and the other way round."""

    def refuse(self, *_args, **_options):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RecordError, match="cannot write") as caught:
        claim(tmp_path)
    assert said in caught.value.hint
    assert not_said not in caught.value.hint


def test_a_full_disk_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file would pass for a run of another machine, and the next run would watch it."""

    def full(_self) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Running, "text", full)
    with pytest.raises(RecordError, match="No space left"):
        claim(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_is_left_behind_tells_of_its_run(tmp_path: Path) -> None:
    """A run that ends without a record leaves the file, and the next one takes it over."""
    with claim(tmp_path, "first") as first:
        first.leave_behind()
    found = read(first.path)
    assert found is not None
    assert found.run_id == "first"


def test_the_watch_of_another_machine_can_be_broken_off(tmp_path: Path) -> None:
    """Whatever the wait raises goes through, and the file stays as it is."""
    path = foreign(tmp_path / "n.running")
    before = path.read_bytes()

    def stopped(_seconds: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Claim.of(tmp_path, "n", "ours", sleep=stopped)
    assert path.read_bytes() == before


def test_each_of_many_files_is_judged_for_itself(tmp_path: Path) -> None:
    """A report over many notebooks watches them all together."""
    paths = [foreign(tmp_path / f"{number}.running") for number in range(20)]
    stop = threading.Event()
    thread = beating(paths[3], stop)
    try:
        verdict = alive(paths, 1.0)
    finally:
        stop.set()
        thread.join()
    assert verdict == {path: path is paths[3] for path in paths}
