# SPDX-License-Identifier: Apache-2.0
"""On a real GPU: memory, energy, utilisation, release, gate, health and neighbours against the driver's tools."""

from __future__ import annotations

import json
import os
import statistics
import time

import pytest
from support import cli, notebooks
from support.realgpu import GIB, MIB, Holder, measured, needs, require, run, samples, smi

from runner.machine import gpus
from runner.machine.health import read_health

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def device(request):
    """Need a GPU."""
    require(request)


@pytest.fixture
def whole():
    """Give the first GPU that is not in MIG mode."""
    with gpus.open_driver() as driver:
        found = [gpu for gpu in driver.visible(os.environ) if not gpu.mig]
        if not found:
            pytest.skip("every GPU here is in MIG mode")
        yield found[0]


@pytest.fixture
def holder(whole):
    """Give a process that holds device memory."""
    made = Holder({"CUDA_VISIBLE_DEVICES": whole.uuid})
    yield made
    made.end()


def test_known_allocations_show_to_the_page(whole, holder):
    """NVML's figure grows by what a process allocates, within one page of 2 MiB and what the driver rounds."""
    holder.hold(2 * MIB)
    before = whole.memory().used_bytes
    off = {}
    for size in (GIB // 4, GIB, 4 * GIB, 16 * GIB):
        holder.hold(size)
        off[size // MIB] = (whole.memory().used_bytes - (before - 2 * MIB) - size) / MIB
    measured("known allocations", difference_mib_by_size_mib=off)
    assert all(abs(difference) <= 4 for difference in off.values())


def test_memory_agrees_with_nvidia_smi_while_it_is_held(whole, holder):
    """Both say the same at the same moment, to the MiB that nvidia-smi rounds to."""
    holder.hold(3 * GIB)
    used, total, free, reserved = (
        int(part) for part in smi("memory.used", "memory.total", "memory.free", "memory.reserved")
    )
    seen = whole.memory()
    measured("nvidia-smi", theirs_mib=[used, total, free, reserved], ours_mib=[
        round(size / MIB, 1) for size in (seen.used_bytes, seen.total_bytes, seen.free_bytes, seen.reserved_bytes or 0)
    ])  # fmt: skip
    assert abs(seen.total_bytes / MIB - total) <= 1
    assert abs(seen.free_bytes / MIB - free) <= 2
    assert abs(seen.used_bytes / MIB - used) <= 2


LOAD_SECONDS = 20
LOAD = """
import cupy, os, time, subprocess
a = cupy.random.rand(8192, 8192, dtype="f4")
b = a @ a
cupy.cuda.Device().synchronize()
"""
BURN = f"""
query = ["nvidia-smi", "--query-gpu=power.draw.instant", "--format=csv,noheader,nounits", "-lms", "100"]
query += ["-i", os.environ["CUDA_VISIBLE_DEVICES"]]
log = open("power.txt", "w")
smi = subprocess.Popen(query, stdout=log)
end = time.monotonic() + {LOAD_SECONDS}
while time.monotonic() < end:
    for _ in range(20):
        cupy.matmul(a, a, out=b)
    cupy.cuda.Device().synchronize()
smi.terminate()
smi.wait()
log.close()
"""


def test_energy_and_utilisation_of_a_fixed_load(tmp_path, whole):
    """Energy of the cell is mean power times time within 5 %, by nvidia-smi's power and by our own samples."""
    needs("cupy")
    record, executed = run(tmp_path, LOAD, BURN, "time.sleep(6)")
    assert record["status"] == "succeeded", cli.text_of(executed)
    _, burn, idle = record["cells"]
    powers = [float(line) for line in (tmp_path / "power.txt").read_text().split() if line.replace(".", "").isdigit()]
    theirs = statistics.mean(powers) * burn["wall_seconds"]
    ours = burn["gpu_energy_joules"]
    times = [row["time_seconds"] for row in samples(tmp_path)]
    measured(
        "energy",
        joules=ours,
        smi_power_times_seconds=theirs,
        ratio=ours / theirs,
        smi_readings=len(powers),
        mean_watts=ours / burn["wall_seconds"],
        utilisation_load_percent=burn["gpu_utilization_mean_percent"],
        utilisation_idle_percent=idle["gpu_utilization_mean_percent"],
        samples=len(times),
        idle_watts=idle["gpu_energy_joules"] / idle["wall_seconds"],
    )
    assert ours == pytest.approx(theirs, rel=0.05)
    assert burn["gpu_utilization_mean_percent"] > 85
    assert idle["gpu_utilization_mean_percent"] < 20
    assert record["gpus"][0]["utilization_max_percent"] >= 95


TAKE = "import cupy\nx = cupy.ones(8 * 2**30, dtype='u1')\ncupy.cuda.Device().synchronize()"
CHILD = """
import subprocess, sys
code = ("import cupy, signal, time; signal.signal(signal.SIGTERM, signal.{handler}); "
        "x = cupy.ones(2**32, dtype='u1'); print(1, flush=True); time.sleep(600)")
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
print(child.stdout.readline())
"""
ENDS = {
    "normal": (TAKE,),
    "killed": (TAKE, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
    "child": (TAKE, CHILD.format(handler="SIG_DFL")),
    "stubborn child": (TAKE, CHILD.format(handler="SIG_IGN")),
}


@pytest.mark.parametrize("how", ENDS)
def test_memory_is_back_after_each_kind_of_end(tmp_path, how):
    """Seconds from the kernel's end to the baseline, with whom had to be ended."""
    needs("cupy")
    record, executed = run(tmp_path, *ENDS[how])
    release = record["release"]
    measured(f"release {how}", seconds=release["seconds"], released=release["released"], swept=release["swept"],
             stage_seconds=record["stages_seconds"].get("release"))  # fmt: skip
    assert record["status"] == ("kernel-died" if how == "killed" else "succeeded"), cli.text_of(executed)
    assert release["released"] is True, release["reason"]
    if "child" in how:
        assert {process["ended_by"] for process in release["swept"]} == {"SIGKILL" if "stubborn" in how else "SIGTERM"}


def test_the_gate_waits_for_memory_that_another_process_holds(tmp_path, whole, holder):
    """Refused at once without --wait, with who has it; passed once the other gave it back."""
    asked = int(whole.memory().total_bytes * 0.8 / 1e9)
    holder.hold(int(whole.memory().free_bytes * 0.5))
    refused = cli.runner("gate", "--json", "--min-gpu-memory-gb", asked)
    assert refused.code == 3
    process = cli.start("gate", "--json", "--min-gpu-memory-gb", asked, "--wait", "60s")
    time.sleep(4)
    assert process.poll() is None
    holder.hold(0)
    out, err = process.communicate(timeout=60)
    record = json.loads(out)
    measured("gate", reason=json.loads(refused.out)["reason"], waited_seconds=record["waited_seconds"])
    assert process.returncode == 0, err
    assert record["waited_seconds"] > 2


def test_health_agrees_with_nvidia_smi(whole):
    """ECC, memory errors, temperature and persistence; clocks and reasons of throttling are shown beside them."""
    health = read_health(whole)
    mode, errors, persistence, temperature = smi(
        "ecc.mode.current", "ecc.errors.uncorrected.volatile.total", "persistence_mode", "temperature.gpu"
    )
    clocks = smi("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks_event_reasons.active", "power.limit", "pstate")
    measured("health", ours=str(health), smi=[mode, errors, persistence, temperature], clocks=clocks)
    if health.ecc is not None:
        assert health.ecc == (mode == "Enabled")
    if health.uncorrected_errors is not None and errors.isdigit():
        assert health.uncorrected_errors == int(errors)
    if health.persistence is not None:
        assert health.persistence == (persistence == "Enabled")
    assert abs(health.temperature_celsius - float(temperature)) <= 5
    bits = int(clocks[3], 16) if clocks[3].startswith("0x") else 0
    assert bool(health.throttled_by) == bool(bits & 0xE8)


def start(folder, name, cell, *options, env=None):
    """Start a run of one cell on one GPU."""
    source = notebooks.write(folder / f"{name}.ipynb", cell)
    return cli.start("run", source, "--output-dir", folder / "out", "--no-html", "--min-gpus", "1", *options, env=env)


def test_two_runs_take_turns_on_one_gpu(tmp_path, whole):
    """The second is refused and told by whom, and with --wait runs when the first has ended."""
    env = {"CUDA_VISIBLE_DEVICES": whole.uuid}
    first = start(tmp_path, "first", "import time\ntime.sleep(8)", env=env)
    cli.until((tmp_path / "out" / "first.samples.csv").exists, "the first run")
    refused = cli.runner("gate", "--json", "--min-gpus", "1", env=env)
    assert refused.code == 3
    assert "first" in json.loads(refused.out)["reason"]
    second = start(tmp_path, "second", "print('my turn')", "--wait", "60s", env=env)
    for process in (first, second):
        _, err = process.communicate(timeout=cli.PATIENCE)
        assert process.returncode == 0, err
    one, two = (cli.metrics(tmp_path / "out", name) for name in ("first", "second"))
    measured("turns", waited_seconds=two["gate"]["waited_seconds"])
    assert two["cells"][0]["started_at"] > one["cells"][0]["started_at"]
    assert two["gate"]["waited_seconds"] > 2


def test_two_runs_at_once_keep_their_figures_apart(tmp_path, whole):
    """Where locks are not shared, as between machines' containers, NVML sees both; each probe sees its own."""
    needs("rmm")
    runs = []
    for name, size in (("small", GIB), ("large", 6 * GIB)):
        cell = f"import rmm, time\na = rmm.DeviceBuffer(size={size})\ntime.sleep(5)"
        env = {"CUDA_VISIBLE_DEVICES": whole.uuid, "RUNNER_LOCK_DIR": str(tmp_path / name)}
        runs.append(start(tmp_path, name, cell, env=env))
    for process in runs:
        _, err = process.communicate(timeout=cli.PATIENCE)
        assert process.returncode == 0, err
    small, large = (cli.metrics(tmp_path / "out", name)["gpus"][0] for name in ("small", "large"))
    measured(
        "two at once",
        allocated_gib=[gpu["allocated"]["peak_allocated_bytes"] / GIB for gpu in (small, large)],
        nvml_gib=[gpu["peak_gpu_memory_bytes"] / GIB for gpu in (small, large)],
        overhead_mib=[(gpu["allocated"]["overhead_bytes"] or 0) / MIB for gpu in (small, large)],
    )
    assert (small["allocated"]["peak_allocated_bytes"], large["allocated"]["peak_allocated_bytes"]) == (GIB, 6 * GIB)
    assert small["peak_gpu_memory_bytes"] > 6 * GIB


def test_a_mig_slice_is_measured_by_itself(tmp_path):
    """Only where a card shows slices; their settings are never touched."""
    with gpus.open_driver() as driver:
        slices = [gpu for gpu in driver.devices() if gpu.mig]
        if not slices:
            pytest.skip("no GPU here shows MIG slices")
        needs("rmm")
        env = {"CUDA_VISIBLE_DEVICES": slices[0].uuid}
        record, _ = run(tmp_path, "import rmm\na = rmm.DeviceBuffer(size=2**30)\nimport time\ntime.sleep(1)", env=env)
        assert record["gpus"][0]["uuid"] == slices[0].uuid
        assert record["gpus"][0]["allocated"]["peak_allocated_bytes"] == GIB
