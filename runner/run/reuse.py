# SPDX-License-Identifier: Apache-2.0
"""Decide if an earlier success can be reused, and reuse it.

A recorded success is reused if its resume key is current and its files are unchanged. Otherwise all reasons are
reported. Earlier attempts are also considered, so a later failed run or an interrupted reuse does not prevent it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core import files, log
from runner.core.hash_cache import sha256_of
from runner.core.log import utc_now
from runner.core.notebook_document import read_notebook
from runner.core.records import (
    EXIT_CODES,
    SCHEMA_VERSION,
    Expectation,
    Metrics,
    ReusedFrom,
    Status,
    read_metrics,
    to_json,
)
from runner.outputs import attempts, sums
from runner.plan.job import EXECUTED_SUFFIX
from runner.plan.sharing import shared_with
from runner.run import ingredients, ran_because
from runner.stages.expect import expectations
from runner.stages.record import provenance

if TYPE_CHECKING:
    from pathlib import Path

    from runner.core.hash_cache import HashCache
    from runner.core.redact import Redactor
    from runner.plan.job import Job
    from runner.run.ingredients import Recipe
    from runner.run.preflight import Checked

METRICS = ".metrics.json"
_REPAIRED = (
    "reused although its run was repaired: --accept-repaired was given, and the last run of each cell is current"
)
_MAX_ATTEMPTS = 20
"""Number of earlier attempts that are considered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A record and the folders of its files, which are two if a run was killed while it moved them."""

    folder: Path
    notebook_folder: Path
    record: Metrics | None
    problem: str = ""
    """Why it can never be reused."""

    @property
    def success(self) -> Metrics:
        """The record of a candidate without a problem."""
        assert self.record is not None
        return self.record


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The reused record, or why the notebook runs."""

    reused: Candidate | None
    because: tuple[str, ...] = ()
    unlike_source: bool = False
    """The notebook's file has changed, but not the code that runs."""
    expectations: tuple[Expectation, ...] = ()


def decide(job: Job, checked: Checked, hashes: HashCache, redactor: Redactor) -> Decision:
    """Compare a notebook with its recorded successes, newest first.

    Raises
    ------
    BrokenInputError
        The notebook cannot be prepared.
    """
    if job.options.rerun:
        return Decision(reused=None, because=("--rerun was given",))
    if job.entry is not None and job.entry.resume == "never":
        return Decision(reused=None, because=("the plan says resume: never",))
    found = earlier(job.output_dir, job.name)
    successes = [one for one in found if not one.problem]
    if not successes:
        return Decision(reused=None, because=(found[0].problem if found else "it has no earlier run",))
    declared = ingredients.declared(job, checked)
    because: tuple[str, ...] = ()
    for one in successes:
        judged = _expectations(job, checked, one)
        reasons = _reasons(job, one, declared, judged, hashes, redactor)
        if one.success.repaired and not job.options.accept_repaired:
            reasons = ("its run was repaired (--accept-repaired reuses it if its cells are unchanged)", *reasons)
        if not reasons:
            unlike = one.success.source.sha256 != checked.source.sha256
            return Decision(reused=one, unlike_source=unlike, expectations=judged)
        because = because or reasons
    return Decision(reused=None, because=because)


