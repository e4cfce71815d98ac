# SPDX-License-Identifier: Apache-2.0
"""Samples are taken, written and kept, whatever a GPU or a disk does."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.cli import PATIENCE

from runner.machine import sampler as sampler_module
from runner.machine.processes import RUN_TAG, Family
from runner.machine.sampler import CLOSEST_SECONDS, Sampler
from runner.machine.usage import per_run

COLUMNS = (
    "time_seconds,gpu_uuid,gpu_memory_used_bytes,gpu_utilization_percent,power_watts,"
    "temperature_celsius,host_memory_bytes,host_cpu_percent,gpu_sm_utilization_percent,gpu_sm_occupancy_percent,"
    "gpu_tensor_percent,gpu_dram_bandwidth_percent,gpu_fp64_percent,gpu_fp32_percent,gpu_fp16_percent,"
    "gpu_pcie_sent_bytes_per_second,gpu_pcie_received_bytes_per_second,gpu_nvlink_received_bytes_per_second,"
    "gpu_nvlink_sent_bytes_per_second"
)


@dataclass
class FakeReading:
    used_bytes: int | None = 24_000_000_001
    utilization_percent: float | None = 50.0
    power_watts: float | None = 312.125
    temperature_celsius: float | None = 61.0
    energy_joules: float | None = 1000.5


class FakeGpu:
    def __init__(self, uuid: str, reading: FakeReading | None = None) -> None:
        self.uuid = uuid
        self.reading = reading or FakeReading()
        self.reads = 0
        self.looks = 0
        self.costs_seconds = 0.0
        self.problem: Exception | None = None

    def memory(self) -> FakeReading:
        if self.problem is not None:
            raise self.problem
        self.looks += 1
        started = time.thread_time()
        while time.thread_time() < started + self.costs_seconds:
            pass
        return self.reading

    def read(self, *, energy=True) -> FakeReading:
        self.reads += 1
        if self.problem is not None:
            raise self.problem
        return self.reading


@pytest.fixture
def make(tmp_path):
    """Make samplers that are stopped at the end of the test."""
    made = []

    def make_one(**options) -> Sampler:
        defaults = {"path": tmp_path / "nb.samples.csv", "started_monotonic": time.monotonic()}
        made.append(Sampler(**defaults | options))
        return made[-1]

    yield make_one
    for one in made:
        one.stop()


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_one_row_a_tick_and_gpu_with_the_documented_columns(make, tmp_path):
    """The file has exactly the documented columns, a row for each GPU, whole numbers for bytes."""
    sampler = make(gpus=[FakeGpu("GPU-a"), FakeGpu("MIG-b", FakeReading(utilization_percent=None, power_watts=None))])
    sampler.start()
    sampled = sampler.stop()
    text = (tmp_path / "nb.samples.csv").read_text()
    assert text.splitlines()[0] == COLUMNS
    first, second = rows(tmp_path / "nb.samples.csv")[:2]
    assert [first["gpu_uuid"], second["gpu_uuid"]] == ["GPU-a", "MIG-b"]
    assert first["time_seconds"] == second["time_seconds"]
    assert first["gpu_memory_used_bytes"] == "24000000001"
    assert (first["power_watts"], first["gpu_utilization_percent"]) == ("312.125", "50")
    assert (second["power_watts"], second["gpu_utilization_percent"]) == ("", "")
    assert first["host_memory_bytes"] == first["host_cpu_percent"] == ""
    ticks = len(sampled.seconds)
    assert sampler.record().ticks == ticks >= 1
    assert sampler.record().stopped is None
    assert {len(series.used_bytes) for series in sampled.gpus.values()} == {ticks}
    assert math.isnan(sampled.gpus["MIG-b"].utilization_percent[0])


def test_without_a_gpu_there_is_one_row_a_tick(make, tmp_path):
    """GPU fields are empty, host fields have the kernel's tree."""
    family = Family("samples")
    kernel = subprocess.Popen(
        [sys.executable, "-c", "b = bytearray(60_000_000); print('up', flush=True); input()"],
        env=dict(os.environ) | {RUN_TAG: "samples"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        kernel.stdout.readline()
        sampler = make(family=family, interval_seconds=0.02)
        sampler.start()
        sampler.watch(kernel.pid)
        wait_for(lambda: len(rows(tmp_path / "nb.samples.csv")) > 5 and sampler.latest.host_bytes)
        sampled = sampler.stop()
    finally:
        kernel.communicate(b"\n")
    last = rows(tmp_path / "nb.samples.csv")[-1]
    assert last["gpu_uuid"] == last["gpu_memory_used_bytes"] == ""
    assert int(last["host_memory_bytes"]) > 60_000_000
    assert float(last["host_cpu_percent"]) >= 0
    assert sampled.host_cpu_seconds is not None
    assert len(rows(tmp_path / "nb.samples.csv")) == len(sampled.seconds)


def test_each_tick_is_on_the_disk_at_once(make, tmp_path):
    """A reader sees whole lines while the sampler runs."""
    sampler = make(gpus=[FakeGpu("GPU-a")], interval_seconds=0.01)
    seen = []
    sampler.on_tick.append(lambda _: seen.append((tmp_path / "nb.samples.csv").read_text()))
    sampler.start()
    wait_for(lambda: len(seen) >= 3)
    sampler.stop()
    assert all(text.endswith("\n") for text in seen)
    assert [len(text.splitlines()) for text in seen[:3]] == [2, 3, 4]


def test_a_lost_gpu_ends_its_samples_and_nothing_else(make, tmp_path):
    """A GPU that fails is asked no more and noted; the other one and the file go on."""
    lost, good = FakeGpu("GPU-lost"), FakeGpu("GPU-good")
    sampler = make(gpus=[lost, good], interval_seconds=0.01)
    sampler.start()
    wait_for(lambda: good.reads >= 2)
    lost.problem = RuntimeError("GPU is lost")
    wait_for(lambda: sampler.record().stopped)
    reads, more = lost.reads, good.reads + 3
    wait_for(lambda: good.reads >= more)
    sampled = sampler.stop()
    assert lost.reads == reads
    assert "GPU-lost" in sampler.record().stopped
    assert "GPU is lost" in sampler.record().stopped
    assert math.isnan(sampled.gpus["GPU-lost"].used_bytes[-1])
    assert sampled.gpus["GPU-good"].used_bytes[-1] == 24_000_000_001
    assert sampler.latest.gpu_used_bytes == {"GPU-lost": None, "GPU-good": 24_000_000_001}
    last = rows(tmp_path / "nb.samples.csv")[-2:]
    assert [row["gpu_memory_used_bytes"] for row in last] == ["", "24000000001"]


def test_a_full_disk_ends_the_file_and_not_the_samples(make):
    """Without space there is a note; samples are kept in memory still."""
    gpu = FakeGpu("GPU-a")
    sampler = make(path=Path("/dev/full"), gpus=[gpu], interval_seconds=0.01)
    sampler.start()
    wait_for(lambda: gpu.reads >= 3)
    sampled = sampler.stop()
    assert "No space left" in sampler.record().stopped
    assert len(sampled.seconds) >= 3


def test_a_disk_that_fills_up_in_a_line_leaves_whole_lines(tmp_path):
    """What was half written when the space ran out is cut off again."""
    script = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from runner.machine.samples import SamplesFile
resource.setrlimit(resource.RLIMIT_FSIZE, (1400, 1400))
samples = SamplesFile(Path(sys.argv[1]))
for _ in range(100):
    samples.append(["x" * 99] * 2)
print(samples.problem)
"""
    path = tmp_path / "small.csv"
    told = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    assert "small.csv ends early" in told
    text = path.read_text()
    assert text.startswith(COLUMNS)
    assert text.endswith("x\n")
    assert len(text.splitlines()) == 9


def test_a_folder_that_is_not_there_is_a_note(make, tmp_path):
    """Where the file cannot be made sampling goes on without it."""
    sampler = make(path=tmp_path / "none" / "nb.samples.csv", gpus=[FakeGpu("GPU-a")])
    sampler.start()
    assert len(sampler.stop().seconds) >= 1
    assert "No such file" in sampler.record().stopped


def test_the_end_of_a_cell_gets_a_sample_of_its_own(make):
    """Between two ticks a sample can be asked for."""
    gpu = FakeGpu("GPU-a")
    sampler = make(gpus=[gpu], interval_seconds=600)
    sampler.start()
    wait_for(lambda: sampler.latest)

    def asked() -> bool:
        sampler.sample_now()
        return gpu.reads >= 2

    wait_for(asked)
    assert sampler.latest.seconds >= CLOSEST_SECONDS


def test_a_thousand_tiny_cells_cost_a_few_samples(make):
    """Samples that are asked for come no closer than a tenth of a second."""
    sampler = make(gpus=[FakeGpu("GPU-a")], interval_seconds=600)
    sampler.start()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        sampler.sample_now()
        time.sleep(0.0005)
    times = list(sampler.stop().seconds)[:-1]  # the last one comes with the end
    assert len(times) >= 2
    assert min(after - before for before, after in pairwise(times)) >= CLOSEST_SECONDS


def test_ticks_stay_on_their_grid(make, monkeypatch):
    """A slow tick does not shift those after it, and one that takes too long leaves one out."""
    clock = {"now": 100.0}
    monkeypatch.setattr(
        sampler_module, "time", SimpleNamespace(monotonic=lambda: clock["now"], thread_time=time.thread_time)
    )
    sampler = make(started_monotonic=100.0, interval_seconds=0.5)
    durations = iter([0.2, 0.2, 0.7, 0.2, 0.0])

    def work(_) -> None:
        duration = next(durations, None)
        if duration is None:
            sampler._stopping.set()
        else:
            clock["now"] += duration

    def wait(seconds: float) -> None:
        clock["now"] += seconds

    sampler.on_tick.append(work)
    monkeypatch.setattr(sampler._wake, "wait", wait)
    sampler._run()
    assert list(sampler.stop().seconds) == pytest.approx([0, 0.5, 1, 2, 2.5, 3])


def test_a_driver_that_hangs_does_not_hold_up_the_end(make, monkeypatch):
    """A GPU that never answers: stop comes back, the note says so, and what comes late is dropped."""
    monkeypatch.setattr(sampler_module, "_STOP_SECONDS", 0.1)
    release = threading.Event()
    gpu = FakeGpu("GPU-a")
    gpu.read = lambda **_: (release.wait(PATIENCE), FakeReading())[1]
    sampler = make(gpus=[gpu])
    sampler.start()
    sampler.sample_now()
    sampled = sampler.stop()
    assert "stopped answering" in sampler.record().stopped
    release.set()
    sampler._thread.join(PATIENCE)
    assert len(sampled.seconds) == 0


def test_a_listener_that_fails_is_a_note(make, tmp_path):
    """An exception of a listener ends sampling at worst, never the run."""
    sampler = make(interval_seconds=0.01)
    sampler.on_tick.append(lambda _: 1 / 0)
    sampler.start()
    wait_for(lambda: sampler.record().stopped)
    assert "ZeroDivisionError" in sampler.record().stopped
    sampler.stop()
    assert (tmp_path / "nb.samples.csv").read_text().endswith("\n")


def test_a_sampler_that_was_never_started_can_be_stopped(make):
    """Stop before start gives no samples and no error."""
    assert len(make().stop().seconds) == 0


def test_a_spike_between_two_ticks_is_kept(make):
    """Memory alone is looked at more often; of a figure that stays where it is nothing is kept."""
    gpu = FakeGpu("GPU-a")
    sampler = make(gpus=[gpu], interval_seconds=600)
    sampler.start()
    wait_for(lambda: sampler.latest is not None)
    gpu.reading = FakeReading(used_bytes=30 * 10**9)
    series = sampler._sampled.gpus["GPU-a"]
    wait_for(lambda: len(series.moved_seconds) == 1)
    gpu.reading = FakeReading(used_bytes=30 * 10**9 + 1000)
    wait_for(lambda: gpu.looks >= 8)
    assert len(series.moved_seconds) == 1
    gpu.reading = FakeReading()
    wait_for(lambda: len(series.moved_seconds) == 2)
    sampled = sampler.stop()
    assert list(series.moved_bytes) == [30 * 10**9, 24_000_000_001]
    assert per_run(sampled).gpus["GPU-a"].peak_gpu_memory_bytes == 30 * 10**9


def test_a_slow_driver_is_looked_at_less_often(make):
    """All looks together cost a fixed share of a core."""
    gpu = FakeGpu("GPU-a")
    gpu.costs_seconds = 0.01
    sampler = make(gpus=[gpu], interval_seconds=600)
    sampler.start()
    wait_for(lambda: gpu.looks >= 1)
    wait_for(lambda: sampler._look_seconds >= 0.01 / sampler_module.LOOK_SHARE)
