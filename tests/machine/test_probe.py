# SPDX-License-Identifier: Apache-2.0
"""The allocator probe in a real kernel, with stand-ins for cupy and rmm and the simulated driver.

What the stand-ins allocate shows in the simulated driver, so that both figures of a run are known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from simdriver import Device
from support import cli, notebooks

from runner.machine.allocator_probe import probe, probing
from runner.machine.allocator_probe.probing import NO_LIBRARY, NOT_REPORTED

STANDINS = Path(__file__).parents[1] / "standins"
GPU = "GPU-00000000-0000-4000-8000-00000000000a"
GB = 10**9
CONTEXT = 512 * 10**6
TOTAL = 80 * GB


@pytest.fixture
def run(tmp_path, simulated_driver):
    """Give a function that runs cells with the stand-ins in the kernel's path."""
    simulated_driver.write(Device(uuid=GPU, total_bytes=TOTAL, reserved_bytes=0))

    def start(*cells, options=(), name="n", path=()):
        source = notebooks.write(tmp_path / f"{name}.ipynb", *cells)
        out = tmp_path / "out"
        places = [*path, str(STANDINS), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**simulated_driver.env, "PYTHONPATH": os.pathsep.join(places), "STANDIN_GPU": GPU}
        arguments = ("run", source, "--output-dir", out, "--no-html", "--min-gpus", "1", *options)
        ended = cli.runner(*arguments, env=env)
        return ended, cli.metrics(out, name), cli.executed(out, name)

    return start


def figures(record):
    """Return peak and end of each cell, None where nothing was allocated yet."""
    return [
        (cell["allocated"][0]["peak_allocated_bytes"], cell["allocated"][0]["end_allocated_bytes"])
        if cell["allocated"]
        else None
        for cell in record["cells"]
    ]


def sources(record):
    """Return the sources that the cells name."""
    return [cell["allocated"][0]["source"] for cell in record["cells"] if cell["allocated"]]


def test_the_need_is_told_from_the_pool(run):
    """NVML sees half of the device; the probe sees what was allocated, and the need is that and the context."""
    _, record, _ = run(
        "import rmm\nrmm.reinitialize(pool_allocator=True)",
        "import time\nkept = [rmm.DeviceBuffer(size=10**9) for _ in range(3)]\ntime.sleep(0.3)",
        "spike = rmm.DeviceBuffer(size=4 * 10**9)\ndel spike",
        "del kept",
    )
    assert figures(record) == [(0, 0), (3 * GB, 3 * GB), (7 * GB, 3 * GB), (3 * GB, 0)]
    assert set(sources(record)) == {"rmm"}
    gpu = record["gpus"][0]
    assert gpu["peak_gpu_memory_bytes"] == TOTAL // 2 + CONTEXT
    total = gpu["allocated"]
    assert (total["peak_allocated_bytes"], total["pool_bytes"], total["overhead_bytes"]) == (
        7 * GB,
        TOTAL // 2,
        CONTEXT,
    )
    assert (gpu["need_bytes"], gpu["smallest_card_gb"]) == (7 * GB + CONTEXT, 16)
    assert record["allocator_probe"]["libraries"] == {"rmm": "0.0.standin"}
    assert record["warnings"] == []


def test_without_a_pool_too_the_peak_within_a_cell_is_seen(run):
    """A spike that comes and goes between two samples."""
    _, record, _ = run("import rmm", "a = rmm.DeviceBuffer(size=5 * 10**9); del a", "b = rmm.DeviceBuffer(size=10**9)")
    assert figures(record) == [None, (5 * GB, 0), (GB, GB)]
    assert record["gpus"][0]["need_bytes"] == 5 * GB + CONTEXT


