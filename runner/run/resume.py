# SPDX-License-Identifier: Apache-2.0
"""`--resume`: reuse an earlier success if none of its ingredients have changed, else report why not.

The record of a success therefore has the ingredients of its results.

An orchestrator retries every failure. Those caused by the machine may not recur: a run that was lost or terminated, a
GPU used by others. Those caused by the notebook, its input or its limits would recur, so their record is kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.endings import record_of_run
from runner.core.errors import BrokenInputError, RunnerError
from runner.core.hash_cache import HashCache, sha256_of
from runner.core.records import Status, origin
from runner.core.redact import Redactor
from runner.core.units import format_seconds
from runner.outputs import tekton_results
from runner.plan.job import EXECUTED_SUFFIX
from runner.run import ingredients, needs, preflight, reuse
from runner.run.reuse import keys_of_needs
from runner.stages.prepare import products

if TYPE_CHECKING:
    from runner.core.records import Gate, Metrics
    from runner.core.stop import Stopper
    from runner.machine.gpus import Gpu
    from runner.plan.job import Job
    from runner.run.context import RunContext
    from runner.run.ingredients import Recipe
    from runner.run.preflight import Checked
    from runner.stages.execute.kernel_notes import Opened


HASHES = ".hashes.json"
"""File of the hash cache in an output folder."""
CHANGED = "changed while the notebook ran"
"""Replaces a hash if it is unknown which content the notebook read, so no later run has the same key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The reused record, or why the notebook runs."""

    record: Metrics | None = None
    because: tuple[str, ...] = ()


def resume(job: Job, stopper: Stopper, hashes: HashCache | None = None, checked: Checked | None = None) -> Resumed:
    """Reuse an earlier success for a job whose name is claimed, or return why it runs.

    Reasons to skip or refuse a notebook (needs, broken input) are left to its run, which records them.

    Parameters
    ----------
    hashes
        The hash cache of the output folder, if shared by several notebooks.

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
    record = record_of_run(path, job.run_id)
    if record is None or worth_a_retry(record):
        return None
    if job.options.results_dir is not None:
        tekton_results.write(job.options.results_dir, record, path)
    log.info("repeated", nb=job.name, status=record.status, reason=f"a retry would end the same way: {record.reason}")
    return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Ingredients known before a notebook runs; contents are hashed afterwards, when it needs no GPU."""

    recipe: Recipe
    states: Mapping[str, tuple[int, ...]]
    """State of each needed product before the run."""
    seen_ns: int


def inputs_of(job: Job, checked: Checked) -> Inputs:
    """Return the inputs of a notebook before it runs.

    Raises
    ------
    BrokenInputError
        The notebook cannot be prepared.
    """
    needed = ingredients.needed_products(job)
    return Inputs(
        recipe=ingredients.declared(job, checked),
        states={str(path): _state(job.checkout / path) for path in needed},
        seen_ns=time.time_ns(),
    )


def note_key(run: RunContext, inputs: Inputs, gpus: tuple[Gpu, ...], opened: Opened) -> None:
    """Add the resume key and the hashes of the products to the record of a success."""
    job, metrics = run.job, run.metrics
    if metrics.record.status is not Status.SUCCEEDED:
        return
    hashes = HashCache(job.output_dir / HASHES)
    try:
        paths = [str(path) for path in products.find(job.products, job.checkout)]
        made = {path: hashes.digest(job.checkout / path) for path in paths}
        found = {
            **inputs.recipe.ingredients,
            ingredients.GPUS: ingredients.gpus([gpu.architecture for gpu in gpus]),
            **keys_of_needs(job),
            **_content(job, list(inputs.states), ingredients.PRODUCT, inputs, hashes),
            **_content(job, _read_in_checkout(job, opened, [*inputs.states, *made]), ingredients.FILE, inputs, hashes),
        }
    except (OSError, RunnerError) as error:  # a GPU may be lost by now, which does not affect the results
        metrics.warn(f"--resume will run this notebook again: {error}")
        return
    hashes.save()
    # Keys of a record are not redacted, so redact file names here. A name with a secret is never reused.
    made, found = ({run.redactor.text(name): value for name, value in each.items()} for each in (made, found))
    metrics.note(
        resume_key=ingredients.key_of(found), ingredients=found, not_judged=tuple(f"host {h}" for h in opened.hosts)
    )
    metrics.note_outputs(product_sha256=made)


def note_notebook(run: RunContext) -> None:
    """Add the hash of the executed notebook after its last write."""
    if run.metrics.record.resume_key is not None:
        try:
            run.metrics.note_outputs(notebook_sha256=sha256_of(run.job.path(EXECUTED_SUFFIX)))
        except OSError as error:
            log.warning("resume-key", nb=run.job.name, reason=str(error))


def _content(job: Job, paths: list[str], kind: str, inputs: Inputs, hashes: HashCache) -> dict[str, str]:
    """Hash files that the notebook read, unless they have changed since."""
    found = ingredients.content(paths, kind, job.checkout, hashes)
    for path in paths:
        state = _state(job.checkout / path)
        if inputs.states.get(path, state) != state or (path not in inputs.states and max(state[2:]) > inputs.seen_ns):
            found[kind + path] = CHANGED
    return found


def _read_in_checkout(job: Job, opened: Opened, known: list[str]) -> list[str]:
    """Return the input files in the checkout, except the run's own files and those in other ingredients."""
    root = job.checkout.resolve()
    placed = [data.place.path for data in job.datasets.values() if data.place is not None]
    excluded = [root / path for path in (*known, *placed, products.ASIDE)]
    excluded += [job.output_dir.resolve(), job.source.resolve()]
    found = set()
    for path in opened.read:
        place = path.resolve()
        inside = place.is_relative_to(root) and place.is_file()
        if inside and not any(place.is_relative_to(one) for one in excluded):
            found.add(str(place.relative_to(root)))
    return sorted(found)


def _state(path: Path) -> tuple[int, ...]:
    """Return metadata that changes if a file, or anything in a folder, is written; zeros if it is missing."""
    try:
        status = path.stat()
        if path.is_dir():
            inside = [each.stat() for each in path.rglob("*")]
            newest = [max(values) for values in zip(*((s.st_mtime_ns, s.st_ctime_ns) for s in inside), strict=True)]
            return len(inside), sum(each.st_size for each in inside), *(newest or [0])
    except OSError:
        return (0, 0, 0)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
