# SPDX-License-Identifier: Apache-2.0
"""The work of every run: one notebook to its record and page, against papermill and nbconvert; start-up; watching.

Ours writes the executed notebook, the page, the metrics, the samples and the log; theirs the executed notebook and
the page. Both run as their users run them, as commands.
"""

from __future__ import annotations

import base64
import importlib
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import BIN, Benchmark, run

ROOT = Path(__file__).resolve().parent.parent

TRIVIAL_CELLS = [
    "import math",
    "total = sum(range(1000))",
    "print(total)",
    "name = 'notebook'",
    "f'hello, {name}'",
    "assert math.sqrt(4) == 2",
]

# Greyscale noise does not compress: 400 x 500 pixels are 200 kB.
PNG_SETUP = """\
import random, struct, zlib
from IPython.display import Image, display

WIDTH, HEIGHT = 400, 500
source = random.Random(0)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def noise():
    rows = b"".join(b"\\0" + source.randbytes(WIDTH) for _ in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 1)), chunk(b"IEND", b"")]
    return b"\\x89PNG\\r\\n\\x1a\\n" + b"".join(parts)


display(Image(data=noise(), format="png"))"""
PNG_CELLS = [PNG_SETUP, *["display(Image(data=noise(), format='png'))"] * 99]

WATCHED_SECONDS = 60


