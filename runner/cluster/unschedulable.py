# SPDX-License-Identifier: Apache-2.0
"""Records of notebooks that no node can host: no Pod of theirs will ever write one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.core import files
from runner.core.log import utc_now
from runner.core.records import EXIT_CODES, Metrics, Source, Status, to_json
from runner.outputs import attempts
from runner.outputs.claim import Claim

if TYPE_CHECKING:
    from pathlib import Path

    from runner.cluster.capacity import Verdict
    from runner.plan import Notebook, Plan


def write_record(folder: Path, plan: Plan, notebook: Notebook, verdict: Verdict, run_id: str) -> Metrics:
    """Write the metrics of a notebook that was judged without being run.

    An earlier run of the name is moved aside, as the runner does it; one in flight is left alone.

    Raises
    ------
    AlreadyRunningError
        Another run has this notebook under way in the same folder.
    RecordError
        The folder cannot be written.
    """
    status = Status.SKIPPED if verdict.outcome == "skipped" else Status.REFUSED
    now = utc_now()
    metrics = Metrics(
        notebook=notebook.name,
        source=Source(path=notebook.path),
        run_id=run_id,
        status=status,
        reason=verdict.reason,
        exit_code=EXIT_CODES[status],
        started_at=now,
        ended_at=now,
        wall_seconds=0.0,
        optional=notebook.optional or status is Status.SKIPPED,
        plan=plan.name,
    )
    with Claim.of(folder, notebook.name, run_id, plan.name):
        attempts.set_aside(folder, notebook.name)
        files.write(folder / f"{notebook.name}.metrics.json", to_json(metrics))
    return metrics
