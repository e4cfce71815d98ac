# SPDX-License-Identifier: Apache-2.0
"""Everything that can be known of a notebook before it waits for a GPU and starts a kernel.

A typo must cost neither a queue nor the results of the run before: a standalone run is checked
before it writes or moves anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.errors import BrokenInputError, UsageError, did_you_mean
from runner.run.checkout import check_source

if TYPE_CHECKING:
    from pathlib import Path

    from nbformat import NotebookNode

    from runner.records import Source
    from runner.run.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A notebook that can be prepared and run as the job says."""

    notebook: NotebookNode
    """The source, as it was when it was checked."""
    source_bytes: bytes
    """Its file at that time."""
    source: Source
    kernel: str


def check_standalone(job: Job) -> Checked | None:
    """Check a standalone run before it claims its name; None for a part of a plan's run.

    Raises
    ------
    UsageError
        The notebook cannot be run as the options say.
    """
    if not job.standalone:
        return None
    with as_usage(job):
        return check(job)


@contextlib.contextmanager
def as_usage(job: Job) -> Iterator[None]:
    """Treat broken input of a standalone run as a wrong call, which leaves no record.

    A part of a plan's run leaves its ``broken-input`` record instead, since the report must list it.
    """
    try:
        yield
    except BrokenInputError as error:
        if not job.standalone:
            raise
        hint = "; ".join(filter(None, [error.hint, "nothing was written, earlier results stay"]))
        raise UsageError(error.message, hint=hint) from error


def check_options(jobs: Sequence[Job]) -> None:
    """Check the options that the notebooks of one plan share, before the first of them runs.

    What is wrong with a single notebook is left to its own run, which records it.

    Raises
    ------
    UsageError
        An option cannot work for one of the notebooks.
    """
    options = jobs[0].options
    if not jobs[0].checkout.is_dir():
        raise UsageError(
            f"the checkout {jobs[0].checkout} is not a folder",
            hint=f"{_folder_meant(jobs[0].checkout)}give the folder that the plan's paths start from as --checkout",
        )
    if options.kernel is not None:
        from runner.notebook.kernel import check_kernel

        try:
            check_kernel(options.kernel)
        except BrokenInputError as error:
            raise UsageError(f"--kernel: {error.message}", hint=error.hint) from error
    reader = next((job for job in jobs if job.datasets), None)
    if reader is None or reader.cache is None or reader.cache.is_dir():
        return
    raise UsageError(
        f"--cache: {reader.cache} is not a folder, and {reader.name} reads {', '.join(reader.datasets)}",
        hint=f"{_folder_meant(reader.cache)}stage the datasets: `runner fetch PLAN --cache {reader.cache}`",
    )


def check(job: Job) -> Checked:
    """Check the notebook's file, working directory, kernel, rules, parameters and declared datasets.

    Raises
    ------
    BrokenInputError
        One of them is missing, unreadable or has no effect.
    """
    check_source(job)
    from runner.notebook.document import read_notebook

    notebook = read_notebook(job.source)
    _check_cwd(job)
    wanted = job.kernel or notebook.metadata.get("kernelspec", {}).get("name") or "python3"
    from runner.notebook.kernel import check_kernel

    kernel = check_kernel(wanted)
    from runner.notebook.prepare import prepare
    from runner.run import provenance

    prepare(
        notebook,
        rules=job.rules,
        parameters=job.parameters,
        replacements={dataset.url: dataset.url for dataset in job.datasets.values()},
        placed={dataset.url for dataset in job.datasets.values() if dataset.place is not None},
        name=job.name,
    )
    data = job.source.read_bytes()
    source = provenance.source_record(job, notebook, data, wanted)
    return Checked(notebook=notebook, source_bytes=data, source=source, kernel=kernel)


def _check_cwd(job: Job) -> None:
    if job.cwd.is_dir():
        return
    what = "is not a folder" if job.cwd.exists() else "does not exist"
    raise BrokenInputError(
        f"the working directory {job.cwd} {what}",
        hint=f"{_folder_meant(job.cwd)}give an existing folder as --cwd or as the plan's cwd",
    )


def _folder_meant(folder: Path) -> str:
    parent = folder.parent
    return did_you_mean(folder.name, [path.name for path in parent.iterdir()] if parent.is_dir() else [])
