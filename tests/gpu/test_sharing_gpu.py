# SPDX-License-Identifier: Apache-2.0
"""On a real GPU: who sees it, in which mode it is, and what belongs to whom on one that is shared."""

from __future__ import annotations

import json
import os

import pytest
from support import cli, notebooks
from support.realgpu import GIB, MIB, Holder, measured, needs, require, run, smi

from runner.machine import gpus

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]

COUNT = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
code, count = cuda.cuInit(0), ctypes.c_int(0)
cuda.cuDeviceGetCount(ctypes.byref(count))
print("cuInit", code, "devices", count.value)
"""
"""CUDA itself, without a library that might hide what it says: 100 is CUDA_ERROR_NO_DEVICE."""


@pytest.fixture(autouse=True)
def device(request):
    """Need a GPU."""
    require(request)


@pytest.fixture
def holder():
    """Give another process that holds memory of the GPU."""
    made = Holder()
    yield made
    made.end()


def lone(folder, *cells, options=()):
    """Run cells without a plan and return exit code, metrics, and what they print."""
    source = notebooks.write(folder / "n.ipynb", *cells)
    ended = cli.runner("run", source, "--output-dir", folder / "out", "--no-html", *options)
    return ended.code, cli.metrics(folder / "out", "n"), cli.text_of(cli.executed(folder / "out", "n"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "cuInit 100 devices 0"),
        (("--min-gpus", "1"), "cuInit 0 devices 1"),
        (("--gpu-visibility", "all"), "cuInit 0 devices 1"),
    ],
)
def test_cuda_shows_a_kernel_the_gpus_that_it_was_given(tmp_path, options, said):
    """None without asking, which CUDA itself confirms; one that was asked for; all on demand."""
    code, record, printed = lone(tmp_path, COUNT, options=options)
    assert (code, said in printed) == (0, True), printed
    assert len(record["gpus"]) == ("--min-gpus" in options)


def test_no_device_names_the_option_that_gives_one(tmp_path):
    """The message of the real library is understood."""
    needs("cupy")
    code, record, _ = lone(tmp_path, "import cupy\nx = cupy.ones(10)")
    measured("no device", message=record["failure"]["message"], hint=record["failure"]["hint"])
    assert code == 1
    assert "--min-gpus 1" in record["failure"]["hint"]


def test_the_compute_mode_is_that_of_nvidia_smi():
    """The mode is read and never set: a gate that finds the default says nothing of it."""
    (mode,) = smi("compute_mode")
    with gpus.open_driver() as driver:
        (gpu,) = driver.visible(os.environ)
        ours = gpu.compute_mode()
    names = {"Default": "default", "Exclusive_Process": "exclusive", "Exclusive_Thread": "exclusive"}
    measured("compute mode", ours=ours, theirs=mode)
    assert ours == names.get(mode, "prohibited")
    ended = cli.runner("gate", "--json", "--min-gpus", "1")
    assert (ended.code == 0) == (mode != "Prohibited"), json.loads(ended.out)["reason"]


def test_a_gpu_if_there_is_one_is_used_and_measured(tmp_path):
    """What `runner demo` asks for: chosen, locked, measured and released like any other."""
    needs("cupy")
    requires = {"gpus": 1, "cpu_fallback": True}
    plan = {"version": 1, "name": "p", "notebooks": [{"name": "n", "path": "n.ipynb", "requires": requires}]}
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    notebooks.write(tmp_path / "n.ipynb", "import cupy, time\nx = cupy.ones(2**30, dtype='u1')\ntime.sleep(1.5)")
    ended = cli.runner("run", "n", "--plan", tmp_path / "plan.yaml", "--output-dir", tmp_path / "out", "--no-html")
    record = cli.metrics(tmp_path / "out", "n")
    assert ended.code == 0, ended.err
    assert record["gate"]["chosen"] == [os.environ["CUDA_VISIBLE_DEVICES"]]
    assert record["gpus"][0]["peak_gpu_memory_bytes"] - record["gpus"][0]["baseline_bytes"] >= GIB
    assert record["release"]["released"] is True


WAIT = """
import pathlib, time
pathlib.Path("ready").touch()
while not pathlib.Path("grown").exists():
    time.sleep(0.1)
time.sleep(3)
"""


def test_what_a_neighbour_takes_is_not_charged_to_the_notebook(tmp_path, holder):
    """3 GiB more of another process stay after the run: released by attribution, or not told apart, never 8."""
    holder.hold(GIB)
    source = notebooks.write(tmp_path / "n.ipynb", WAIT)
    options = ("--output-dir", tmp_path / "out", "--no-html", "--min-gpus", "1", "--strict-release")
    process = cli.start("run", source, *options)
    cli.until((tmp_path / "ready").exists, "the cell")
    holder.hold(4 * GIB)
    (tmp_path / "grown").touch()
    _, err = process.communicate(timeout=cli.PATIENCE)
    record = cli.metrics(tmp_path / "out", "n")
    gpu, release = record["gpus"][0], record["release"]
    measured("neighbour", release=release["reason"], released=release["released"], neighbours=gpu["neighbours"],
             baseline_mib=gpu["baseline_bytes"] / MIB, after_mib=release["after_bytes"][gpu["uuid"]] / MIB)  # fmt: skip
    assert process.returncode == 0, err
    assert release["after_bytes"][gpu["uuid"]] - gpu["baseline_bytes"] > 2 * GIB
    if holder.process.pid in {one["pid"] for one in gpu["neighbours"]}:  # pids of this namespace
        assert release["released"] is True, release["reason"]
    else:
        assert release["released"] is None
        assert "cannot be attributed" in release["reason"]


def test_a_library_that_imports_dask_cuda_leaves_the_need(tmp_path):
    """The import alone starts no worker."""
    needs("rmm", "dask_cuda")
    record, executed = run(tmp_path, "import dask_cuda, rmm\na = rmm.DeviceBuffer(size=2**30)")
    assert record["status"] == "succeeded", cli.text_of(executed)
    assert GIB < record["gpus"][0]["need_bytes"] < 5 * GIB


def test_a_pool_on_a_second_gpu_is_told(tmp_path, two_gpus):
    """Nothing is allocated there, and its memory is taken."""
    needs("rmm")
    cell = "import rmm\nrmm.reinitialize(pool_allocator=True, initial_pool_size=2**32, devices=[0, 1])"
    record, executed = run(tmp_path, cell, "a = rmm.DeviceBuffer(size=2**30)", options=("--min-gpus", "2"))
    assert record["status"] == "succeeded", cli.text_of(executed)
    told = {gpu["uuid"]: gpu["allocated"] for gpu in record["gpus"]}
    assert set(told) == set(two_gpus)
    assert sorted(one["peak_allocated_bytes"] for one in told.values()) == [0, GIB]
    assert {one["pool_bytes"] for one in told.values()} == {2**32}
