# SPDX-License-Identifier: Apache-2.0
"""A GPU belongs to one run at a time, and to nobody once that run has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from runner.stages.gate.gpu_locks import Locks, folder

GPU = "GPU-00000000-0000-4000-8000-00000000000a"
HOLD = """
import sys
from pathlib import Path
from runner.stages.gate.gpu_locks import Locks
locks = Locks(Path(sys.argv[1]))
assert locks.take(sys.argv[2], "01_preprocessing") is None
print("held", flush=True)
input()
"""


@pytest.fixture
def holder(tmp_path):
    """Give another process that holds the lock of the GPU."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), GPU],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_gpu_names_its_run(tmp_path, holder):
    """Who asks for a GPU of another run learns that run's notebook and pid."""
    with Locks(tmp_path) as locks:
        answer = locks.take(GPU, "mine")
        assert "01_preprocessing" in answer
        assert str(holder.pid) in answer
        assert locks.uuids == ()


def test_a_killed_run_leaves_no_lock(tmp_path, holder):
    """The lock goes with the process, also by SIGKILL."""
    holder.kill()
    holder.wait()
    with Locks(tmp_path) as locks:
        assert locks.take(GPU, "mine") is None


def test_other_gpus_stay_free(tmp_path, holder):
    """A lock is about one GPU."""
    with Locks(tmp_path) as locks:
        assert locks.take("GPU-other", "mine") is None
        assert locks.uuids == ("GPU-other",)


def test_closing_frees_the_lock(tmp_path):
    """What one run frees, the next one takes; taking twice is no conflict with oneself."""
    with Locks(tmp_path) as first, Locks(tmp_path) as second:
        assert first.take(GPU, "one") is None
        assert first.take(GPU, "one") is None
        assert "'one'" in second.take(GPU, "two")
        first.close()
        assert second.take(GPU, "two") is None


def test_the_kernel_does_not_inherit_the_lock(tmp_path):
    """A child that outlives a killed run keeps no GPU."""
    start_child = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdin=-3, stdout=-3)\n"
        "print(child.pid, flush=True)\n"
    )
    command = [sys.executable, "-c", HOLD.replace('print("held", flush=True)\n', start_child), str(tmp_path), GPU]
    environ = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        child = int(run.stdout.readline())
        run.kill()
    try:
        while Path(f"/proc/{child}/comm").read_text() != "sleep\n":  # until it has reached exec
            time.sleep(0.01)
        with Locks(tmp_path) as later:
            assert later.take(GPU, "two") is None
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_file_is_open_to_other_users(tmp_path):
    """The next run may be another user's, whatever our umask."""
    before = os.umask(0o077)
    try:
        with Locks(tmp_path) as locks:
            locks.take(GPU, "one")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o666]


def test_a_link_is_not_followed(tmp_path):
    """In a folder that all may write, nobody leads our lock to a file of ours."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    with Locks(tmp_path) as locks:
        locks.take(GPU, "one")
        (file,) = [path for path in tmp_path.iterdir() if path != precious]
    file.unlink()
    file.symlink_to(precious)
    with Locks(tmp_path) as locks, pytest.raises(OSError, match="symbolic"):
        locks.take(GPU, "one")
    assert precious.read_text() == "mine"


def test_a_pipe_in_its_place_is_refused(tmp_path):
    """Something that is not a file is an error and not a wait for ever."""
    with Locks(tmp_path) as locks:
        locks.take(GPU, "one")
    (file,) = tmp_path.iterdir()
    file.unlink()
    os.mkfifo(file)
    with Locks(tmp_path) as locks, pytest.raises(OSError, match="regular"):
        locks.take(GPU, "one")


@pytest.mark.parametrize("note", ["", "{", "[" * 4000, '{"pid": "x", "owner": 1, "since": 2}', "\x00\xff"])
def test_a_note_that_says_nothing_is_another_run(tmp_path, note):
    """The lock decides; what stands in its file is only for the message."""
    with Locks(tmp_path) as first, Locks(tmp_path) as second:
        first.take(GPU, "one")
        (file,) = tmp_path.iterdir()
        file.write_text(note)
        assert second.take(GPU, "two") == "another run"


def test_a_uuid_cannot_climb_out(tmp_path):
    """Whatever a driver calls its devices, the file stays in the folder."""
    inner = tmp_path / "locks"
    with Locks(inner) as locks:
        locks.take("../../MIG-GPU-1/2/3", "one")
        assert [path.parent for path in tmp_path.rglob("*.lock")] == [inner]


def test_the_folder_is_the_chosen_one_or_shared(tmp_path):
    """RUNNER_LOCK_DIR wins; else one that every user of the machine has."""
    assert folder({"RUNNER_LOCK_DIR": str(tmp_path)}) == tmp_path
    assert folder({}) in {Path("/run/lock"), Path(tempfile.gettempdir())}
