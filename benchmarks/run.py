# SPDX-License-Identifier: Apache-2.0
"""Run the benchmarks, print the table and write the JSON: `python -m benchmarks.run`.

Each module named in MODULES has a list `BENCHMARKS`; `--only` takes names of modules or of benchmarks.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import PAIRS, Benchmark, Result, measure

MODULES = ("core", "workflow", "secrets", "fetch", "report", "gpu")


def load(only: list[str]) -> list[Benchmark]:
    """Return the benchmarks of the modules that exist, or only those named."""
    chosen: list[Benchmark] = []
    known: set[str] = set()
    for module in MODULES:
        if importlib.util.find_spec(f"benchmarks.{module}") is None:
            continue
        found: list[Benchmark] = importlib.import_module(f"benchmarks.{module}").BENCHMARKS
        known |= {module, *(benchmark.name for benchmark in found)}
        chosen += [benchmark for benchmark in found if not only or module in only or benchmark.name in only]
    unknown = sorted(set(only) - known)
    if unknown:
        raise SystemExit(f"no benchmark or module {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return chosen


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    versions: dict[str, str | None] = {}
    for name in ("rapids-notebook-runner", "papermill", "nbclient", "nbconvert", "ipykernel"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    cpus = len(os.sched_getaffinity(0))
    return {"platform": platform.platform(), "python": platform.python_version(), "cpus": cpus, "versions": versions}


def show(results: list[Result]) -> None:
    """Print the table as plain text: it is read in logs as much as on a terminal."""
    rows = [("benchmark", "ours", "theirs", "ratio", "at most", "pairs", "")]
    for result in results:
        ours, theirs = (_figure(side, result.unit) for side in (result.ours, result.theirs))
        ratio = "-" if result.ratio is None else f"{result.ratio:.3f}"
        rows.append((result.name, ours, theirs, ratio, f"{result.at_most:.2f}", str(len(result.ours)), result.verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for result in results:
        print(f"\n{result.name}: {result.work}\n  against {result.against}")
        if result.reason:
            print(f"  not measured: {result.reason}")


def _figure(values: tuple[float, ...], unit: str) -> str:
    if not values:
        return "-"
    median = statistics.median(values)
    return f"{median / 1e6:.1f} MB" if unit == "bytes" else f"{median:.3f} {unit}"


def main() -> int:
    """Return 1 when a target was missed or could not be measured, so that `make bench` fails visibly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a module or a benchmark")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks.json"), help="where the JSON goes")
    parser.add_argument("--pairs", type=int, help=f"pairs instead of {PAIRS}; fewer are for trying things out")
    options = parser.parse_args()
    benchmarks = load(options.only)
    results = []
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="runner-bench-") as folder:
        for benchmark in benchmarks:
            if options.pairs and benchmark.pairs > 1:
                benchmark = replace(benchmark, pairs=options.pairs)  # noqa: PLW2901
            results.append(measure(benchmark, Path(folder), lambda line: print(line, file=sys.stderr, flush=True)))
    show(results)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = {"started": started, "machine": machine(), "results": [result.as_json() for result in results]}
    options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\nall figures: {options.output}")
    return int(any(result.verdict != "pass" for result in results))


if __name__ == "__main__":
    sys.exit(main())
