# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: commands measured as processes, alternating pairs, medians and their ratio.

A single time says little on a machine that does other things. Here ours and theirs run in turn, the one that goes
first changes from pair to pair, and only the ratio of the medians is judged.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
"""The commands of this environment stand next to its interpreter."""

PAIRS = 5
"""The least number of pairs whose median is worth a verdict."""


@dataclass(frozen=True)
class Cost:
    """What a process took, its finished descendants included in the memory."""

    wall_seconds: float
    peak_memory_bytes: int


def run(command: Sequence[str | Path], cwd: Path, env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end and return what it took.

    The peak is that of the largest single process among the command and what it waited for. Linux counts the parent's
    memory at the time of the fork into it, so this module stays free of heavy imports.

    Raises
    ------
    RuntimeError
        The command failed: a benchmark of a failure would be a fine figure for nothing.
    """
    log = cwd / "command.log"
    with log.open("wb") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{tail}")
    return Cost(wall, usage.ru_maxrss * 1024)


Side = Callable[[Path], float]
"""One side of a pair: does its work in an empty folder and returns its figure."""


@dataclass(frozen=True)
class Benchmark:
    """One row of the table."""

    name: str
    work: str
    against: str
    unit: str
    at_most: float
    ours: Side
    theirs: Side
    pairs: int = PAIRS
    prepare: Callable[[Path], None] | None = None
    missing: Callable[[], str | None] = field(default=lambda: None)


@dataclass(frozen=True)
class Result:
    """The figures of one benchmark and the verdict; without figures, the reason why."""

    name: str
    work: str
    against: str
    unit: str
    at_most: float
    ours: tuple[float, ...] = ()
    theirs: tuple[float, ...] = ()
    reason: str | None = None

    @property
    def ratio(self) -> float | None:
        """Return the median of ours over the median of theirs."""
        if not self.ours or not self.theirs:
            return None
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def verdict(self) -> str:
        """Return `pass`, `FAIL` or `not measured`."""
        if self.ratio is None:
            return "not measured"
        return "pass" if self.ratio <= self.at_most else "FAIL"

    def as_json(self) -> dict[str, object]:
        """Return every figure, so that a reader can judge the spread."""
        return {
            "name": self.name,
            "work": self.work,
            "against": self.against,
            "unit": self.unit,
            "ours": list(self.ours),
            "theirs": list(self.theirs),
            "ours_median": statistics.median(self.ours) if self.ours else None,
            "theirs_median": statistics.median(self.theirs) if self.theirs else None,
            "ratio": self.ratio,
            "at_most": self.at_most,
            "verdict": self.verdict,
            "reason": self.reason,
        }


def measure(benchmark: Benchmark, folder: Path, report: Callable[[str], None]) -> Result:
    """Measure one benchmark in pairs; each side of each pair works in a fresh folder.

    One unmeasured pair warms the file cache and the byte code of both, where more than one pair is asked for.
    """
    names = (benchmark.name, benchmark.work, benchmark.against, benchmark.unit, benchmark.at_most)
    reason = benchmark.missing()
    if reason is not None:
        return Result(*names, reason=reason)
    shared = folder / benchmark.name
    shared.mkdir(parents=True)
    figures: dict[Side, list[float]] = {benchmark.ours: [], benchmark.theirs: []}
    try:
        if benchmark.prepare is not None:
            benchmark.prepare(shared)
        for pair in range(0 if benchmark.pairs > 1 else 1, benchmark.pairs + 1):
            for side in _order(benchmark, pair):
                with _fresh(shared / f"{pair}-{'ours' if side is benchmark.ours else 'theirs'}") as place:
                    figure = side(place)
                if pair > 0:
                    figures[side].append(figure)
            if pair > 0:
                last = [f"{figures[side][-1]:.4g}" for side in (benchmark.ours, benchmark.theirs)]
                report(f"{benchmark.name} {pair}/{benchmark.pairs}: {' against '.join(last)} {benchmark.unit}")
    except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        return Result(*names, reason=f"{type(error).__name__}: {error}")
    return Result(*names, tuple(figures[benchmark.ours]), tuple(figures[benchmark.theirs]))


def _order(benchmark: Benchmark, pair: int) -> tuple[Side, Side]:
    both = (benchmark.ours, benchmark.theirs)
    return both if pair % 2 else both[::-1]


@contextmanager
def _fresh(place: Path) -> Iterator[Path]:
    """Make the folder and take it away again: outputs of ten runs need not lie on the disk together."""
    import shutil

    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
