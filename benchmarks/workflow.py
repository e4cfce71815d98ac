# SPDX-License-Identifier: Apache-2.0
"""Whole plans: many small notebooks against a loop over papermill and nbconvert; a resume of a plan that is done."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.core import TRIVIAL_CELLS, notebook
from benchmarks.harness import BIN, Benchmark, Side, run

PRODUCTS, PRODUCT_BYTES = 7, 2_000_000_000 // 7
RESUME_SECONDS = 2.0
DECISIONS, DECISION_SECONDS = 500, 5.0


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


def _resumed(folder: Path) -> float:
    """Return the wall time of a resume that reuses everything, with 2 GB of products."""
    write = f"import pathlib\npathlib.Path('NAME.bin').write_bytes(b'NAME' * ({PRODUCT_BYTES} // 4))"
    return _run_all(_done(folder, PRODUCTS, (write,), products=True), "--resume")


def _decided(folder: Path) -> float:
    """Return the wall time of the decisions for a plan of which everything is reused."""
    return _run_all(_done(folder, DECISIONS, jobs=len(os.sched_getaffinity(0))), "--resume", "--dry-run")


def _done(
    folder: Path, count: int, cells: Sequence[str] = TRIVIAL_CELLS, products: bool = False, jobs: int = 1
) -> Path:
    """Return the folder of a plan that ran in the first pair and was resumed once."""
    done = folder.parent / f"done-{count}"
    if not done.exists():
        done.mkdir()
        _write(done, count, cells, products)
        _run_all(done, "--jobs", str(jobs))
        time.sleep(3)  # the hash of a file that has just changed is not kept
        _run_all(done, "--resume")
    return done


def _goal(seconds: float) -> Side:
    """Return the side that is no peer but what ours may take."""
    return lambda _folder: seconds


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
        ours=_resumed,
        theirs=_goal(RESUME_SECONDS),
        pairs=3,
    ),
    Benchmark(
        name="decisions",
        work=f"--resume --dry-run of {DECISIONS} finished notebooks",
        against=f"the {DECISION_SECONDS:.0f} s that it may take",
        unit="s",
        at_most=1.0,
        ours=_decided,
        theirs=_goal(DECISION_SECONDS),
        pairs=3,
    ),
]
