# SPDX-License-Identifier: Apache-2.0
"""Whole plans: many small notebooks against a loop over papermill and nbconvert; a resume of a plan that is done."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from benchmarks.core import TRIVIAL_CELLS, notebook
from benchmarks.harness import BIN, Benchmark, Side, run

PRODUCTS, PRODUCT_BYTES = 7, 2_000_000_000 // 7
RESUME_SECONDS = 2.0


def _write(folder: Path, count: int, cells: Sequence[str] = TRIVIAL_CELLS, products: bool = False) -> list[Path]:
    """Write so many notebooks and their plan."""
    names = [f"n{number:03}" for number in range(count)]
    lines = ["version: 1", "name: many", "notebooks:"]
    for name in names:
        made = f", products: [{name}.bin]" if products else ""
        lines.append(f"- {{name: {name}, path: {name}.ipynb{made}}}")
        text = notebook([cell.replace("NAME", name) for cell in cells])
        (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")
    (folder / "plan.yaml").write_text("\n".join(lines), encoding="utf-8")
    return [folder / f"{name}.ipynb" for name in names]


def _run_all(folder: Path, *options: str) -> float:
    """Return the wall time of `runner run-all`, the report included."""
    command = [BIN / "runner", "run-all", "plan.yaml", "--output-dir", folder / "outputs", *options]
    return run(command, folder).wall_seconds


def ours(count: int, jobs: int) -> Side:
    """Return the side that runs a plan of so many notebooks."""

    def side(folder: Path) -> float:
        _write(folder, count)
        seconds = _run_all(folder, "--jobs", str(jobs))
        pages = len(list((folder / "outputs").glob("*.html"))) - 1  # less the index
        if pages != count:
            raise RuntimeError(f"{pages} pages instead of {count}")
        return seconds

    return side


def theirs(count: int, shells: int) -> Side:
    """Return the side of so many shells with a loop of papermill and nbconvert each."""

    def loop(paths: Sequence[Path], took: list[float]) -> None:
        folder = paths[0].parent / f"shell-{paths[0].stem}"
        folder.mkdir()
        for path in paths:
            executed = folder / f"{path.stem}.executed.ipynb"
            took.append(run([BIN / "papermill", path, executed], folder).wall_seconds)
            took.append(run([BIN / "jupyter", "nbconvert", "--to", "html", executed], folder).wall_seconds)

    def side(folder: Path) -> float:
        paths = _write(folder, count)
        took: list[list[float]] = [[] for _ in range(shells)]
        threads = [threading.Thread(target=loop, args=(paths[at::shells], took[at])) for at in range(shells)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if sum(map(len, took)) != 2 * count:
            raise RuntimeError("a shell broke off")
        return max(map(sum, took))

    return side


def resumed(folder: Path) -> float:
    """Return the wall time of a resume that reuses everything, with 2 GB of products."""
    shared = folder.parent / "done"
    if not shared.exists():
        shared.mkdir()
        write = f"import pathlib\npathlib.Path('NAME.bin').write_bytes(b'NAME' * ({PRODUCT_BYTES} // 4))"
        _write(shared, PRODUCTS, (write,), products=True)
        _run_all(shared)
        subprocess.run([sys.executable, "-c", "import time; time.sleep(3)"], check=True)  # hashes of now are not kept
        _run_all(shared, "--resume")
    return _run_all(shared, "--resume")


def allowed(_folder: Path) -> float:
    """Return what a resume may take."""
    return RESUME_SECONDS


_loop = "a loop of papermill and jupyter nbconvert"

BENCHMARKS = [
    Benchmark(
        name="plan-of-12",
        work="12 trivial notebooks, report included, --jobs 1",
        against=_loop,
        unit="s",
        at_most=0.50,
        ours=ours(12, 1),
        theirs=theirs(12, 1),
        pairs=3,
    ),
    Benchmark(
        name="plan-of-12-jobs-2",
        work="12 trivial notebooks, report included, --jobs 2",
        against=_loop,
        unit="s",
        at_most=0.35,
        ours=ours(12, 2),
        theirs=theirs(12, 1),
        pairs=3,
    ),
    Benchmark(
        name="plan-of-200",
        work="200 trivial notebooks, report included, --jobs 2",
        against=f"two shells, each {_loop}",
        unit="s",
        at_most=0.50,
        ours=ours(200, 2),
        theirs=theirs(200, 2),
        pairs=1,
    ),
    Benchmark(
        name="resume",
        work="--resume of 7 finished notebooks with 2 GB of products",
        against=f"the {RESUME_SECONDS:.0f} s that it may take",
        unit="s",
        at_most=1.0,
        ours=resumed,
        theirs=allowed,
        pairs=3,
    ),
]
