# SPDX-License-Identifier: Apache-2.0
"""Decide if a notebook may run after earlier ones: needs, and the stop after a failure.

Decided from the metrics in the output folder, not in YAML.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import files
from runner.core.endings import status_of
from runner.core.records import Status
from runner.outputs import claim

if TYPE_CHECKING:
    from runner.plan.job import Job


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a notebook and its run."""

    status: Status
    run_id: str
    optional: bool = False
    provisional: bool = False
    """The record is not complete, so it satisfies no need."""


def ended(folder: Path, names: Sequence[str]) -> dict[str, Ended]:
    """Return the ends of notebooks with readable metrics."""
    found = {}
    for name in names:
        try:
            document = json.loads(files.read(folder / f"{name}.metrics.json"))
            provisional = bool(document.get("provisional"))
            status = status_of(Status(document["status"]), provisional=provisional)
            found[name] = Ended(status, document["run_id"], bool(document.get("optional")), provisional)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return found


def lost(folder: Path, names: Sequence[str], run_id: str, *, sleep: Callable[[float], None]) -> dict[str, Ended]:
    """Return the notebooks of this run without a record whose process is gone.

    Parameters
    ----------
    names
        Notebooks without a record of this run.
    sleep
        Waits while a run of another machine is watched; whatever it raises ends the watch.
    """
    paths = {folder / f"{name}.running": name for name in names}
    silent = [path for path in paths if (found := claim.read(path)) and found.run_id == run_id]
    return {
        paths[path]: Ended(Status.LOST, run_id) for path, lives in claim.alive(silent, sleep=sleep).items() if not lives
    }


def why_skipped(job: Job, sleep: Callable[[float], None]) -> str | None:
    """Return why a job must not run, from the records in its output folder, None if it may.

    Parameters
    ----------
    sleep
        Waits while a run of another machine is watched; whatever it raises ends the watch.
    """
    go_on = job.options.continue_on_failure
    found = ended(job.output_dir, [*job.needs, *job.earlier])
    if not go_on:
        silent = [name for name in job.earlier if name not in found or found[name].run_id != job.run_id]
        found |= lost(job.output_dir, silent, job.run_id, sleep=sleep)
    return reason_to_skip(
        needs=job.needs,
        earlier=job.earlier,
        results=found,
        run_id=job.run_id,
        any_run=job.lone,
        continue_on_failure=go_on,
    )


def reason_to_skip(
    *,
    needs: Sequence[str],
    earlier: Sequence[str],
    results: Mapping[str, Ended],
    run_id: str,
    any_run: bool,
    continue_on_failure: bool,
) -> str | None:
    """Return why a notebook must not run, or None.

    Parameters
    ----------
    needs
        Notebooks that must have succeeded.
    earlier
        Notebooks before this one in the plan.
    any_run
        A success in any run qualifies, not only in this run.
    """
    if not continue_on_failure:
        for name in earlier:
            result = results.get(name)
            if result and result.run_id == run_id and not passed(result):
                return f"the run stopped after {name} ended {result.status.value}"
    for name in needs:
        result = results.get(name)
        if result is None:
            return f"it needs {name}, which has no result"
        if result.run_id != run_id and not any_run:
            return f"it needs {name}, whose result is from another run"
        if result.provisional:
            return f"it needs {name}, whose record is provisional: its run was not completed"
        if result.status is not Status.SUCCEEDED:
            return f"it needs {name}, which ended {result.status.value}"
    return None


def passed(result: Ended) -> bool:
    """Return True if the run may continue after this end: a success, or an optional notebook skipped."""
    return result.status is Status.SUCCEEDED or (result.status is Status.SKIPPED and result.optional)
