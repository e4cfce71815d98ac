# SPDX-License-Identifier: Apache-2.0
"""On a real GPU: the allocator probe against notebooks that allocate by plan, with the real cupy and rmm."""

from __future__ import annotations

import pytest
from support import cli
from support.realgpu import GIB, MIB, measured, needs, require, run

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def device(request):
    """Need a GPU."""
    require(request)


PLAN = (
    ("hold 2 GiB", "import time\nkept = [take(1), take(1)]\ntime.sleep(0.7)", 2, 2),
    ("3 GiB more, for a moment", "spike = [take(2), take(1)]\ntime.sleep(0.7)\ndel spike", 5, 2),
    ("free half", "del kept[0]", 2, 1),
    ("many small ones", "small = [take(1 / 1024) for _ in range(512)]\ndel small", 1.5, 1),
    ("nothing", "del kept", 1, 0),
)
"""What each cell does, its peak and its end, in GiB."""

CUPY = "import cupy\ndef take(gib):\n    return cupy.empty(int(gib * 2**30), dtype='u1')\ncupy.empty(1)"
RMM = "import rmm\n{setup}\ndef take(gib):\n    return rmm.DeviceBuffer(size=int(gib * 2**30))"
ON_RMM = (
    "import cupy, rmm\nfrom rmm.allocators.cupy import rmm_cupy_allocator\nrmm.reinitialize(pool_allocator=True)\n"
    "cupy.cuda.set_allocator(rmm_cupy_allocator)\n"
    "def take(gib):\n    return cupy.empty(int(gib * 2**30), dtype='u1')"
)
SETUPS = {
    "cupy-exact": (CUPY, "exact", "cupy-hook"),
    "rmm-plain": (RMM.format(setup=""), "on", "rmm"),
    "rmm-pool": (RMM.format(setup="rmm.reinitialize(pool_allocator=True)"), "on", "rmm"),
    "rmm-pool-grows": (RMM.format(setup="rmm.reinitialize(pool_allocator=True, initial_pool_size=2**30)"), "on", "rmm"),
    # A few GiB of an empty card: managed memory beyond what is free can hang a GPU.
    "rmm-managed": (RMM.format(setup="rmm.reinitialize(managed_memory=True)"), "on", "rmm"),
    "cupy-on-rmm-pool": (ON_RMM, "on", "rmm"),
}


@pytest.mark.parametrize("kind", SETUPS)
def test_peaks_and_ends_are_those_of_the_plan(tmp_path, kind):
    """Within one percent in each cell, whatever allocates, and whatever NVML sees."""
    needs("cupy") if kind.startswith("cupy") else needs("rmm")
    needs("rmm") if "rmm" in kind else None
    setup, mode, source = SETUPS[kind]
    record, executed = run(tmp_path, setup, *(code for _, code, _, _ in PLAN), options=("--allocator-probe", mode))
    assert record["status"] == "succeeded", cli.text_of(executed)
    assert record["warnings"] == []
    rows = []
    for cell, (what, _, peak, end) in zip(record["cells"][1:], PLAN, strict=True):
        (told,) = cell["allocated"]
        (seen,) = cell["peak_gpu_memory_bytes"].values()
        rows.append([what, peak, told["peak_allocated_bytes"] / GIB, seen / GIB])
        assert told["source"] == source
        assert told["peak_allocated_bytes"] == pytest.approx(peak * GIB, rel=0.01, abs=MIB), rows
        assert told["end_allocated_bytes"] == pytest.approx(end * GIB, rel=0.01, abs=MIB), rows
    gpu = record["gpus"][0]
    if kind in {"cupy-exact", "rmm-plain"}:  # nothing is kept, so NVML shows the same and what lies outside
        outside = gpu["baseline_bytes"] + gpu["allocated"]["overhead_bytes"]
        for _, peak, _, seen in rows[:2]:
            assert seen * GIB - outside == pytest.approx(peak * GIB, rel=0.01, abs=16 * MIB), rows
    measured(
        f"plan {kind}",
        rows_plan_probe_nvml_gib=rows,
        need_gib=(gpu["need_bytes"] or 0) / GIB,
        overhead_mib=(gpu["allocated"]["overhead_bytes"] or 0) / MIB,
        card_gb=gpu["smallest_card_gb"],
        nvml_peak_gib=gpu["peak_gpu_memory_bytes"] / GIB,
        pool_gib=(gpu["allocated"]["pool_bytes"] or 0) / GIB,
    )
    assert gpu["allocated"]["peak_allocated_bytes"] == pytest.approx(5 * GIB, rel=0.01)
    if kind != "rmm-managed":
        assert 50 * MIB < gpu["allocated"]["overhead_bytes"] < 4 * GIB
        assert gpu["smallest_card_gb"] == 16
    if kind == "rmm-pool":
        assert gpu["peak_gpu_memory_bytes"] > 3 * gpu["need_bytes"]


