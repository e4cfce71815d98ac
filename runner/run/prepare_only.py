# SPDX-License-Identifier: Apache-2.0
"""`--prepare-only`: what would run, written down, without running it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from runner.core import files
from runner.core.notebook_document import read_notebook
from runner.core.redact import Redactor
from runner.run.preflight import as_usage, check_source
from runner.stages.execute.autosave import notebook_bytes
from runner.stages.prepare.prepare import prepare

if TYPE_CHECKING:
    from runner.plan.job import Job


def prepare_only(job: Job, *, as_json: bool) -> int:
    """Write ``NAME.prepared.ipynb`` and list what preparation changed.

    Raises
    ------
    BrokenInputError
        A rule, parameter or dataset matches nothing.
    UsageError
        The same in a standalone run.
    """
    replacements = {dataset.url: dataset.url for dataset in job.datasets.values() if dataset.place is None}
    with as_usage(job):
        check_source(job)
        source = read_notebook(job.source)
        prepared = prepare(
            source,
            rules=job.rules,
            parameters=job.parameters,
            replacements=replacements,
            name=job.name,
            hide_code=job.options.report_mode,
        )
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
