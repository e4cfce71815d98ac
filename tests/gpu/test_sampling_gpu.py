# SPDX-License-Identifier: Apache-2.0
"""On a real GPU: short spikes and the energy of a run, by NVML alone."""

from __future__ import annotations

import pytest
from support.realgpu import GIB, measured, needs, require, run, samples, smi

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def device(request):
    """Need a GPU."""
    require(request)


SPIKE = "time.sleep({pause})\nspike = cupy.cuda.Memory(4 * 2**30)\ntime.sleep(0.1)\ndel spike\ntime.sleep(0.6)"


def test_spikes_of_a_tenth_of_a_second_are_sampled(tmp_path):
    """In 9 of 10 cells, wherever between two ticks they come."""
    needs("cupy")
    spikes = [SPIKE.format(pause=0.5 + 0.05 * number) for number in range(10)]
    record, _ = run(tmp_path, "import time, cupy\nfirst = cupy.cuda.Memory(1)", *spikes)
    base = next(iter(record["cells"][0]["peak_gpu_memory_bytes"].values()))
    peaks = [next(iter(cell["peak_gpu_memory_bytes"].values())) for cell in record["cells"][1:]]
    seen = sum(peak >= base + int(3.9 * GIB) for peak in peaks)
    share = record["sampler"]["cpu_seconds"] / record["wall_seconds"]
    measured("spikes of 100 ms", of=10, seen=seen, sampler_share_of_a_core=share)
    assert seen >= 9


def test_the_energy_of_a_run_begins_with_its_kernel(tmp_path):
    """It holds that of all cells, its time is shorter than the run, and the idle share is a part of it."""
    needs("cupy")
    burn = (
        "import time, cupy\na = cupy.random.rand(4096, 4096)\nend = time.monotonic() + 4\n"
        "while time.monotonic() < end:\n    a @ a\n    cupy.cuda.Device().synchronize()"
    )
    record, _ = run(tmp_path, burn, "time.sleep(3)")
    (gpu,) = record["gpus"]
    cells = sum(cell["gpu_energy_joules"] for cell in record["cells"])
    measured(
        "energy of a run",
        joules=gpu["energy_joules"],
        cells_joules=cells,
        seconds=gpu["energy_seconds"],
        wall_seconds=record["wall_seconds"],
        mean_watts=gpu["energy_joules"] / gpu["energy_seconds"],
        idle_joules=gpu["energy_idle_joules"],
    )
    assert gpu["energy_seconds"] <= record["wall_seconds"]
    assert gpu["energy_joules"] >= 0.98 * cells
    assert 0 < gpu["energy_idle_joules"] < gpu["energy_joules"]


WORK = {
    "copy": (
        "src, dst = (cupy.empty(2**31, 'u1') for _ in range(2))\nwork = lambda: cupy.copyto(dst, src)",
        "dram_bandwidth_percent",
        60,
    ),
    "matmul": (
        "a = cupy.random.rand(8192, 8192).astype('f2')\nwork = lambda: a @ a",
        "tensor_percent",
        40,
    ),
}


@pytest.mark.parametrize("kind", WORK)
def test_the_counters_say_which_units_work(tmp_path, kind):
    """Copies within the device fill its memory's bandwidth, products of half precision its tensor cores."""
    needs("cupy")
    setup, name, least = WORK[kind]
    loop = (
        "import time, cupy\n{setup}\nwork()\ncupy.cuda.Device().synchronize()\nend = time.monotonic() + {seconds}\n"
        "while time.monotonic() < end:\n    for _ in range(20):\n        work()\n    cupy.cuda.Device().synchronize()"
    )
    record, _ = run(tmp_path, loop.format(setup=setup, seconds=20))
    (gpu,) = record["gpus"]
    if not gpu["activity"]:
        pytest.skip(f"no counters: {gpu['unavailable']['activity']}")
    busy = gpu["busy_seconds"] / gpu["energy_seconds"]
    measured(f"activity of a {kind}", busy_share=busy, **gpu["activity"])
    others = [one for other, (_, one, _) in WORK.items() if other != kind]
    assert gpu["activity"][name] >= least * busy
    assert all(gpu["activity"][name] > gpu["activity"][one] for one in others)


