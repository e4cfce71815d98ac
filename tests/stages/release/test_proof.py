# SPDX-License-Identifier: Apache-2.0
"""A GPU is called free only when its memory is back at what it was before."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from simdriver import Device

from runner.core.machine_records import GpuProcess, Process
from runner.core.units import format_seconds
from runner.machine.device import Memory, read_baseline
from runner.machine.nvml import DriverProblem
from runner.stages.release.release import TOLERANCE_BYTES, prove

GPU = "GPU-00000000-0000-4000-8000-00000000000a"
GB = 10**9


class FakeGpu:
    """A GPU whose memory in use follows a list; the last entry stays."""

    def __init__(self, uuid, *used, processes=()):
        self.uuid = uuid
        self.used = list(used)
        self._processes = processes

    def memory(self):
        now = self.used.pop(0) if len(self.used) > 1 else self.used[0]
        if isinstance(now, Exception):
            raise now
        if isinstance(now, Memory):
            return now
        return Memory(source="nvml", total_bytes=80 * GB, free_bytes=80 * GB - now, used_bytes=now)

    def processes(self):
        return self._processes

    memory_api = "v2"
    busy = 0.0

    def read(self, *, energy=True):
        return SimpleNamespace(utilization_percent=self.busy)


def look(gpus, baseline, deadline_seconds=30.0, **more):
    """Prove without waiting between two looks."""
    return prove(gpus, baseline, deadline_seconds=deadline_seconds, sleep=lambda _: None, **more)


def test_memory_back_at_the_baseline_is_released():
    """The driver takes a moment; the record has what it was before and after."""
    record = look([FakeGpu("a", 9 * GB, 5 * GB, GB)], {"a": GB})
    assert record.released is True
    assert (record.baseline_bytes, record.after_bytes) == ({"a": GB}, {"a": GB})
    assert record.seconds is not None


def test_memory_that_stays_is_not_released():
    """At the deadline the record says on which GPU, how much, and who is there as far as one sees."""
    gpu = FakeGpu("GPU-x", 9 * GB, processes=(GpuProcess(pid=77, name="python"),))
    record = look([gpu], {"GPU-x": GB}, deadline_seconds=0.01)
    assert record.released is False
    for part in ("GPU-x", "9.0 GB in use", "1.0 GB before", "python (pid 77)"):
        assert part in record.reason
    hidden = look([FakeGpu("GPU-x", 9 * GB)], {"GPU-x": GB}, deadline_seconds=0)
    assert "not visible from here" in hidden.reason


def test_the_reason_names_the_time_that_was_waited():
    """The deadline counts from the first look, and a signal may leave less time than that."""
    record = prove([FakeGpu("a", GB)], {"a": 0}, deadline_seconds=0.3)
    assert record.seconds >= 0.3
    assert f"not back after {format_seconds(record.seconds)}: a has" in record.reason
    left = iter([9, 9, 0])
    hurried = look([FakeGpu("a", GB)], {"a": 0}, seconds_left=lambda: next(left))
    assert hurried.released is False
    assert next(left, "asked at each look") == "asked at each look"


@pytest.mark.parametrize(
    ("more", "released"), [(0, True), (TOLERANCE_BYTES, True), (TOLERANCE_BYTES + 1, False), (-GB, True)]
)
def test_the_tolerance_is_less_than_one_context(more, released):
    """What the driver's figures wander is allowed, a process left behind is not."""
    assert look([FakeGpu("a", 3 * GB + more)], {"a": 3 * GB}, deadline_seconds=0).released is released
    assert TOLERANCE_BYTES < 100 * 2**20


def test_every_gpu_must_be_back():
    """One of two that stays full decides, and the other is still recorded."""
    record = look([FakeGpu("a", 0), FakeGpu("b", 9 * GB)], {"a": 0, "b": 0}, deadline_seconds=0.01)
    assert record.released is False
    assert record.after_bytes == {"a": 0, "b": 9 * GB}
    assert "a has" not in record.reason


@pytest.mark.parametrize(
    ("now", "before", "reason"),
    [
        (DriverProblem("driver-lost", "gone"), 0, "gone"),
        (Memory(source="none", reason="no permission"), 0, "no permission"),
        (Memory(source="host", used_bytes=1, reason="shares the memory of the host"), 0, "shares the memory"),
        (5, None, "before the run"),
    ],
)
def test_what_cannot_be_compared_is_not_called_released(now, before, reason):
    """Without two figures of the device there is no proof either way, and the reason stands there."""
    record = look([FakeGpu("a", now)], {"a": before})
    assert record.released is None
    assert reason in record.reason


def test_one_unknown_gpu_makes_the_whole_unknown_but_not_clean():
    """An unknown GPU hides no GPU that is known to be full."""
    unknown = FakeGpu("a", Memory(source="none", reason="no permission"))
    assert look([unknown, FakeGpu("b", 0)], {"a": 0, "b": 0}).released is None
    assert look([unknown, FakeGpu("b", GB)], {"a": 0, "b": 0}, deadline_seconds=0).released is False


