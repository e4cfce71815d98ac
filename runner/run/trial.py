# SPDX-License-Identifier: Apache-2.0
"""Trial runs of a notebook in a scratch folder with a copy of the checkout.

The notebook's files and results are unchanged, even if the trial is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import files
from runner.core.records import Metrics, Status

if TYPE_CHECKING:
    from runner.plan.job import Job, Options


@contextlib.contextmanager
def scratch(job: Job) -> Iterator[Options]:
    """Yield the options of the same run in a temporary folder with a copy of the checkout."""
    beside = job.output_dir.parent
    beside.mkdir(parents=True, exist_ok=True)
    files.remove_left_over(beside, ".trial-*")  # of killed trials
    folder = Path(tempfile.mkdtemp(prefix=f".trial-{files.mark()}-", dir=beside))
    own = {folder, job.output_dir, *([job.cache] if job.cache else [])}
    checkout, outputs = folder / "checkout", folder / "outputs"
    try:
        shutil.copytree(
            job.checkout,
            checkout,
            symlinks=True,
            ignore=lambda place, names: [name for name in names if Path(place) / name in own],
        )
        outputs.mkdir()
        for need in job.needs:  # satisfied by the original records
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(job.output_dir / f"{need}.metrics.json", outputs)
        inside = job.cwd.relative_to(job.checkout) if job.cwd.is_relative_to(job.checkout) else None
        yield dataclasses.replace(
            job.options,
            notebook=job.options.notebook if job.plan else str(checkout / job.source.relative_to(job.checkout)),
            plan=job.options.plan.absolute() if job.options.plan else None,
            checkout=checkout if job.plan else None,
            cwd=checkout / inside if inside is not None else job.cwd,
            output_dir=outputs,
            html=False,
            run_id=None,
            results_dir=None,
            resume=False,
            twice=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_trial(options: Options) -> Metrics:
    """Run with the options from `scratch` and return the record; SIGTERM also ends the command."""
    from runner.core.stop import Stopper
    from runner.plan.job import resolve
    from runner.run.lifecycle import run

    metrics = run(resolve(options), Stopper())
    if metrics.status is Status.TERMINATED:
        raise SystemExit(metrics.exit_code)
    return metrics
