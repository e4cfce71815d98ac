# SPDX-License-Identifier: Apache-2.0
"""Order of tasks in a pipeline: stages, downloads, and notebooks that share files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runner.tekton.names import task_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.plan.model import Notebook, Plan

Order = Literal["serial", "parallel"]


def stages(notebooks: Sequence[Notebook]) -> dict[str, int]:
    """Return the stage number of each notebook, from 1 in order of appearance; those without a stage share one."""
    labels = list(dict.fromkeys(notebook.stage for notebook in notebooks))
    return {notebook.name: labels.index(notebook.stage) + 1 for notebook in notebooks}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Datasets downloaded by one task."""

    task: str
    what: str
    datasets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Groups:
    """All downloads of a pipeline, in order of need."""

    all: tuple[Group, ...]

    def tasks_of(self, notebook: Notebook) -> list[str]:
        """Return the download tasks that a notebook waits for."""
        return [group.task for group in self.all if set(group.datasets) & set(notebook.datasets)]


def downloads(notebooks: Sequence[Notebook], order: Order) -> Groups:
    """Group the datasets into tasks: per stage in the serial order, per dataset in the parallel order.

    A dataset belongs to the first stage that reads it.
    """
    datasets = list(dict.fromkeys(name for notebook in notebooks for name in notebook.datasets))
    if order == "parallel":
        tasks = task_names("data", datasets)
        return Groups(tuple(Group(task=tasks[name], what=name, datasets=(name,)) for name in datasets))
    stage_of = stages(notebooks)
    first = {
        name: min(stage_of[notebook.name] for notebook in notebooks if name in notebook.datasets) for name in datasets
    }
    return Groups(
        tuple(
            Group(task=f"data-stage-{stage}", what=f"stage {stage}", datasets=members)
            for stage in sorted(set(stage_of.values()))
            if (members := tuple(name for name in datasets if first[name] == stage))
        )
    )


def earlier_with_shared_files(plan: Plan, notebooks: Sequence[Notebook]) -> dict[str, list[str]]:
    """Return, for each notebook, the last earlier ones that share one of its datasets or products.

    The RAPIDS notebooks filter a downloaded file in place, so notebooks that share a file must not run at once.
    Depending on the last user of each file is enough, since it depends on the earlier ones.
    """
    last_user: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for notebook in plan.notebooks:
        if notebook.name not in {chosen.name for chosen in notebooks}:
            continue
        files = [*(f"dataset {name}" for name in notebook.datasets), *(f"file {path}" for path in notebook.products)]
        found[notebook.name] = list(dict.fromkeys(last_user[file] for file in files if file in last_user))
        last_user.update(dict.fromkeys(files, notebook.name))
    return found