def test_cupys_pool_bounds_what_was_allocated(tmp_path):
    """Without `exact`: never below the truth at the end of a cell, and above it by what the pool keeps."""
    needs("cupy")
    record, _ = run(tmp_path, CUPY, *(code for _, code, _, _ in PLAN))
    bounds = []
    for cell, (_, _, peak, end) in zip(record["cells"][1:], PLAN, strict=True):
        (told,) = cell["allocated"]
        bounds.append(told["peak_allocated_bytes"] / GIB)
        assert told["source"] == "cupy-pool-bound"
        assert told["end_allocated_bytes"] == pytest.approx(end * GIB, rel=0.01, abs=MIB)
        assert told["peak_allocated_bytes"] >= peak * GIB
    measured("cupy-pool-bound", plan_gib=[peak for _, _, peak, _ in PLAN], bound_gib=bounds)


SPIKE = (
    "import time\ntime.sleep(0.3)\nspike = rmm.DeviceBuffer(size=4 * 2**30)\ntime.sleep({seconds})\n"
    "del spike\ntime.sleep(0.75)"
)


def test_spikes_are_seen_by_the_probe_at_any_length(tmp_path):
    """NVML sampled twice a second misses the short ones, and sees all that last a second or more."""
    needs("rmm")
    lengths = [seconds for seconds in (0.01, 0.2, 0.5, 1.0, 3.0) for _ in range(4)]
    first = "import rmm\nfirst = rmm.DeviceBuffer(size=1)"
    record, _ = run(tmp_path, first, *(SPIKE.format(seconds=seconds) for seconds in lengths))
    base = next(iter(record["cells"][0]["peak_gpu_memory_bytes"].values()))
    seen = {seconds: [0, 0] for seconds in lengths}
    for cell, seconds in zip(record["cells"][1:], lengths, strict=True):
        (peak,) = cell["peak_gpu_memory_bytes"].values()
        (told,) = cell["allocated"]
        seen[seconds][0] += peak >= base + int(3.9 * GIB)
        seen[seconds][1] += told["peak_allocated_bytes"] >= 4 * GIB
    measured("spikes", of=4, seen_by_nvml_and_probe={str(key): value for key, value in seen.items()})
    assert all(probe == 4 for _, probe in seen.values())
    assert all(nvml == 4 for seconds, (nvml, _) in seen.items() if seconds >= 1)


LOOK = [
    "import sys, os, pickle\nbefore = sorted(dir())\nimport cupy, rmm\nprint('RUNNER_ALLOCATOR_PROBE' in os.environ)",
    (
        "print(type(rmm.mr.get_current_device_resource()))\nrmm.reinitialize(pool_allocator=True)\n"
        "mr = rmm.mr.get_current_device_resource()\n"
        "print(type(mr).__mro__, mr.pool_size() >> 30, mr is rmm.mr.get_per_device_resource(0))\ndel mr"
    ),
    (
        "rmm.reinitialize(pool_allocator=True, initial_pool_size=2**33)\n"
        "print(cupy.cuda.runtime.memGetInfo()[0] >> 30)  # the first pool is gone"
    ),
    (
        "rmm.reinitialize(logging=True, log_file_name='rmm.log')\nprint(sorted(rmm.get_log_filenames()))\n"
        "print(type(rmm.mr.get_current_device_resource()))\nrmm.disable_logging()\n"
        "print(rmm.get_log_filenames(), type(rmm.mr.get_current_device_resource()))"
    ),
    (
        "import rmm.statistics\nprint(rmm.statistics.get_statistics())\nrmm.statistics.enable_statistics()\n"
        "x = rmm.DeviceBuffer(size=1000)\nprint(rmm.statistics.get_statistics())\n"
        "print(type(rmm.mr.get_current_device_resource().get_upstream()))"
    ),
    (
        "with rmm.statistics.statistics():\n    y = rmm.DeviceBuffer(size=10**6)\n    del y\n"
        "    print(rmm.statistics.get_statistics())"
    ),
    (
        "for function in (rmm.reinitialize, rmm.mr.get_current_device_resource, rmm.mr.set_per_device_resource):\n"
        "    print(pickle.loads(pickle.dumps(function)) is function, function.__name__, function.__module__)"
    ),
    (
        "from rmm.allocators.cupy import rmm_cupy_allocator\ncupy.cuda.set_allocator(rmm_cupy_allocator)\n"
        "z = cupy.arange(10**6, dtype='f8')\nprint(float((z * z).sum()))"
    ),
    "try:\n    rmm.DeviceBuffer(size=10**14)\nexcept MemoryError as error:\n    print(str(error)[:60])",
    "cupy.cuda.set_allocator()\na = cupy.random.RandomState(0).rand(2000, 2000)\nprint(float(a.sum()))\na @ a",
    "print(len(In), list(Out), sorted(set(dir()) - set(before)))",
]


