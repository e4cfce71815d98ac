# SPDX-License-Identifier: Apache-2.0
"""Prepare a notebook and its files: serve datasets, set aside old products, change cells.

`--prepare-only` writes the prepared notebook without running it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from runner.core import files, log
from runner.core.notebook_document import read_notebook
from runner.core.redact import Redactor
from runner.run.preflight import as_usage, check_source
from runner.stages.execute.executed_notebook import notebook_bytes

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.records import Change
    from runner.plan.job import Job
    from runner.run.context import RunContext
    from runner.run.preflight import Checked
    from runner.stages.expect.expectations import Before
    from runner.stages.prepare.prepare import Prepared
    from runner.stages.prepare.staging import Staging


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """A notebook ready to run."""

    notebook: NotebookNode
    prepare: Callable[[NotebookNode], Prepared]
    """Prepares a notebook in the same way, with the staged data of this run."""
    staged: tuple[Change, ...]
    """Changes to files around the notebook."""
    staging: Staging | None
    """Its datasets and products, None if it has none."""
    expected_before: Before
    """Expected files that existed before the run."""


def prepare(run: RunContext, checked: Checked) -> Preparation:
    """Stage data and apply rules and parameters to the checked notebook.

    Raises
    ------
    BrokenInputError
        A dataset is missing or has changed.
    """
    job, metrics = run.job, run.metrics
    metrics.note(source=checked.source)
    staging: Staging | None = None
    if job.plan is not None or job.options.offline:  # else skip the imports, as nothing is staged
        from runner.stages.prepare.staging import Staging

        staging = Staging(job, checked.source.sha256 or "")
        run.cleanup.callback(staging.close)
        metrics.warn(*staging.served.warnings)
    served = staging.served if staging else None
    prepare_again = _preparing(
        job, replacements=served.replacements if served else {}, placed=served.placed if served else frozenset()
    )
    prepared = prepare_again(checked.notebook)
    metrics.note(preparation=prepared.changes)
    staged: tuple[Change, ...] = ()
    if staging is not None:
        moved = staging.set_products_aside(run.stopper.sleep)
        metrics.note_outputs(products_moved=moved)
        staged = staging.changes(moved)
        metrics.note(preparation=(*staged, *prepared.changes))
    expected_before: Before = {}
    if job.expect is not None:
        from runner.stages.expect import expectations

        expected_before = expectations.before(job.expect, job.checkout)
    for change in metrics.record.preparation:
        cell = None if change.cell_index is None else change.cell_index + 1
        log.info("prepared", nb=job.name, rule=change.rule, cell=cell, detail=change.detail)
    return Preparation(
        notebook=prepared.notebook,
        prepare=prepare_again,
        staged=staged,
        staging=staging,
        expected_before=expected_before,
    )


def _preparing(job: Job, **urls: Any) -> Callable[[NotebookNode], Prepared]:
    from runner.stages.prepare.prepare import prepare as prepare_notebook

    return functools.partial(
        prepare_notebook,
        rules=job.rules,
        parameters=job.parameters,
        name=job.name,
        hide_code=job.options.report_mode,
        **urls,
    )


def prepare_only(job: Job, *, as_json: bool) -> int:
    """Write ``NAME.prepared.ipynb`` and list the changes.

    Raises
    ------
    BrokenInputError
        A rule, parameter or dataset matches nothing.
    UsageError
        A rule or parameter of a standalone run matches nothing.
    """
    replacements = {dataset.url: dataset.url for dataset in job.datasets.values() if dataset.place is None}
    with as_usage(job):
        check_source(job)
        prepared = _preparing(job, replacements=replacements)(read_notebook(job.source))
    path = job.path(".prepared.ipynb")
    redactor = Redactor(job.hidden)
    files.write(path, notebook_bytes(prepared.notebook, redactor))
    if as_json:
        changes = redactor.tree([dataclasses.asdict(change) for change in prepared.changes])
        click.echo(json.dumps({"notebook": str(path), "changes": changes}, indent=1, ensure_ascii=False))
        return 0
    for change in prepared.changes:
        where = f"cell {change.cell_index + 1}: " if change.cell_index is not None else ""
        click.echo(f"{where}{change.rule}: {redactor.text(change.detail)}")
    click.echo(f"{len(prepared.changes)} changes, written to {path}")
    return 0
