# SPDX-License-Identifier: Apache-2.0
"""Whether a notebook may run after those before it: needs, and stopping after a failure.

Decided here and not in YAML, from the metrics that stand in the output folder.
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
    """How a notebook ended, in which run."""

    status: Status
    run_id: str
    optional: bool = False
    provisional: bool = False
    """Not everything in its record was judged, so that it meets no need."""


def ended(folder: Path, names: Sequence[str]) -> dict[str, Ended]:
    """Read how notebooks ended; those without readable metrics are left out."""
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
    """Return those of this run that have no record and whose process is gone.

    Parameters
    ----------
    names
        Whom to look for; those with a record of this run need not be among them.
    sleep
        Waits while a run of another machine is watched; whatever it raises ends the watch.
    """
    paths = {folder / f"{name}.running": name for name in names}
    silent = [path for path in paths if (found := claim.read(path)) and found.run_id == run_id]
    return {
        paths[path]: Ended(Status.LOST, run_id) for path, lives in claim.alive(silent, sleep=sleep).items() if not lives
    }


def why_skipped(job: Job, sleep: Callable[[float], None]) -> str | None:
    """Return why a job must not run, from the records that its output folder has now; None if it may.

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
        Notebooks that stand before this one in the plan.
    any_run
        A success of any run qualifies, not only one of this run.
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
            return f"it needs {name}, whose result is of another run"
        if result.provisional:
            return f"it needs {name}, whose record is provisional: not everything in it was judged"
        if result.status is not Status.SUCCEEDED:
            return f"it needs {name}, which ended {result.status.value}"
    return None


def passed(result: Ended) -> bool:
    """Return True if a notebook that ended so lets the run go on: succeeded, or optional and skipped."""
    return result.status is Status.SUCCEEDED or (result.status is Status.SKIPPED and result.optional)
