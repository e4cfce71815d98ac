# SPDX-License-Identifier: Apache-2.0
"""Preflight checks of a notebook, before it waits for a GPU and starts a kernel.

A typo must cost neither time in a queue nor the results of the previous run: a standalone run is
checked before it writes or moves anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.core import files
from runner.core.errors import BrokenInputError, UsageError, did_you_mean_path
from runner.outputs import attempts

if TYPE_CHECKING:
    from pathlib import Path

    from nbformat import NotebookNode

    from runner.core.records import Source
    from runner.plan.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A notebook that can be prepared and run for its job."""

    notebook: NotebookNode
    """The source at the time of the check."""
    source_bytes: bytes
    """The content of its file."""
    source: Source
    kernel: str


def check_standalone(job: Job) -> Checked | None:
    """Check a standalone run before it claims its name; return None for part of a plan's run.

    Raises
    ------
    UsageError
        The notebook cannot be run with these options.
    """
    if not job.standalone:
        return None
    with as_usage(job):
        return check(job)


@contextlib.contextmanager
def as_usage(job: Job) -> Iterator[None]:
    """Treat broken input of a standalone run as a usage error, without a record.

    Part of a plan's run writes a ``broken-input`` record instead, which the report must list.
    """
    try:
        yield
    except BrokenInputError as error:
        if not job.standalone:
            raise
        hint = "; ".join(filter(None, [error.hint, "nothing was written, earlier results are kept"]))
        raise UsageError(error.message, hint=hint) from error


def check_options(jobs: Sequence[Job]) -> None:
    """Check the options shared by the notebooks of a plan, before the first of them runs.

    Problems of a single notebook are left to its run, which records them.

    Raises
    ------
    UsageError
        An option cannot work for one of the notebooks.
    """
    options = jobs[0].options
    if not jobs[0].checkout.is_dir():
        raise UsageError(
            f"the checkout {jobs[0].checkout} is not a folder",
            hint=f"{did_you_mean_path(jobs[0].checkout)}set --checkout to the folder that the plan's paths start from",
        )
    check_names([job.name for job in jobs], jobs[0].output_dir)
    if options.kernel is not None:
        from runner.stages.execute.kernel import check_kernel

        try:
            check_kernel(options.kernel)
        except BrokenInputError as error:
            raise UsageError(f"--kernel: {error.message}", hint=error.hint) from error
    reader = next((job for job in jobs if job.datasets), None)
    if reader is None or reader.cache is None or reader.cache.is_dir():
        return
    raise UsageError(
        f"--cache: {reader.cache} is not a folder, and {reader.name} reads {', '.join(reader.datasets)}",
        hint=f"{did_you_mean_path(reader.cache)}stage the datasets: `runner fetch PLAN --cache {reader.cache}`",
    )


def check_names(names: Sequence[str], folder: Path) -> None:
    """Check that the files of notebooks do not clash in a folder that ignores case.

    Raises
    ------
    UsageError
        Two names differ only in case, and the folder ignores case.
    """
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(files.folded(name), name)
        if other != name and files.ignores_case(folder):
            raise UsageError(
                f"the notebooks {other!r} and {name!r} would have the same files in {folder}, which ignores case",
                hint="give one of them another name, or choose an --output-dir on another volume",
            )


def check_name_is_free(job: Job) -> None:
    """Check that the run's files are not those of a notebook with the same name in another case.

    Raises
    ------
    UsageError
        They are; nothing was written.
    """
    names = [path.name for path in job.output_dir.iterdir()] if job.output_dir.is_dir() else []
    for path in (job.path(suffix) for suffix in (*attempts.SUFFIXES, ".running")):
        others = [name for name in names if name != path.name and files.folded(name) == files.folded(path.name)]
        if others and path.name not in names and path.exists():
            raise UsageError(
                f"the notebook {job.name!r} would overwrite the file {others[0]!r} of another: "
                f"{job.output_dir} ignores case",
                hint="give another --name, or an --output-dir on another volume; nothing was written",
            )


def check_source(job: Job) -> None:
    """Check that the notebook's file exists, else suggest the missing step.

    Raises
    ------
    BrokenInputError
        The file does not exist.
    """
    if job.source.exists():
        return
    if job.entry is None:
        raise BrokenInputError(
            f"the notebook {job.source} does not exist",
            hint=f"{did_you_mean_path(job.source)}check the path; the name of a notebook in a plan also needs --plan",
        )
    if job.checkout.is_dir() and any(job.checkout.iterdir()):
        raise BrokenInputError(
            f"the checkout {job.checkout} has no {job.entry.path}",
            hint="is it the right repository and revision? `runner plan check --checkout` lists missing files",
        )
    raise BrokenInputError(
        f"the notebook {job.entry.path} is missing: the checkout {job.checkout} is empty",
        hint=f"clone it first: on Tekton with safe-git-clone-task, else with `runner clone URL {job.checkout}`",
    )


def check(job: Job) -> Checked:
    """Check the notebook's file, working directory, kernel, rules, parameters and declared datasets.

    Raises
    ------
    BrokenInputError
        One of them is missing, unreadable or has no effect.
    """
    check_source(job)
    from runner.core.notebook_document import read_notebook

    notebook = read_notebook(job.source)
    _check_cwd(job)
    wanted = job.kernel or notebook.metadata.get("kernelspec", {}).get("name") or "python3"
    from runner.stages.execute.kernel import check_kernel

    kernel = check_kernel(wanted)
    from runner.plan.sharing import case_clashes
    from runner.stages.prepare.prepare import prepare
    from runner.stages.record import provenance

    prepare(
        notebook,
        rules=job.rules,
        parameters=job.parameters,
        replacements={dataset.url: dataset.url for dataset in job.datasets.values()},
        placed={dataset.url for dataset in job.datasets.values() if dataset.in_no_source},
        name=job.name,
    )
    if job.plan is not None and job.products:
        clash = next((one for one in case_clashes(job.plan, job.checkout) if set(one) & set(job.products)), None)
        if clash:
            raise BrokenInputError(
                f"the products {clash[0]!r} and {clash[1]!r} may be the same file: {job.checkout} ignores case",
                hint="use the same case for the same file, or different names",
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
        hint=f"{did_you_mean_path(job.cwd)}give an existing folder as --cwd or as the plan's cwd",
    )
