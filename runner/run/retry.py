# SPDX-License-Identifier: Apache-2.0
"""Retries by an orchestrator, which only knows that the last attempt did not exit with 0.

Failures caused by the machine may not recur: a run that was lost or terminated, a GPU used by others. Failures caused
by the notebook, its input or its limits would recur, so their verdict is repeated at once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from runner.core import files, log
from runner.core.endings import settled
from runner.core.records import Status, read_metrics
from runner.outputs import tekton_results

if TYPE_CHECKING:
    from runner.core.records import Gate, Metrics
    from runner.plan.job import Job


def worth_a_retry(record: Metrics) -> bool:
    """Return True if the run may end differently on another machine or at another time."""
    if record.status is Status.REFUSED:
        return record.gate is not None and _held_by_others(record.gate)
    return record.status in {Status.LOST, Status.TERMINATED}


def _held_by_others(gate: Gate) -> bool:
    """Return True if the machine has the requested GPUs, but others used their memory."""
    need = gate.asked.gpu_free_fraction * (gate.asked.gpu_memory_gb or 0) * 1e9
    large = sum(gpu.total_bytes is not None and gpu.total_bytes >= need for gpu in gate.gpus)
    return large >= gate.asked.gpus > 0 and not any(check.status == "fail" for check in gate.checks)


def final_verdict(job: Job) -> Metrics | None:
    """Return the record of an earlier attempt if it is final, None to run the notebook."""
    path = job.path(".metrics.json")
    record = None
    with suppress(OSError, ValueError):
        record = settled(read_metrics(files.read(path).decode()))
    if record is None or record.run_id != job.run_id or worth_a_retry(record):
        return None
    if job.options.results_dir is not None:
        tekton_results.write(job.options.results_dir, record, path)
    log.info("repeated", nb=job.name, status=record.status, reason=f"a retry would end the same way: {record.reason}")
    return record
