# SPDX-License-Identifier: Apache-2.0
"""`--resume`: reuse an earlier success if nothing that it depends on has changed, else say why not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.errors import BrokenInputError
from runner.core.hash_cache import HashCache
from runner.core.records import origin
from runner.core.redact import Redactor
from runner.core.units import format_seconds
from runner.outputs import tekton_results
from runner.run import needs, preflight, reuse
from runner.run.record_key import HASHES

if TYPE_CHECKING:
    from runner.core.records import Metrics
    from runner.core.stop import Stopper
    from runner.plan.job import Job
    from runner.run.preflight import Checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The record that was reused, or why the notebook runs."""

    record: Metrics | None = None
    because: tuple[str, ...] = ()


def resume(job: Job, stopper: Stopper, hashes: HashCache | None = None, checked: Checked | None = None) -> Resumed:
    """Take over an earlier success for a job whose name is claimed, or say why it runs.

    What keeps a notebook from running at all (needs, broken input) is left to its run, which records it.

    Parameters
    ----------
    hashes
        Those of the output folder, where several notebooks share them.

    Raises
    ------
    RecordError
        A file cannot be written.
    """
    started = time.monotonic()
    redactor = Redactor(job.hidden)
    hashes = hashes or HashCache(job.output_dir / HASHES)
    if needs.why_skipped(job, stopper.sleep):
        return Resumed()
    try:
        decision = reuse.decide(job, checked or preflight.check(job), hashes, redactor)
    except BrokenInputError:
        return Resumed()
    hashes.save()
    if decision.reused is None:
        log.info("runs", nb=job.name, because="; ".join(decision.because))
        return Resumed(because=decision.because)
    record = reuse.take_over(job, decision, redactor, started)
    if job.options.results_dir is not None:
        tekton_results.write(job.options.results_dir, record, job.path(reuse.METRICS))
    log.info(
        "reused",
        nb=job.name,
        status=record.status if record.exit_code else None,
        source=origin(record),
        saved=format_seconds(record.wall_seconds),
        changed="comments or text only" if decision.unlike_source else None,
        not_judged=", ".join(record.not_judged) or None,
    )
    return Resumed(record=record)
