# SPDX-License-Identifier: Apache-2.0
"""The memory guard acts before the system does, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from support.cli import PATIENCE

from runner.machine import cgroups
from runner.machine.guard import AHEAD_SECONDS, MemoryGuard, Trend, must_act
from runner.machine.host import Container

GB = 10**9


def first_action(sizes: list[float], limit: float, fraction: float = 0.97) -> float | None:
    """Return the size in GB at which readings, 50 ms apart, make the guard act; None if never."""
    trend = Trend()
    for look, size in enumerate(sizes):
        trend.add(look * 0.05, int(size * GB))
        if must_act(int(size * GB), trend.ahead_bytes(AHEAD_SECONDS), int(limit * GB), fraction):
            return size
    return None


def ramp(start: float, end: float, gb_per_second: float) -> list[float]:
    step = gb_per_second * 0.05
    return [start] * 10 + [start + step * k for k in range(int((end - start) / step) + 1)]


@pytest.mark.parametrize("limit", [6, 8, 16, 64])
def test_a_fast_eater_is_ended_before_the_limit(limit):
    """8 GB/s: the guard acts while there is room for what is eaten until the kill."""
    acted_at = first_action(ramp(1, limit, 8), limit)
    assert acted_at is not None
    assert acted_at <= 0.97 * limit


def test_a_slow_eater_may_use_all_up_to_the_fraction():
    """Slow growth is no reason to act early."""
    acted_at = first_action(ramp(1, 32, 0.5), 32)
    assert 0.96 * 32 < acted_at < 0.98 * 32


@pytest.mark.parametrize(
    "sizes",
    [
        ramp(1, 16, 20) + [16] * 20,
        [1] * 10 + [22] * 20,
        ramp(1, 23, 40) + [23] * 20,
        [25] * 10 + [29] + [29] * 20,
        ([20] * 5 + [28] * 5) * 10,
        [24] * 10 + [25.1, 26.2, 26.7] + [26.7] * 20,
        [30] * 100,
    ],
    ids=["half", "one step", "steep to 70 %", "step near the limit", "up and down", "slowing down", "flat at 94 %"],
)
def test_a_burst_that_ends_below_the_limit_is_let_through(sizes):
    """Neither a steep growth far below the limit nor one step near it ends a notebook."""
    assert first_action(sizes, 32) is None


@pytest.mark.parametrize(
    ("share", "ahead", "fraction", "acts"),
    [
        (0.74, 2.0, 0.97, False),
        (0.76, 2.0, 0.97, True),
        (0.76, 0.96, 0.97, False),
        (0.49, 2.0, 0.5, False),
        (0.5, 0.5, 0.5, True),
        (0.97, 0.97, 0.97, True),
    ],
    ids=["far", "near and growing", "near and calm", "far for a low fraction", "at a low fraction", "at the fraction"],
)
def test_growth_counts_near_the_limit_only(share, ahead, fraction, acts):
    """Below three quarters of the limit no growth is carried on, however steep."""
    limit = 32 * GB

    assert must_act(round(share * limit), ahead * limit, limit, fraction) is acts


@pytest.fixture
def simulated(tmp_path):
    """Give a simulated version 2 cgroup with a limit of 1 GB, and the function that fills it."""
    box = tmp_path / "sys/fs/cgroup"
    box.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 64000000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (box / "memory.max").write_text(f"{GB}\n")

    def fill(anonymous: int, cache: int = 0) -> None:
        # Overwritten in place and of one length, because the container holds the files open.
        (box / "memory.stat").open("r+" if (box / "memory.stat").exists() else "w").write(
            f"anon {anonymous:012d}\nshmem {0:012d}\nkernel {0:012d}\n"
        )
        (box / "memory.current").open("r+" if (box / "memory.current").exists() else "w").write(
            f"{anonymous + cache:012d}\n"
        )

    fill(0)
    return tmp_path, fill


def test_a_breach_calls_back_until_it_is_over_and_is_recorded(simulated):
    """At 98 % of the limit there are calls with the bytes, below it no more; the record has the first."""
    root, fill = simulated
    calls, over = [], threading.Event()

    def ended(size):
        calls.append(size)
        if len(calls) == 3:
            fill(500_000_000)  # what was forked meanwhile is ended by the third call
            over.set()

    guard = MemoryGuard(Container(root), 0.97, ended, 0.005)
    guard.start()
    fill(980_000_000)
    assert over.wait(PATIENCE)
    time.sleep(0.1)  # twenty looks
    guard.stop()
    record = guard.record()
    assert calls == [980_000_000] * 3
    assert (record.acted_at_bytes, record.limit_bytes, record.fraction) == (980_000_000, GB, 0.97)
    assert record.peak_unreclaimable_bytes == 980_000_000
    assert record.cpu_seconds >= 0


def test_file_cache_up_to_the_limit_is_left_alone(simulated):
    """A container full of file cache is not full."""
    root, fill = simulated
    fill(200_000_000, cache=799_000_000)
    calls = []
    guard = MemoryGuard(Container(root), 0.97, calls.append, 0.005)
    guard.start()
    deadline = time.monotonic() + PATIENCE
    while guard.record().peak_unreclaimable_bytes is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)  # twenty looks
    guard.stop()
    assert calls == []
    assert guard.record().peak_unreclaimable_bytes == 200_000_000


def test_a_call_back_that_fails_is_logged_and_harms_nobody(simulated, capsys):
    """An exception while the kernel is killed is told in the log; the action stays recorded."""
    root, fill = simulated
    failed = threading.Event()

    def fail(size: int) -> None:
        failed.set()
        raise OSError("no such kernel")

    fill(990_000_000)
    guard = MemoryGuard(Container(root), 0.97, fail, 0.005)
    guard.start()
    assert failed.wait(PATIENCE)
    guard.stop()
    assert guard.record().acted_at_bytes == 990_000_000
    assert "no such kernel" in capsys.readouterr().err


def test_a_container_that_can_not_be_read_any_more_turns_the_guard_off(simulated):
    """Rubbish in place of figures: the guard stops with a reason and ends nobody."""
    root, _ = simulated
    calls = []
    (root / "sys/fs/cgroup/memory.stat").write_text("rubbish")
    guard = MemoryGuard(Container(root), 0.97, calls.append, 0.005)
    guard.start()
    deadline = time.monotonic() + PATIENCE
    while "can no longer be read" not in guard.record().unavailable.get("peak_unreclaimable_bytes", ""):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    guard.stop()
    assert calls == []


def test_a_guard_whose_thread_fails_says_so(simulated, monkeypatch, capsys):
    """Whatever ends the thread stands in its record and in the log, and nobody is ended."""
    root, _ = simulated
    container = Container(root)
    monkeypatch.setattr(Container, "used_bytes", lambda _: 1 / 0)
    guard = MemoryGuard(container, 0.97, pytest.fail, 0.005)
    guard.start()
    guard._thread.join(PATIENCE)
    guard.stop()
    assert "ZeroDivisionError" in guard.problem
    assert "ZeroDivisionError" in guard.record().unavailable["peak_unreclaimable_bytes"]
    assert "no longer watched" in capsys.readouterr().err


def test_fraction_0_and_no_limit_are_off_with_a_reason(simulated, tmp_path_factory):
    """A guard that is off says why, has no figures, and start and stop do nothing."""
    root, fill = simulated
    fill(999_000_000)
    for guard, reason in (
        (MemoryGuard(Container(root), 0.0, pytest.fail), "switched off"),
        (MemoryGuard(Container(tmp_path_factory.mktemp("empty")), 0.97, pytest.fail), "no cgroup limits"),
    ):
        guard.start()
        guard.stop()
        record = guard.record()
        assert reason in record.unavailable["peak_unreclaimable_bytes"]
        assert (record.peak_unreclaimable_bytes, record.acted_at_bytes, record.cpu_seconds) == (None, None, None)


LIMIT = 400 << 20


@pytest.fixture
def limited():
    """Start programs under a real memory limit of 400 MiB; they begin when they are in it."""
    ancestry = cgroups.find(Path("/"), "self", "memory")
    if ancestry.version != 1 or not os.access(ancestry.levels[0].directory, os.W_OK):
        pytest.skip("needs a memory cgroup of version 1 that we may write; version 2 is simulated")
    group = ancestry.levels[0].directory / f"guard-{uuid.uuid4().hex}"
    processes = []
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no memory limit can be set here: {error}")

    def start(script: str, *arguments: str) -> tuple[subprocess.Popen, Container]:
        process = subprocess.Popen(
            [sys.executable, "-c", f"import sys, time; sys.stdin.readline(); {script}", *arguments],
            stdin=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        (group / "cgroup.procs").write_text(str(process.pid))
        container = Container(process=str(process.pid))
        assert container.limit_bytes == LIMIT
        return process, container

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
    deadline = time.monotonic() + PATIENCE
    while group.exists() and time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)


@pytest.mark.parametrize(("mebibytes", "pause_seconds"), [(8, 0.05), (1, 0.002)], ids=["in steps", "steadily"])
def test_an_eater_is_ended_before_the_oom_killer_comes(limited, mebibytes, pause_seconds):
    """A real limit: the guard ends the process that eats memory, and the OOM killer has no work."""
    process, container = limited(
        f"blocks = []\nwhile True: blocks.append(b'x' * ({mebibytes} << 20)); time.sleep({pause_seconds})"
    )
    guard = MemoryGuard(container, 0.9, lambda _: process.send_signal(signal.SIGKILL), 0.01)
    guard.start()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
    guard.stop()
    record = guard.record()
    assert record.acted_at_bytes is not None
    assert record.acted_at_bytes >= 0.7 * LIMIT
    assert container.oom_kills() == 0


def test_a_reader_of_a_large_file_is_left_alone(limited, tmp_path):
    """A real limit: file cache fills the container while a file is read three times; nobody is ended."""
    large = tmp_path / "large"
    large.write_bytes(b"")
    os.truncate(large, 2 * LIMIT)
    process, container = limited(
        "path = sys.argv[1]\nfor _ in range(3):\n with open(path, 'rb', 0) as f:\n  while f.read(1 << 20): pass\n"
        "print('read', file=sys.stderr)",
        str(large),
    )
    guard = MemoryGuard(container, 0.9, lambda _: process.kill(), 0.01)
    guard.start()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.wait(timeout=PATIENCE) == 0
    guard.stop()
    assert guard.record().acted_at_bytes is None
    assert guard.record().peak_unreclaimable_bytes < 0.5 * LIMIT
    if container.peak_bytes() < 0.9 * LIMIT:
        pytest.skip("the file system of the temporary folder keeps no file cache that is charged to us")