def test_memory_of_an_earlier_resource_still_counts(run):
    """The notebook changes its resource while it holds memory, and frees that memory later."""
    _, record, _ = run(
        "import rmm\na = rmm.DeviceBuffer(size=2 * 10**9)",
        "rmm.mr.set_current_device_resource(rmm.mr.ManagedMemoryResource())\nb = rmm.DeviceBuffer(size=10**9)",
        "rmm.mr.set_per_device_resource(0, rmm.mr.PoolMemoryResource(rmm.mr.CudaMemoryResource(), 4 * 10**9))\n"
        "c = rmm.DeviceBuffer(size=10**8)",
        "del a",
        "pass",
    )
    assert figures(record) == [
        (2 * GB, 2 * GB),
        (3 * GB, 3 * GB),
        (3 * GB + GB // 10, 3 * GB + GB // 10),
        (3 * GB + GB // 10, GB + GB // 10),
        (GB + GB // 10, GB + GB // 10),
    ]
    assert [cell["allocated"][0]["managed"] for cell in record["cells"]] == [False, True, False, False, False]


LOOK = [
    "import sys, os, pickle\nbefore = sorted(dir())\nprint(before, [type(f).__name__ for f in sys.meta_path[-3:]])",
    "import standin_device, rmm, cupy\nprint(standin_device.has_context, 'RUNNER_ALLOCATOR_PROBE' in os.environ)",
    "print(type(rmm.mr.get_current_device_resource()), rmm.mr.get_current_device_resource_type())",
    (
        "rmm.reinitialize(pool_allocator=True)\nprint(standin_device.free_bytes())\n"
        "mr = rmm.mr.get_current_device_resource()\n"
        "print(type(mr).__mro__, mr.pool_size(), mr is rmm.mr.get_per_device_resource(0))\ndel mr"
    ),
    "rmm.reinitialize(pool_allocator=True)\nprint(standin_device.free_bytes())  # the first pool is gone",
    (
        "rmm.reinitialize(logging=True, log_file_name='rmm.log')\nprint(rmm.get_log_filenames())\n"
        "rmm.disable_logging()\nprint(rmm.get_log_filenames(), type(rmm.mr.get_current_device_resource()))\n"
        "rmm.enable_logging()\nprint(rmm.get_log_filenames(), type(rmm.mr.get_current_device_resource()))\n"
        "rmm.disable_logging()"
    ),
    (
        "import rmm.statistics\nprint(rmm.statistics.get_statistics())\nrmm.statistics.enable_statistics()\n"
        "x = rmm.DeviceBuffer(size=1000)\nprint(rmm.statistics.get_statistics())\n"
        "print(type(rmm.mr.get_current_device_resource().get_upstream()))"
    ),
    (
        "for function in (rmm.reinitialize, rmm.mr.get_current_device_resource, rmm.mr.set_per_device_resource):\n"
        "    print(pickle.loads(pickle.dumps(function)) is function, function.__name__, function.__module__)"
    ),
    (
        "for use in (lambda: rmm.mr.set_current_device_resource(), lambda: rmm.reinitialize(nonsense=1)):\n"
        "    try:\n        use()\n    except TypeError as error:\n        print(error)"
    ),
    (
        "print(cupy.__spec__.loader.__class__, vars(cupy.__spec__.loader).keys(), cupy.__spec__.origin)\n"
        "y = cupy.empty(10**6)\nprint(cupy.get_default_memory_pool().total_bytes())"
    ),
    "6 * 7",
    "print(In[11], Out, _, sorted(set(dir()) - set(before)))\nraise ValueError('the end')",
]


def test_a_notebook_cannot_tell_that_it_is_measured(run):
    """Outputs, numbering, namespace, types, pickles and errors are the same with the probe off, on and exact."""
    seen = {}
    for mode in ("off", "on", "exact"):
        _, record, executed = run(*LOOK, options=("--allocator-probe", mode), name=mode)
        assert record["status"] == "failed", cli.text_of(executed)
        assert "the end" in record["failure"]["message"]
        seen[mode] = [
            (cell.execution_count, cell.source, [output.get("text", output.get("evalue")) for output in cell.outputs])
            for cell in cli.source_cells(executed)
        ]
        assert (record["gpus"][0]["allocated"]["source"] == "none") == (mode == "off")
    assert seen["on"] == seen["off"]
    assert seen["exact"] == seen["off"]
    assert seen["off"][1][2] == ["False False\n"]


def test_cupys_pool_is_an_upper_bound_unless_each_allocation_is_counted(run):
    """The pool keeps no peak: its size at the end of the cell bounds it. `exact` knows it, and what it cost."""
    cells = (
        "import cupy",
        "a = cupy.empty(10**9); del a\nb = cupy.empty(2 * 10**9); del b",  # the pool keeps both
        "c = cupy.empty(10**9)",
        "cupy.cuda.set_allocator(cupy.cuda.MemoryPool().malloc)\nd = cupy.empty(5 * 10**9)",
    )
    _, bound, _ = run(*cells, name="bound")
    assert figures(bound) == [None, (3 * GB, 0), (3 * GB, GB), (8 * GB, 6 * GB)]
    assert set(sources(bound)) == {"cupy-pool-bound"}
    assert bound["gpus"][0]["need_bytes"] == 8 * GB + CONTEXT
    assert bound["allocator_probe"]["hook_calls"] is None
    _, exact, _ = run(*cells, options=("--allocator-probe", "exact"), name="exact")
    rounded = [2 * GB, GB, 6 * GB]
    assert [peak for peak, _ in figures(exact)[1:]] == pytest.approx(rounded, abs=1024)
    assert set(sources(exact)) == {"cupy-hook"}
    assert exact["allocator_probe"]["hook_calls"] == 6
    assert exact["allocator_probe"]["hook_seconds"] > 0


def test_cupy_on_rmm_is_counted_by_rmm(run):
    """Its own pool is then empty and says nothing."""
    _, record, _ = run(
        "import cupy, rmm\nfrom rmm.allocators.cupy import rmm_cupy_allocator\n"
        "rmm.reinitialize(pool_allocator=True)\ncupy.cuda.set_allocator(rmm_cupy_allocator)",
        "a = cupy.empty(3 * 10**9); del a\nb = cupy.empty(10**9)",
    )
    assert figures(record) == [(0, 0), (3 * GB, GB)]
    assert set(sources(record)) == {"rmm"}


def test_a_kernel_that_dies_leaves_what_it_told_before(run):
    """The cell that it died in has no figure and says why."""
    _, record, _ = run(
        "import rmm\na = rmm.DeviceBuffer(size=10**9)",
        "b = rmm.DeviceBuffer(size=10**9)\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    )
    assert record["status"] == "kernel-died"
    assert figures(record) == [(GB, GB), (None, None)]
    assert record["cells"][1]["allocated"][0]["reason"] == NOT_REPORTED
    total = record["gpus"][0]["allocated"]
    assert (total["peak_allocated_bytes"], total["reason"]) == (GB, NOT_REPORTED)


@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        ("import math", (), NO_LIBRARY),
        ("import rmm\na = rmm.DeviceBuffer(size=10**9)", ("--allocator-probe", "off"), probing.OFF),
    ],
)
def test_no_figure_has_a_reason(run, cell, options, reason):
    """Without either library, and with the probe switched off."""
    _, record, _ = run(cell, options=options)
    gpu = record["gpus"][0]
    assert (gpu["allocated"]["source"], gpu["allocated"]["reason"]) == ("none", reason)
    assert (gpu["need_bytes"], gpu["unavailable"]["need_bytes"]) == (None, reason)
    assert record["cells"][0]["allocated"] == []


def test_a_probe_that_fails_steps_aside_and_says_so_once(run, tmp_path):
    """An rmm without statistics: the notebook runs as if nothing were there, the metrics have one warning."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "rmm.py").write_text("class mr:\n    get_per_device_resource = set_per_device_resource = len\n")
    _, record, executed = run(
        "import rmm\nprint(rmm.mr)", "import cupy\nx = cupy.empty(1)", path=(str(tmp_path / "old"),)
    )
    assert record["status"] == "succeeded"
    (warning,) = record["warnings"]
    assert warning.startswith("the allocator probe was disabled: rmm cannot be measured")
    assert cli.text_of(executed).strip() == "<class 'rmm.mr'>"
    assert record["gpus"][0]["allocated"]["reason"] == record["allocator_probe"]["trouble"]


def test_a_probe_that_breaks_later_gives_everything_back(run):
    """A resource that cannot be asked any more: the functions of rmm are its own again."""
    _, record, executed = run(
        "import rmm\noriginal = rmm.mr.set_per_device_resource.__wrapped__\na = rmm.DeviceBuffer(size=1000)",
        "rmm.mr.StatisticsResourceAdaptor.pop_counters = None",
        "print(rmm.mr.set_per_device_resource is original)\nb = rmm.DeviceBuffer(size=1000)",
    )
    assert record["status"] == "succeeded"
    assert "True" in cli.text_of(executed)
    assert len(record["warnings"]) == 1
    assert figures(record)[2] is None


DASK = """
import weakref

class SpecCluster:
    _instances = weakref.WeakSet()

    def __init__(self):
        self._instances.add(self)
"""


@pytest.fixture
def dask(tmp_path):
    """Give the folder of a distributed and a dask_cuda that keep account of clusters as the real ones do."""
    folder = tmp_path / "more"
    (folder / "distributed" / "deploy").mkdir(parents=True)
    (folder / "distributed" / "__init__.py").touch()
    (folder / "distributed" / "deploy" / "__init__.py").touch()
    (folder / "distributed" / "deploy" / "spec.py").write_text(DASK)
    cluster = "from distributed.deploy.spec import SpecCluster\n\nclass LocalCUDACluster(SpecCluster):\n    pass\n"
    (folder / "dask_cuda.py").write_text(cluster)
    return (str(folder),)


def test_a_library_that_imports_dask_cuda_has_no_workers(run, dask):
    """As cugraph does: nobody else was seen on the device and no cluster was started, so the need is known."""
    _, record, _ = run("import rmm, dask_cuda\na = rmm.DeviceBuffer(size=10**9)", path=dask)
    assert record["gpus"][0]["need_bytes"] == GB + CONTEXT


def test_workers_of_a_cluster_that_was_started_leave_no_need(run, dask):
    """Their memory is in the device's figure only, which is said."""
    _, record, _ = run(
        "import rmm, dask_cuda\nc = dask_cuda.LocalCUDACluster()\na = rmm.DeviceBuffer(size=10**9)", path=dask
    )
    gpu = record["gpus"][0]
    assert gpu["allocated"]["peak_allocated_bytes"] == GB
    assert gpu["need_bytes"] is None
    assert "started a Dask cluster" in gpu["unavailable"]["need_bytes"]


CHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
with open(os.environ["SIMULATED_NVML"] + ".allocations", "a") as stream:
    stream.write(f"{os.environ['STANDIN_GPU']} {child.pid} {5 * 10**8}\\n")
time.sleep(1.5)
child.kill()
"""


def test_a_child_that_nvml_shows_on_the_device_leaves_no_need(run):
    """NVML lists the kernel and beside it a process of this run: that one has allocators of its own."""
    _, record, _ = run("import rmm\na = rmm.DeviceBuffer(size=10**9)", CHILD)
    gpu = record["gpus"][0]
    assert (gpu["allocated"]["peak_allocated_bytes"], gpu["need_bytes"], gpu["neighbours"]) == (GB, None, [])
    assert "other processes of this run use CUDA too" in gpu["unavailable"]["need_bytes"]


def test_a_second_gpu_with_a_pool_and_nothing_in_it_says_so(run, simulated_driver):
    """Its memory is taken, so "allocated nothing" alone would hide what holds it."""
    second = GPU[:-1] + "b"
    devices = [Device(uuid=uuid, total_bytes=TOTAL, pci=pci) for uuid, pci in ((GPU, "0:3b:0"), (second, "0:5b:0"))]
    simulated_driver.write(*devices)
    pools = "rmm.reinitialize(pool_allocator=True, initial_pool_size=10**10, devices=[0, 1])"
    _, record, _ = run(f"import rmm\n{pools}\na = rmm.DeviceBuffer(size=10**9)", options=("--min-gpus", "2"))
    told = {gpu["uuid"]: gpu["allocated"] for gpu in record["gpus"]}
    assert (told[second]["source"], told[second]["peak_allocated_bytes"], told[second]["pool_bytes"]) == (
        "rmm",
        0,
        10**10,
    )
    assert told[GPU]["peak_allocated_bytes"] == GB


def test_a_neighbour_that_moves_leaves_no_need(run):
    """What another program took meanwhile would be charged to the notebook."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        take = CHILD.replace("child.pid", str(other.pid)).replace("time.sleep(1.5)", "time.sleep(4)")
        _, record, _ = run("import rmm\na = rmm.DeviceBuffer(size=10**9)", take)
        other.kill()
    gpu = record["gpus"][0]
    assert (gpu["need_bytes"], [one["pid"] for one in gpu["neighbours"]]) == (None, [other.pid])
    assert "others used this GPU too" in gpu["unavailable"]["need_bytes"]


def test_an_allocator_that_hoards_has_no_need(run):
    """With cudaMallocAsync: it keeps memory and does not say how much, so what lies outside it is not known."""
    _, record, _ = run(
        "import rmm\nrmm.mr.set_current_device_resource(rmm.mr.CudaAsyncMemoryResource())\n"
        "a = rmm.DeviceBuffer(size=10**9)"
    )
    gpu = record["gpus"][0]
    assert (gpu["allocated"]["peak_allocated_bytes"], gpu["need_bytes"]) == (GB, None)
    assert gpu["unavailable"]["need_bytes"]


def test_running_out_of_device_memory_is_told_with_its_figures(run):
    """Asked, allocated, pool and free of that moment, in the record and in the hint."""
    _, record, _ = run(
        "import rmm\nrmm.reinitialize(pool_allocator=True)\na = rmm.DeviceBuffer(size=10**9)",
        "b = rmm.DeviceBuffer(size=120 * 10**9)",
    )
    failure = record["failure"]
    assert (failure["cause"], failure["cell_index"]) == ("device-memory", 1)
    seen = failure["device_memory"]
    assert (seen["allocated_bytes"], seen["pool_bytes"]) == (GB, TOTAL // 2)
    assert (seen["free_bytes"], seen["total_bytes"]) == (TOTAL // 2 - CONTEXT, TOTAL)
    assert "fewer rows" in failure["hint"]
    assert "40.0 GB in the pool" in failure["hint"]


def test_a_child_of_the_kernel_writes_nothing(run):
    """A forked process runs cells' events too, and its memory is not the kernel's."""
    _, record, _ = run(
        "import rmm, os\na = rmm.DeviceBuffer(size=10**9)",
        "pid = os.fork()\nif not pid:\n    b = rmm.DeviceBuffer(size=10**10)\n"
        "    get_ipython().events.trigger('post_run_cell', None)\n    os._exit(0)\nos.waitpid(pid, 0)[1]",
    )
    assert figures(record) == [(GB, GB), (GB, GB)]


REAL = """
import ctypes, json, pathlib, sys
import rmm
space = {"__name__": "meters"}
exec(pathlib.Path(sys.argv[1]).read_text(), space)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
host = rmm.mr.CallbackMemoryResource(lambda size, stream: libc.malloc(size), lambda ptr, size, stream: libc.free(ptr))
meter = space["RmmMeter"](1)
rmm.mr.set_per_device_resource(0, host)
assert rmm.mr.get_per_device_resource(0) is host
top = meter.get(0)
first = top.allocate(1000)
top.deallocate(top.allocate(5000), 5000)
rows = [meter.read()[0]]
rmm.mr.set_per_device_resource(0, rmm.mr.LimitingResourceAdaptor(host, 10**9))
meter.get(0).allocate(300)
rows.append(meter.read()[0])
top.deallocate(first, 1000)
del top
rows += [meter.read()[0], meter.read()[0]]
assert len(meter.adaptors[0]) == 1
meter.leave()
assert type(meter.get(0)) is rmm.mr.LimitingResourceAdaptor
print(json.dumps([[row["peak"], row["now"]] for row in rows]))
"""


def test_the_real_rmm_is_measured_without_a_gpu():
    """Its adaptor counts, survives a change of the resource, and is not kept alive by the probe."""
    pytest.importorskip("rmm")
    meters = Path(probe.__file__).with_name("allocators.py")
    done = subprocess.run([sys.executable, "-c", REAL, str(meters)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[6000, 1000], [1300, 1300], [1300, 300], [300, 300]]


ROW = {"event": "end", "since": 1.0, "now": 2.0, "devices": {"0": {"rmm": {"peak": 7, "now": 3, "pool": 9}}}}


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00",
        b'{"event": "end"',
        b"[]",
        b'"text"',
        b"null",
        b'{"event": "end", "now": "x", "devices": {}}',
        b'{"event": "end", "now": 1, "devices": {"0": {"rmm": {"peak": 1e400, "now": 1}}}}',
        b'{"event": "end", "now": 1, "devices": {"0": {"rmm": {"peak": "9", "now": 1}}}}',
        b'{"event": "end", "now": 1, "devices": {"x": {}}}',
        b'{"event": "end", "now": 1, "devices": [1]}',
        b'{"event": "end", "now": 1, "devices": {}, "cost": {"calls": 1, "seconds": NaN}}',
        b'{"event": "end", "now": 1, "devices": {"0": {"rmm": {"peak": 99999999999999999999, "now": 1}}}}',
        b"[" * 100_000,
    ],
)
def test_lines_that_are_no_rows_are_passed_over(tmp_path, line):
    """The file is the kernel's: what is torn or made up does not hide what is well formed."""
    good = json.dumps(ROW).encode()
    (tmp_path / probe.ROWS).write_bytes(b"\n".join((good, line, good)) + b"\n" + good[:20])
    found = probe.read(tmp_path)
    assert [(row.peak_bytes, row.end_bytes, row.pool_bytes) for row in found.rows] == [(7, 3, 9)] * 2


def test_a_kernel_without_the_probe_left_nothing(tmp_path):
    """No file is no trouble."""
    assert probe.read(tmp_path) == probe.Allocations()


@pytest.mark.parametrize("broken", ["fold", "attach", "detach", "get_device", "_own"])
def test_no_hook_of_the_probe_raises_into_a_cell(run, broken):
    """Whatever of it breaks in the middle of the notebook's own call: the call does what it does without us."""
    calls = (
        "rmm.mr.set_current_device_resource(rmm.mr.CudaMemoryResource())\n"
        "rmm.reinitialize(pool_allocator=True)\n"
        "print(type(rmm.mr.get_current_device_resource()).__mro__[-2].__name__)\n"
        "a = rmm.DeviceBuffer(size=1000)\nprint('done')"
    )
    sabotage = (
        "import gc\nmeter = next(o for o in gc.get_objects() if type(o).__name__ == 'RmmMeter')\n"
        "def fail(*_): raise ValueError('I/O operation on closed file')\n"
    )
    name = "kind.get_upstream" if broken == "_own" else broken
    _, record, executed = run(f"import rmm\n{sabotage}meter.{name} = fail\n{calls}")
    assert record["status"] == "succeeded", record["reason"]
    assert cli.text_of(executed).endswith("done\n")
    assert all("can no longer be measured" in text for text in record["warnings"])
    assert record["warnings"] or broken == "detach"
