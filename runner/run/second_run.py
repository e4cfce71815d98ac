# SPDX-License-Identifier: Apache-2.0
"""`--twice`: determine which cells are stable by a second run in a scratch folder.

Each cell is bit-equal, equal in meaning or unstable. An unstable cell or product is an unmet expectation. The scratch
folder has a copy of the checkout from before the first run.
"""

from __future__ import annotations

import dataclasses
import filecmp
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner.core import log
from runner.core.errors import RunnerError
from runner.core.records import Expectation, Status
from runner.core.stop import StoppedError
from runner.plan.job import EXECUTED_SUFFIX, resolve
from runner.run.execution import mark

if TYPE_CHECKING:
    from runner.compare.verdict import Verdict
    from runner.core.records import Metrics
    from runner.plan.job import Job, Options
    from runner.run.context import RunContext
    from runner.run.execution import Execution

Stability = Literal["bit-equal", "equal-in-meaning", "unstable"]


def judge(run: RunContext, execution: Execution, trial: Options) -> None:
    """Run a successful notebook again, and record the stability of each cell.

    Parameters
    ----------
    trial
        Options from `scratch` before the first run.
    """
    from runner.run.lifecycle import run as run_again

    metrics, stopper = run.metrics, run.stopper
    if metrics.record.status is not Status.SUCCEEDED or metrics.record.repaired:
        metrics.warn("no second run: only successful runs without repairs are run twice")
        return
    run.cleanup.close()  # the second run needs the locks of the GPUs
    job = resolve(dataclasses.replace(trial, name=run.job.name, on_failure="end"))
    log.info("second-run", nb=run.job.name, checkout=job.checkout)
    try:
        record = run_again(job, stopper)
    except StoppedError as stopped:
        metrics.end(Status.TERMINATED, f"{stopped.stop.detail} in the second run", stopped.exit_code)
        return
    except RunnerError as error:
        found = [_unmet("notebook", str(error), "succeeded")]
    else:
        stopper.over = False
        if record.status is Status.TERMINATED:
            metrics.end(Status.TERMINATED, f"{record.reason} in the second run", record.exit_code)
            return
        found = list(_differences(run, job, record))
    metrics.note(expectations=(*metrics.record.expectations, *found))
    for one in found:
        metrics.warn(f"expected {one}")
        metrics.end(Status.UNEXPECTED_RESULTS, str(one))
    mark(run, execution)


def _unmet(target: str, seen: str, needed: str = "the same") -> Expectation:
    return Expectation(kind="second-run", target=target, met=False, seen=seen, needed=needed)


def _differences(run: RunContext, job: Job, record: Metrics) -> Iterator[Expectation]:
    """Yield the differences, and record the stability of each cell."""
    from runner.compare.notebooks import compare_cell, read_cells
    from runner.compare.verdict import Outcome, Tolerance

    if record.status is not Status.SUCCEEDED:
        yield _unmet("notebook", f"{record.status.value}: {record.reason}", "succeeded")
        return
    first = read_cells(run.job.path(EXECUTED_SUFFIX))
    second = read_cells(job.path(EXECUTED_SUFFIX), {str(job.checkout): str(run.job.checkout)})
    stable: dict[int, Stability] = {}
    for one, two in zip(first, second, strict=True):
        index = one["metadata"].get("runner", {}).get("index")
        if index is None:  # inserted
            continue
        found = compare_cell(f"cell {index + 1}", one, two, Tolerance())
        if found.outcome is Outcome.UNKNOWN:
            run.metrics.warn(f"second run: {found}")
            continue
        stable[index] = _STABILITY[found.outcome.name]
        if found.outcome is Outcome.DIFFERENT:
            yield _unmet(found.part, found.detail)
    cells = (dataclasses.replace(cell, second_run=stable.get(cell.index)) for cell in run.metrics.record.cells)
    run.metrics.note(cells=tuple(cells))
    for name in run.metrics.record.outputs.products:
        yield from _product(run, name, run.job.checkout / name, job.checkout / name)


_STABILITY: dict[str, Stability] = {
    "EQUAL": "bit-equal",
    "TOLERATED": "equal-in-meaning",
    "DIFFERENT": "unstable",
}


def _product(run: RunContext, name: str, first: Path, second: Path) -> Iterator[Expectation]:
    from runner.compare.folders import compare
    from runner.compare.verdict import Outcome, Tolerance

    if first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False):
        return
    if not second.exists():
        yield _unmet(name, "missing")
        return
    try:
        found: list[Verdict] = [one for file in compare(first, second, Tolerance()).files for one in file.verdicts]
    except RunnerError as error:  # a library that is not installed
        run.metrics.warn(f"second run: {name} has different bytes and cannot be compared: {error}")
        return
    for one in found:
        if one.outcome in {Outcome.DIFFERENT, Outcome.UNKNOWN}:
            yield _unmet(name, str(one))