def take_over(job: Job, decision: Decision, redactor: Redactor, started: float) -> Metrics:
    """Reuse the files of an earlier success for this run, and return the new record.

    Existing files are moved to ``attempts/`` first. The record is written last: if the reuse is killed before, the
    next run finds the earlier success there.

    Parameters
    ----------
    started
        Start of the decision on the monotonic clock.

    Raises
    ------
    RecordError
        A file cannot be written.
    """
    candidate = decision.reused
    assert candidate is not None
    record = candidate.success
    moved = attempts.set_aside(job.output_dir, job.name)
    places = [moved or one if one == job.output_dir else one for one in (candidate.notebook_folder, candidate.folder)]
    if moved is not None and not (moved / f"{job.name}{METRICS}").exists():
        places.append(moved)  # files that a killed run had not moved yet
    for suffix in attempts.SUFFIXES:
        source = next((path for one in places if (path := one / f"{job.name}{suffix}").exists()), None)
        if suffix != METRICS and source is not None:
            _link(source, job.path(suffix))
    taken = dataclasses.replace(
        record,
        run_id=job.run_id,
        reused_from=ReusedFrom(
            run_id=record.reused_from.run_id if record.reused_from else record.run_id,
            ended_at=record.ended_at,
            reused_at=utc_now(),
        ),
        ran_because=(),
        warnings=tuple(dict.fromkeys((*record.warnings, *([_REPAIRED] if record.repaired else [])))),
        optional=job.optional,
        expectations=decision.expectations,
        outputs=dataclasses.replace(
            record.outputs,
            attempts=tuple(str(p.relative_to(job.output_dir)) for p in attempts.folders(job.output_dir, job.name)),
        ),
    )
    unmet = [one for one in decision.expectations if not one.met and one.severity == "error"]
    if unmet:
        status = Status.UNEXPECTED_RESULTS
        taken = dataclasses.replace(taken, status=status, reason=str(unmet[0]), exit_code=EXIT_CODES[status])
    if record.outputs.html is not None and not job.path(".html").is_file():
        _convert_again(job, redactor)
    taken = dataclasses.replace(taken, spent_seconds=round(time.monotonic() - started, 6))
    files.write(job.path(METRICS), to_json(taken, redactor.tree))
    sums.write_notebook(job.output_dir, job.name)
    return taken


def earlier(output_dir: Path, name: str) -> list[Candidate]:
    """Return the records of a notebook and its attempts, newest first."""
    folders = (output_dir, *list(reversed(attempts.folders(output_dir, name)))[:_MAX_ATTEMPTS])
    found = [one for folder in folders if (one := _candidate(folder, name)) is not None]
    return [_with_notebook(one, [folder / f"{name}{EXECUTED_SUFFIX}" for folder in folders]) for one in found]


def keys_of_needs(job: Job) -> dict[str, str]:
    """Return the resume keys, else run ids, of needed notebooks without declared products, as ingredients."""
    found = {}
    for notebook in job.plan.notebooks if job.plan and job.needs else ():
        one = None if notebook.products else _candidate(job.output_dir, notebook.name)
        if one and one.record:
            found[notebook.name] = one.record.resume_key or one.record.run_id
    return ingredients.needs_without_products(job, found)


def _candidate(folder: Path, name: str) -> Candidate | None:
    """Return the record of a notebook in a folder, None if it has none."""
    record, problem = None, ""
    try:
        record = read_metrics(files.read(folder / f"{name}{METRICS}"))
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"its record cannot be read: {error.strerror or error}"
    except (ValueError, RecursionError):
        problem = "its record cannot be read: it is not valid"
    return Candidate(
        folder=folder, notebook_folder=folder, record=record, problem=_problem(record) if record else problem
    )


def _with_notebook(candidate: Candidate, paths: Sequence[Path]) -> Candidate:
    """Search other folders for the executed notebook if it is not beside the record."""
    wanted = candidate.record.outputs.notebook_sha256 if candidate.record else None
    if wanted is not None and not (candidate.folder / paths[0].name).exists():
        for path in paths:
            with contextlib.suppress(OSError):
                if sha256_of(path) == wanted:
                    return dataclasses.replace(candidate, notebook_folder=path.parent)
    return candidate


def _problem(record: Metrics) -> str:
    if record.schema_version != SCHEMA_VERSION:
        return f"its record has schema version {record.schema_version}, this version of runner reads {SCHEMA_VERSION}"
    if record.provisional:
        return "its record is provisional"
    if record.status is not Status.SUCCEEDED:
        return f"its last run ended {record.status.value}"
    if record.resume_key is None:
        return "its record has no key"
    if ingredients.key_of(record.ingredients) != record.resume_key:
        return "its record was edited"
    return ""