def test_a_notebook_cannot_tell_that_it_is_measured(tmp_path):
    """The real libraries give the same outputs with the probe off, on and exact."""
    needs("cupy", "rmm")
    seen = {}
    for mode in ("off", "on", "exact"):
        record, executed = run(tmp_path, *LOOK, options=("--allocator-probe", mode), name=mode)
        assert record["status"] == "succeeded", cli.text_of(executed)
        assert record["warnings"] == []
        seen[mode] = [
            (cell.execution_count, [output.get("text") or output.get("data") for output in cell.outputs])
            for cell in cli.source_cells(executed)
        ]
    assert seen["on"] == seen["off"]
    assert seen["exact"] == seen["off"]


FORK = """
import multiprocessing
import cupy, rmm

def child(queue):
    import cupy
    queue.put(float(cupy.arange(10).sum()))
"""
FORKED = """
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=child, args=(queue,))
process.start()
process.join(60)
print("child says", queue.get(timeout=5))
"""


def test_a_process_may_still_fork_after_the_import(tmp_path):
    """The probe starts no CUDA of its own: a child that was forked after the imports can use the device."""
    needs("cupy", "rmm")
    record, executed = run(tmp_path, FORK, FORKED)
    assert record["status"] == "succeeded", cli.text_of(executed)
    assert "child says 45.0" in cli.text_of(executed)


WORKER = """
import subprocess, sys
code = "import cupy, time; x = cupy.ones(10**9, dtype='u1'); print('ready', flush=True); time.sleep(600)"
worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
worker.stdout.readline()
"""


def test_memory_of_workers_is_told_apart(tmp_path):
    """A child that uses CUDA is found by what it holds open; the need is left open and says why."""
    needs("cupy", "rmm")
    cells = ("import rmm\na = rmm.DeviceBuffer(size=2**30)", WORKER, "import time\ntime.sleep(1.5)\nworker.kill()")
    record, _ = run(tmp_path, *cells)
    gpu = record["gpus"][0]
    measured("workers", reason=gpu["allocated"]["reason"], nvml_gib=gpu["peak_gpu_memory_bytes"] / GIB)
    assert gpu["allocated"]["peak_allocated_bytes"] == GIB
    assert gpu["need_bytes"] is None
    assert "other processes of this run" in gpu["unavailable"]["need_bytes"]


OUT_OF_MEMORY = {
    "cupy": ("import cupy\na = cupy.empty(2**30, dtype='u1')", "b = cupy.empty(10**13, dtype='u1')", 2**30),
    "rmm": ("import rmm\na = rmm.DeviceBuffer(size=2**30)", "b = rmm.DeviceBuffer(size=10**13)", 2**30),
    "rmm-pool": (
        "import rmm\nrmm.reinitialize(pool_allocator=True)\na = rmm.DeviceBuffer(size=2**30)",
        "b = rmm.DeviceBuffer(size=10**13)",
        2**30,
    ),
    "rmm-pool-limit": (
        (
            "import rmm\nrmm.reinitialize(pool_allocator=True, initial_pool_size=2**31, maximum_pool_size=2**31)\n"
            "a = rmm.DeviceBuffer(size=2**30)"
        ),
        "b = rmm.DeviceBuffer(size=2**33)",
        2**30,
    ),
}


@pytest.mark.parametrize("kind", OUT_OF_MEMORY)
def test_running_out_of_memory_is_told_with_its_figures(tmp_path, kind):
    """The libraries' own messages are understood: asked, allocated, pool and free."""
    needs(kind.partition("-")[0])
    setup, failing, allocated = OUT_OF_MEMORY[kind]
    record, _ = run(tmp_path, setup, failing)
    failure = record["failure"]
    measured(f"out of memory {kind}", message=failure["message"][:400], hint=failure["hint"])
    assert (failure["cause"], failure["cell_index"]) == ("device-memory", 1)
    seen = failure["device_memory"]
    assert seen["allocated_bytes"] == allocated
    assert seen["asked_bytes"] is not None
    assert 0 < seen["free_bytes"] < seen["total_bytes"], seen
    assert (seen["pool_bytes"] is not None) == (kind != "rmm")