def test_without_gpus_there_is_nothing_to_prove():
    """A run on the CPU is neither released nor not; what was swept is recorded."""
    swept = (Process(pid=5, name="dask"),)
    record = look([], {}, swept=swept)
    assert (record.released, record.seconds, record.swept) == (None, None, swept)
    assert "no GPU" in record.reason


def test_the_baseline_is_the_memory_in_use():
    """Each GPU by its UUID; None where there is no figure of the device."""
    gpus = [
        FakeGpu("a", 7),
        FakeGpu("b", DriverProblem("driver-lost")),
        FakeGpu("c", Memory(source="host", used_bytes=9)),
    ]
    assert read_baseline(gpus) == {"a": 7, "b": None, "c": None}


PROVE = """
import dataclasses
from runner.machine import device, gpus
from runner.stages.release.release import prove
with gpus.open_driver() as driver:
    before = device.read_baseline(driver.devices())
    pid, uuid, deadline = ARGUMENTS
    with open(os.environ["SIMULATED_NVML"] + ".allocations", "a") as stream:
        stream.write(f"{uuid} {pid} 9000000000\\n")
    held = driver.devices()[0].memory().used_bytes
    looks = iter(range(10**6))
    def sleep(seconds):
        import time
        if next(looks) == 1 and pid:
            os.kill(pid, 9)
        time.sleep(seconds)
    proof = prove(driver.devices(), before, deadline_seconds=deadline, sleep=sleep)
    print(json.dumps([held, dataclasses.asdict(proof)]))
"""


def test_the_end_of_the_process_frees_the_device(simulated_driver):
    """With a real process: memory is held until it is killed, then the proof holds."""
    simulated_driver.write(Device(uuid=GPU, used_bytes=GB))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as kernel:
        held, proof = simulated_driver.python(PROVE, kernel.pid, GPU, 60)
    assert held == 10 * GB
    assert proof["released"] is True
    assert proof["after_bytes"] == {GPU: GB}


def test_a_leak_is_not_proved_away(simulated_driver):
    """Memory that nobody visible holds is still memory that is held."""
    simulated_driver.write(Device(uuid=GPU))
    _, proof = simulated_driver.python(PROVE, 0, GPU, 0.2)
    assert proof["released"] is False
    assert "9.0 GB" in proof["reason"]


class Users:
    """Who uses a GPU: members of the run, and others before it."""

    def __init__(self, members=(), before=(), here=True):
        self._members, self._before, self._here = frozenset(members), tuple(before), here

    def members(self):
        return self._members

    def before(self, uuid):
        return self._before

    def strangers(self, uuid, processes):
        known = {one.pid for one in self._before}
        return tuple(one for one in processes if one.pid in known or (self._here and one.pid not in self._members))


def on(pid, size):
    """Return a process with memory on the GPU."""
    return GpuProcess(pid=pid, used_bytes=size, name="python")


@pytest.mark.parametrize(
    ("used", "listed", "users", "busy", "released", "word"),
    [
        (6, [on(7, 6 * GB)], Users(before=[on(7, GB)]), 0, True, "python (pid 7, 6.0 GB)"),  # grew, and is charged
        (6, [on(8, 6 * GB)], Users(), 0, True, "python (pid 8, 6.0 GB)"),  # came meanwhile
        (6, [on(9, 5 * GB)], Users(members=[9]), 0, False, "on it now: python (pid 9, 5.0 GB)"),  # is ours
        (6, [on(7, GB)], Users(before=[on(7, GB)]), 0, False, "not grown since before"),  # a leak beside an idle one
        (6, [on(7, 2 * GB)], Users(before=[on(7, GB)]), 0, None, "cannot be attributed"),  # explains only a part
        (6, [on(8, None)], Users(), 0, None, "cannot be attributed"),  # NVML does not tell how much it has
        (6, [on(8, 5 * GB)], Users(here=False), 0, None, "cannot be attributed"),  # a pid of the host
        (6, [], Users(), 30, None, "though this run has ended"),
        (6, [], Users(members=[9]), 30, False, "not visible"),  # our own process may be the one that works
        (6, [], Users(), 0, False, "not visible"),
    ],
)
def test_memory_beyond_the_baseline_is_charged_to_whom_it_belongs(used, listed, users, busy, released, word):
    """Attributed where NVML can, left open where it cannot and somebody else was seen, else the run's."""
    before = sum(one.used_bytes for one in users.before("GPU-x"))
    gpu = FakeGpu("GPU-x", used * GB, processes=tuple(listed))
    gpu.busy = busy
    record = look([gpu], {"GPU-x": before}, deadline_seconds=0.01, users=users)
    assert record.released is released, record.reason
    assert word in record.reason


def test_memory_before_the_run_by_somebody_unseen_leaves_the_rest_open():
    """Version 1 of the NVML function counts the driver's own share as used, so there it shows nobody."""
    gpu = FakeGpu("GPU-x", 6 * GB)
    assert look([gpu], {"GPU-x": GB}, deadline_seconds=0.01, users=Users()).released is None
    gpu.memory_api = "v1"
    assert look([gpu], {"GPU-x": GB}, deadline_seconds=0.01, users=Users()).released is False