def notebook(sources: Sequence[str]) -> str:
    """Return a notebook of code cells as JSON."""
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"cell-{i}", "metadata": {}, "source": s, "outputs": [], "execution_count": None}
        for i, s in enumerate(sources)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps({"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})


class Pipeline:
    """Both ways from a notebook to its page, as wall time or as peak memory.

    Parameters
    ----------
    sources
        The code cells of the notebook.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self.sources = sources

    def _write(self, folder: Path) -> Path:
        path = folder / "work.ipynb"
        path.write_text(notebook(self.sources), encoding="utf-8")
        return path

    def _ours(self, folder: Path) -> tuple[float, float]:
        source = self._write(folder)
        cost = run([BIN / "runner", "run", source, "--output-dir", folder / "outputs"], folder)
        written = {path.name for path in (folder / "outputs").iterdir()}
        missing = {"work.executed.ipynb", "work.html", "work.metrics.json"} - written
        if missing:
            raise RuntimeError(f"runner run left no {', '.join(sorted(missing))}")
        return cost.wall_seconds, cost.peak_memory_bytes

    def _theirs(self, folder: Path) -> tuple[float, float]:
        source, executed, page = self._write(folder), folder / "work.executed.ipynb", folder / "work.html"
        costs = [
            run([BIN / "papermill", source, executed], folder),
            run([BIN / "jupyter", "nbconvert", "--to", "html", "--output", str(page), executed], folder),
        ]
        return sum(cost.wall_seconds for cost in costs), max(cost.peak_memory_bytes for cost in costs)

    def our_seconds(self, folder: Path) -> float:
        """Return the wall time of `runner run`."""
        return self._ours(folder)[0]

    def their_seconds(self, folder: Path) -> float:
        """Return the wall time of papermill and nbconvert, one after the other."""
        return self._theirs(folder)[0]

    def our_memory(self, folder: Path) -> float:
        """Return the peak of `runner run`."""
        return self._ours(folder)[1]

    def their_memory(self, folder: Path) -> float:
        """Return the larger peak of the two commands."""
        return self._theirs(folder)[1]


def big_notebook(shared: Path) -> None:
    """Write an executed notebook of 50 MB: 200 figures that do not compress."""
    source = random.Random(0)
    cells = []
    for number in range(200):
        data = {"image/png": base64.b64encode(source.randbytes(187_500)).decode(), "text/plain": "<Figure>"}
        output = {"output_type": "display_data", "metadata": {}, "data": data}
        code = {"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "execution_count": number}
        cells.append({**code, "source": f"plot({number})", "outputs": [output]})
    text = json.dumps({**json.loads(notebook([])), "cells": cells})
    (shared / "big.ipynb").write_text(text, encoding="utf-8")


def our_conversion(folder: Path) -> float:
    """Return the wall time of `runner convert`."""
    command = [BIN / "runner", "convert", folder.parent / "big.ipynb", "--output-dir", folder]
    return run(command, folder).wall_seconds


def their_conversion(folder: Path) -> float:
    """Return the wall time of nbconvert."""
    command = [BIN / "jupyter", "nbconvert", "--to", "html", "--output", str(folder / "big.html")]
    return run([*command, folder.parent / "big.ipynb"], folder).wall_seconds


def our_help(folder: Path) -> float:
    """Return the wall time of `runner --help`."""
    return run([BIN / "runner", "--help"], folder).wall_seconds


def their_help(folder: Path) -> float:
    """Return the wall time of a Python that imports click and nothing else."""
    return run([sys.executable, "-c", "import click"], folder).wall_seconds


def watching(folder: Path) -> float:
    """Return the CPU seconds that sampler and guard took during a notebook that sleeps, with 8 simulated GPUs.

    The run itself records them: `sampler.cpu_seconds` of its metrics.
    """
    simdriver = _simdriver()
    with tempfile.TemporaryDirectory(prefix="runner-bench-driver-") as cache:
        driver = simdriver.SimulatedDriver(folder, Path(cache))
        uuids = [f"GPU-0a000000-0000-4000-8000-{number:012d}" for number in range(8)]
        driver.write(*[simdriver.Device(uuid=uuid) for uuid in uuids])
        source = folder / "sleep.ipynb"
        source.write_text(notebook([f"import time\ntime.sleep({WATCHED_SECONDS})"]), encoding="utf-8")
        options = ["--output-dir", str(folder / "outputs"), "--min-gpus", "8", "--no-html"]
        run([BIN / "runner", "run", source, *options], folder, driver.environ())
    metrics = json.loads((folder / "outputs" / "sleep.metrics.json").read_text(encoding="utf-8"))
    if len(metrics["gpus"]) != len(uuids):
        raise RuntimeError(f"{len(metrics['gpus'])} GPUs were watched instead of {len(uuids)}")
    return float(metrics["sampler"]["cpu_seconds"])


def one_core(_folder: Path) -> float:
    """Return what one core has to give in that time."""
    return float(WATCHED_SECONDS)


def no_driver() -> str | None:
    """Say why there is no simulated driver here, or None."""
    simdriver = _simdriver()
    return None if simdriver.COMPILER else str(simdriver.NO_COMPILER)


def _simdriver() -> Any:
    """Import the simulated driver from the tests, the one place where it lives."""
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module("simdriver")


_trivial, _figures = Pipeline(TRIVIAL_CELLS), Pipeline(PNG_CELLS)
_both = "papermill CLI, then jupyter nbconvert --to html CLI"

BENCHMARKS = [
    Benchmark(
        name="trivial-cells",
        work="6 trivial cells: gate, run, HTML, metrics",
        against=_both,
        unit="s",
        at_most=0.45,
        ours=_trivial.our_seconds,
        theirs=_trivial.their_seconds,
    ),
    Benchmark(
        name="figures",
        work="100 cells with a 200 kB PNG each: gate, run, HTML, metrics",
        against=_both,
        unit="s",
        at_most=0.12,
        ours=_figures.our_seconds,
        theirs=_figures.their_seconds,
    ),
    Benchmark(
        name="convert-big",
        work="HTML of an executed notebook of 50 MB with 200 figures",
        against="jupyter nbconvert --to html CLI",
        unit="s",
        at_most=0.50,
        ours=our_conversion,
        theirs=their_conversion,
        prepare=big_notebook,
    ),
    Benchmark(
        name="help",
        work="runner --help",
        against='python -c "import click"',
        unit="s",
        at_most=2.0,
        ours=our_help,
        theirs=their_help,
        pairs=15,
    ),
    Benchmark(
        name="peak-memory",
        work="peak resident memory on the 100 cells",
        against="the larger of the two commands",
        unit="bytes",
        at_most=1.3,
        ours=_figures.our_memory,
        theirs=_figures.their_memory,
    ),
    Benchmark(
        name="watching",
        work=f"CPU of sampler and guard, 8 simulated GPUs at 2 Hz, {WATCHED_SECONDS} s",
        against="one core for that time",
        unit="s",
        at_most=0.01,
        ours=watching,
        theirs=one_core,
        pairs=1,
        missing=no_driver,
    ),
]