# Work of known size for ten seconds; what it achieved is recorded beside the peak at the clocks that it ran with.
KNOWN = """\
import time, cupy, pynvml, runner
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByUUID("{uuid}")
def ended(work, count, watch=lambda: None):
    for _ in range(count):
        work()
    end = cupy.cuda.Event()
    end.record()
    while not end.done:
        watch()
        time.sleep(0.01)
def achieved(work, amount, kind):
    done, clocks, start = 0, [], time.monotonic()
    while time.monotonic() - start < 10:
        # All the while: an idle GPU clocks higher, and one at its power limit lower.
        ended(work, 400, lambda: clocks.append(pynvml.nvmlDeviceGetClockInfo(handle, kind)))
        done += 400
    return done * amount / (time.monotonic() - start), sum(clocks) / len(clocks) * 1e6
src, dst = (cupy.ones(2**32, "u1") for _ in range(2))
a = cupy.zeros((8192, 8192), "f2")  # of zeros: real numbers meet the power limit
matmul = lambda: cupy.matmul(a, a)
matmul(); cupy.cuda.Device().synchronize()
"""
COPY = """\
rate, hertz = achieved(lambda: cupy.copyto(dst, src), 2 * 2**32, pynvml.NVML_CLOCK_MEM)
bus_bytes = pynvml.nvmlDeviceGetMemoryBusWidth(handle) / 8
runner.record("copy_percent", 100 * rate / (2 * hertz * bus_bytes))
"""
MATMUL = """\
rate, hertz = achieved(matmul, 2 * 8192**3, pynvml.NVML_CLOCK_SM)
sms = cupy.cuda.Device().attributes["MultiProcessorCount"]
runner.record("matmul_percent", 100 * rate / (4096 * sms * hertz))
"""
HALF = """\
busy, start = 0, time.monotonic()
while time.monotonic() - start < 10:
    began = time.monotonic()
    ended(matmul, 100)
    took = time.monotonic() - began
    busy += took
    time.sleep(took)
runner.record("busy_share", busy / (time.monotonic() - start))
"""


def test_the_counters_agree_with_work_of_known_size(tmp_path):
    """A copy by its bytes; a product by its operations (4096 of half precision per SM and clock on Hopper) and its time.

    The tensor cores count as active while they wait for operands, so that operations are a lower bound only; with
    pauses as long as the work, the counter falls as the time does.
    """
    needs("cupy", "pynvml")
    if smi("compute_cap") != ["9.0"]:
        pytest.skip("the operations per clock are known for Hopper")
    (uuid,) = smi("uuid")
    record, _ = run(tmp_path, KNOWN.format(uuid=uuid), COPY, MATMUL, HALF)
    assert record["status"] == "succeeded", record["reason"]
    copy, matmul, half = (cell["gpu_activity"] for cell in record["cells"][1:])
    known = record["recorded"]
    share = record["sampler"]["cpu_seconds"] / record["wall_seconds"]
    measured("known work", known=known, copy=copy, matmul=matmul, half=half, sampler_share_of_a_core=share)
    assert copy["dram_bandwidth_percent"] == pytest.approx(known["copy_percent"], rel=0.1)
    assert known["matmul_percent"] <= matmul["tensor_percent"] <= 100
    assert half["tensor_percent"] == pytest.approx(known["busy_share"] * matmul["tensor_percent"], rel=0.1)
    over_time = [row["gpu_tensor_percent"] for row in samples(tmp_path) if "gpu_tensor_percent" in row]
    assert max(over_time) >= matmul["tensor_percent"] > min(over_time)