def _reasons(
    job: Job,
    candidate: Candidate,
    declared: Recipe,
    judged: tuple[Expectation, ...],
    hashes: HashCache,
    redactor: Redactor,
) -> tuple[str, ...]:
    record = candidate.success
    if declared.packages is None:
        return (f"the packages of its kernel {declared.ingredients['kernel']!r} cannot be listed",)
    recorded_files = [
        name.removeprefix(ingredients.FILE) for name in record.ingredients if name.startswith(ingredients.FILE)
    ]
    needed = [str(path) for path in ingredients.needed_products(job)]
    now = dataclasses.replace(
        declared,
        ingredients={
            **declared.ingredients,
            ingredients.GPUS: ingredients.gpus_now(job, record),
            **keys_of_needs(job),
            **ingredients.content(needed, ingredients.PRODUCT, job.checkout, hashes),
            **ingredients.content(recorded_files, ingredients.FILE, job.checkout, hashes),
        },
    )
    here = redactor.tree(dataclasses.asdict(provenance.environment(job, declared.ingredients["kernel"], "")))
    return (
        *ran_because.differences(record, now, parameters=here["parameters"], variables=here["variables"]),
        *_changed_files(job, candidate, hashes),
        *(
            f"the expected file {one.target} is invalid: {one.seen}"
            for one in judged
            if one.kind == "file" and not one.met and one.severity == "error"
        ),
    )


def _changed_files(job: Job, candidate: Candidate, hashes: HashCache) -> list[str]:
    """Return the changes to the executed notebook and the products since a success."""
    record = candidate.success
    found = []
    try:
        if sha256_of(candidate.notebook_folder / f"{job.name}{EXECUTED_SUFFIX}") != record.outputs.notebook_sha256:
            found.append("the executed notebook was edited")
    except OSError:
        found.append("the executed notebook is missing")
    later: Mapping[str, set[str]] | None = None
    for path, recorded in record.outputs.product_sha256.items():
        try:
            content = hashes.digest(job.checkout / path)
        except OSError:
            found.append(f"{path} is missing")
            continue
        if content != recorded:
            later = _made_later(job) if later is None else later
            if content not in later.get(path, ()):
                found.append(f"{path} has changed since that run")
    return found


def _made_later(job: Job) -> dict[str, set[str]]:
    """Return the product hashes recorded by later notebooks in the plan, which may overwrite shared products."""
    if job.plan is None or job.entry is None:
        return {}
    names = [notebook.name for notebook in job.plan.notebooks]
    sharers = {name for others in shared_with(job.plan, job.entry.name).values() for name in others}
    found: dict[str, set[str]] = {}
    for name in names[names.index(job.entry.name) + 1 :]:
        one = _candidate(job.output_dir, name) if name in sharers else None
        if one and not one.problem:
            for path, content in one.success.outputs.product_sha256.items():
                found.setdefault(path, set()).add(content)
    return found


def _expectations(job: Job, checked: Checked, candidate: Candidate) -> tuple[Expectation, ...]:
    """Check the plan's current expectations against an earlier run."""
    if job.expect is None:
        return ()
    with contextlib.suppress(Exception):  # an unreadable executed notebook counts as edited
        return expectations.check(
            job.expect,
            checkout=job.checkout,
            before={},
            figures=candidate.success.outputs.figures,
            executed_nb=read_notebook(candidate.notebook_folder / f"{job.name}{EXECUTED_SUFFIX}", to_run=False),
            source_nb=checked.notebook,
        )
    return ()


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copy2(source, target)
        except OSError as error:
            raise files.cannot_write(target, error) from error


def _convert_again(job: Job, redactor: Redactor) -> None:
    from runner.run.recorder import write_page_of

    notebook = read_notebook(job.path(EXECUTED_SUFFIX), to_run=False)
    try:
        write_page_of(job, notebook, redactor)
    except Exception as error:  # noqa: BLE001  (an error of the conversion must not hide the notebook's)
        log.warning("convert", nb=job.name, reason=f"{type(error).__name__}: {error}")
