# SPDX-License-Identifier: Apache-2.0
"""The report: time, size and first paint of long runs, and how time grows with hundreds of notebooks.

The targets are absolute, so the other side of each pair is the limit itself. Growth is judged by
twice the work: 500 notebooks against two times 250.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import statistics
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, Side, run

ROOT = Path(__file__).resolve().parent.parent
HOURS = 8
REPORT = "import sys; from pathlib import Path; from runner.report import build; build(Path(sys.argv[1]))"
PAINT = "() => performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"


def seven_long(shared: Path) -> None:
    """Write seven notebooks of eight hours, sampled twice a second: 57,600 lines each."""
    made = _records()
    for number in range(7):
        start = made.START + timedelta(hours=HOURS * number)
        record = made.metrics(f"{number + 1:02d}_long", wall=HOURS * 3600.0, start=start, cells=49)
        made.leave(shared / "outputs", record, seed=number)


def seven_reported(shared: Path) -> None:
    """Write seven long notebooks and their report."""
    seven_long(shared)
    run([sys.executable, "-c", REPORT, shared / "outputs"], shared)


def hundreds(shared: Path) -> None:
    """Write 250 notebooks, and 500."""
    for count in (250, 500):
        _records().many(shared / f"outputs-{count}", count)


def hundreds_reported(shared: Path) -> None:
    """Write 500 notebooks and their report."""
    _records().many(shared / "outputs", 500)
    run([sys.executable, "-c", REPORT, shared / "outputs"], shared)


def report_of(name: str, factor: float = 1.0) -> Side:
    """Return a side that makes a report in a process of its own, start-up included."""

    def side(folder: Path) -> float:
        return factor * run([sys.executable, "-c", REPORT, folder.parent / name], folder).wall_seconds

    return side


def limit(value: float) -> Side:
    """Return a side that is a target and no work."""
    return lambda _folder: value


def page_bytes(folder: Path) -> float:
    """Return the size of the newest page."""
    return float(_page(folder.parent / "outputs").stat().st_size)


def first_paint(folder: Path) -> float:
    """Return the median time to the first contentful paint in Chromium, of three openings."""
    sync_playwright = importlib.import_module("playwright.sync_api").sync_playwright
    page = _page(folder.parent / "outputs")
    paints = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=_chromium(), args=["--no-sandbox", "--disable-gpu"])
        for _ in range(3):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(page.as_uri(), wait_until="load")
            tab.wait_for_function(f"({PAINT})().length > 0")
            paints.append(tab.evaluate(PAINT)[0] / 1000)
            tab.close()
        browser.close()
    return statistics.median(paints)


def no_browser() -> str | None:
    """Say why nothing can be painted here, or None."""
    if _chromium() is None:
        return "no Chromium on PATH"
    return None if importlib.util.find_spec("playwright") else "playwright is not installed"


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def _page(outputs: Path) -> Path:
    return max((outputs / "reports").glob("*.html"), key=lambda path: path.stat().st_mtime_ns)


def _records() -> Any:
    """Import the builder of records from the tests, the one place where it lives."""
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module("support.records")


_long = "7 notebooks of 8 hours at 2 Hz, 57,600 samples each"

BENCHMARKS = [
    Benchmark(
        name="report-time",
        work=f"report on {_long}",
        against="the target of 4 s",
        unit="s",
        at_most=1.0,
        ours=report_of("outputs"),
        theirs=limit(4.0),
        prepare=seven_long,
    ),
    Benchmark(
        name="report-size",
        work=f"page on {_long}",
        against="the target of 2.5 MB",
        unit="bytes",
        at_most=1.0,
        ours=page_bytes,
        theirs=limit(2.5e6),
        pairs=1,
        prepare=seven_reported,
    ),
    Benchmark(
        name="report-paint",
        work=f"first contentful paint in Chromium of the page on {_long}",
        against="the target of 1.5 s",
        unit="s",
        at_most=1.0,
        ours=first_paint,
        theirs=limit(1.5),
        prepare=seven_reported,
        missing=no_browser,
    ),
    Benchmark(
        name="report-growth",
        work="report on 500 notebooks",
        against="twice the time of 250 notebooks: it grows linearly",
        unit="s",
        at_most=1.15,
        ours=report_of("outputs-500"),
        theirs=report_of("outputs-250", factor=2.0),
        prepare=hundreds,
    ),
    Benchmark(
        name="report-500",
        work="report on 500 notebooks",
        against="the target of 8 s",
        unit="s",
        at_most=1.0,
        ours=report_of("outputs-500"),
        theirs=limit(8.0),
        prepare=hundreds,
    ),
    Benchmark(
        name="report-paint-500",
        work="first contentful paint in Chromium of the page on 500 notebooks",
        against="the target of 1.5 s",
        unit="s",
        at_most=1.0,
        ours=first_paint,
        theirs=limit(1.5),
        prepare=hundreds_reported,
        missing=no_browser,
    ),
]
