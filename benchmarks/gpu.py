# SPDX-License-Identifier: Apache-2.0
"""What it costs on a real GPU: the allocator probe, the sampler, the gate. Also `python -m benchmarks.run --only gpu`.

Without a GPU, cupy or rmm each row says so and is not measured.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.core import notebook
from benchmarks.harness import Benchmark, Side, run

RUNNER = [sys.executable, "-m", "runner"]
WATCHED_SECONDS = 60

# The loop times itself: starting a kernel takes longer than what is measured.
LOOP = """\
import gc, time
gc.disable()
for _ in range(10_000):
    {allocate}
start = time.perf_counter()
for _ in range({count}):
    {allocate}
print("took", time.perf_counter() - start)"""
RMM_POOL = "import rmm\nrmm.reinitialize(pool_allocator=True, initial_pool_size=2**30)\nBuffer = rmm.DeviceBuffer"
CUPY_ON_RMM = (
    "import cupy, rmm\nfrom rmm.allocators.cupy import rmm_cupy_allocator\n"
    "rmm.reinitialize(pool_allocator=True, initial_pool_size=2**30)\ncupy.cuda.set_allocator(rmm_cupy_allocator)"
)
MILLION = 1_000_000


def loop(setup: str, allocate: str, mode: str, count: int = 300_000) -> Side:
    """Return a side that runs the loop in a notebook and gives the seconds that the loop says."""

    def side(folder: Path) -> float:
        cells = [setup, LOOP.format(allocate=allocate, count=count)]
        metrics = execute(folder, cells, "--allocator-probe", mode)
        if metrics["warnings"]:
            raise RuntimeError(str(metrics["warnings"]))
        executed = json.loads((folder / "outputs" / "work.executed.ipynb").read_text(encoding="utf-8"))
        text = "".join("".join(output.get("text", "")) for output in executed["cells"][-1]["outputs"])
        return float(text.split("took", 1)[1])

    return side


def execute(folder: Path, cells: Sequence[str], *options: str) -> dict[str, object]:
    """Run cells on one GPU and return the metrics."""
    source = folder / "work.ipynb"
    source.write_text(notebook(cells), encoding="utf-8")
    arguments = ["run", source, "--output-dir", folder / "outputs", "--min-gpus", "1", "--no-html", *options]
    run([*RUNNER, *arguments], folder)
    found: dict[str, object] = json.loads((folder / "outputs" / "work.metrics.json").read_text(encoding="utf-8"))
    return found


def demo(mode: str) -> Side:
    """Return a side that runs the demo on one GPU and gives the seconds of all its cells."""

    def side(folder: Path) -> float:
        arguments = [
            "demo",
            "--output-dir",
            folder / "outputs",
            "--min-gpus",
            "1",
            "--no-html",
            "--allocator-probe",
            mode,
        ]
        run([*RUNNER, *arguments], folder)
        records = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "outputs").glob("*.metrics.json")]
        return float(sum(cell["wall_seconds"] or 0 for record in records for cell in record["cells"]))

    return side


def sampler(folder: Path) -> float:
    """Return the CPU seconds of the sampler during a notebook that sleeps."""
    metrics = execute(folder, [f"import time\ntime.sleep({WATCHED_SECONDS})"])
    return float(metrics["sampler"]["cpu_seconds"])  # type: ignore[index]


def one_core(_folder: Path) -> float:
    """Return what one core has to give in that time."""
    return float(WATCHED_SECONDS)


def gate(folder: Path) -> float:
    """Return the wall time of a gate from nothing."""
    return run([*RUNNER, "gate", "--min-gpu-memory-gb", "1"], folder).wall_seconds


def nvml_alone(folder: Path) -> float:
    """Return the wall time of a Python that opens the driver and does nothing else."""
    return run([sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"], folder).wall_seconds


def without(*modules: str) -> Callable[[], str | None]:
    """Return a function that says what is missing here, or None."""

    def missing() -> str | None:
        if shutil.which("nvidia-smi") is None:
            return "needs an NVIDIA GPU with nvidia-smi"
        absent = [module for module in modules if importlib.util.find_spec(module) is None]
        return f"needs {', '.join(absent)}" if absent else None

    return missing


_BUFFER, _EMPTY = "Buffer(size=256)", "cupy.empty(256, 'u1')"
BENCHMARKS = [
    Benchmark(
        name="probe-rmm",
        work="a million allocations of 256 bytes through rmm's pool, probe on",
        against="the same with the probe off",
        unit="s",
        at_most=1.03,
        ours=loop(RMM_POOL, _BUFFER, "on", MILLION),
        theirs=loop(RMM_POOL, _BUFFER, "off", MILLION),
        missing=without("rmm"),
    ),
    Benchmark(
        name="probe-cupy-on-rmm",
        work="300 000 small cupy arrays through rmm's pool, probe on",
        against="the same with the probe off",
        unit="s",
        at_most=1.03,
        ours=loop(CUPY_ON_RMM, _EMPTY, "on"),
        theirs=loop(CUPY_ON_RMM, _EMPTY, "off"),
        missing=without("cupy", "rmm"),
    ),
    Benchmark(
        name="probe-cupy",
        work="300 000 small cupy arrays in cupy's pool, probe on",
        against="the same with the probe off",
        unit="s",
        at_most=1.03,
        ours=loop("import cupy", _EMPTY, "on"),
        theirs=loop("import cupy", _EMPTY, "off"),
        missing=without("cupy"),
        pairs=3,
    ),
    Benchmark(
        name="probe-exact",
        work="300 000 small cupy arrays in cupy's pool, probe exact",
        against="the same with the probe off",
        unit="s",
        at_most=6.0,  # a hook in Python at each call: the price is known, and why it is not the default
        ours=loop("import cupy", _EMPTY, "exact"),
        theirs=loop("import cupy", _EMPTY, "off"),
        missing=without("cupy"),
        pairs=3,
    ),
    Benchmark(
        name="gate-cold",
        work="runner gate --min-gpu-memory-gb 1",
        against='python -c "import pynvml; pynvml.nvmlInit()"',
        unit="s",
        at_most=2.5,
        ours=gate,
        theirs=nvml_alone,
        pairs=9,
        missing=without(),
    ),
    Benchmark(
        name="sampler-gpu",
        work=f"CPU of the sampler, one real GPU at 2 Hz, {WATCHED_SECONDS} s",
        against="one core for that time",
        unit="s",
        at_most=0.005,
        ours=sampler,
        theirs=one_core,
        pairs=1,
        missing=without(),
    ),
    Benchmark(
        name="probe-demo",
        work="all cells of the demo on one GPU, probe on",
        against="the same with the probe off",
        unit="s",
        at_most=1.01,
        ours=demo("on"),
        theirs=demo("off"),
        missing=without("cupy", "scanpy"),
    ),
]
