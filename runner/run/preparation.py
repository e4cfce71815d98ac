# SPDX-License-Identifier: Apache-2.0
"""`--prepare-only`: what would run, written down, without running it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from runner import files
from runner.notebook.document import read_notebook
from runner.notebook.prepare import prepare
from runner.notebook.save import notebook_bytes
from runner.redact import Redactor

if TYPE_CHECKING:
    from runner.run.job import Job


def prepare_only(job: Job, *, as_json: bool) -> int:
    """Write ``NAME.prepared.ipynb`` and list what preparation changed.

    Raises
    ------
    BrokenInputError
        A rule, parameter or dataset matches nothing.
    """
    replacements = {dataset.url: dataset.url for dataset in job.datasets.values() if dataset.place is None}
    prepared = prepare(
        read_notebook(job.source), rules=job.rules, parameters=job.parameters, replacements=replacements, name=job.name
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
