# SPDX-License-Identifier: Apache-2.0
"""Is the notebook there at all? Asked before anything waits for a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.core.errors import BrokenInputError, did_you_mean

if TYPE_CHECKING:
    from runner.plan.job import Job


def check_source(job: Job) -> None:
    """Raise when the notebook's file does not exist, and name the step that should have put it there.

    Raises
    ------
    BrokenInputError
        There is no such file.
    """
    if job.source.exists():
        return
    if job.entry is None:
        beside = [path.name for path in job.source.parent.glob("*.ipynb")]
        raise BrokenInputError(
            f"the notebook {job.source} does not exist",
            hint=f"{did_you_mean(job.source.name, beside)}check the path; a name of a plan needs --plan as well",
        )
    if job.checkout.is_dir() and any(job.checkout.iterdir()):
        raise BrokenInputError(
            f"the checkout {job.checkout} has no {job.entry.path}",
            hint="is it the right repository and revision? `runner plan check --checkout` says what is missing",
        )
    raise BrokenInputError(
        f"the notebook {job.entry.path} is not there: the checkout {job.checkout} is empty",
        hint=f"clone it first: `runner clone URL {job.checkout}`; on Tekton that is the task safe-git-clone-task",
    )
