# SPDX-License-Identifier: Apache-2.0
"""How the parts of a plan refer to each other: names, needs, datasets and their paths."""

from __future__ import annotations

import graphlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runner.core.errors import PlanError

if TYPE_CHECKING:
    from runner.plan import Plan


def check_graph(plan: Plan, where: str) -> None:
    """Check that every name exists once and that needs can be met in the plan's order.

    Raises
    ------
    PlanError
        A name appears twice or is unknown, needs go in a circle or backwards, datasets share a path.
    """
    _check_names(plan, where)
    _check_dataset_paths(plan, where)
    _check_order(plan, where)


def _check_names(plan: Plan, where: str) -> None:
    names = [notebook.name for notebook in plan.notebooks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(f"{where}: notebooks: the name {twice[0]!r} appears twice", hint="names are unique")
    for position, notebook in enumerate(plan.notebooks):
        for key, wanted, known in (
            ("needs", notebook.needs, names),
            ("datasets", notebook.datasets, list(plan.datasets)),
        ):
            unknown = [name for name in wanted if name not in known]
            if unknown:
                what = "notebook" if key == "needs" else "dataset"
                raise PlanError(
                    f"{where}: notebooks[{position}].{key}: unknown {what} {unknown[0]!r}",
                    hint=f"it has {', '.join(known) or 'none'}",
                )


def _check_dataset_paths(plan: Plan, where: str) -> None:
    taken: dict[PurePosixPath, str] = {}
    for name, dataset in plan.datasets.items():
        path = PurePosixPath(dataset.path)
        if path in taken:
            raise PlanError(
                f"{where}: datasets.{name}.path: {dataset.path!r} is also the path of {taken[path]!r}",
                hint="give each dataset its own path",
            )
        taken[path] = name


def _check_order(plan: Plan, where: str) -> None:
    names = [notebook.name for notebook in plan.notebooks]
    try:
        graphlib.TopologicalSorter({notebook.name: notebook.needs for notebook in plan.notebooks}).prepare()
    except graphlib.CycleError as error:
        raise PlanError(f"{where}: circular needs: {' -> '.join(error.args[1])}", hint="remove one of them") from error
    for position, notebook in enumerate(plan.notebooks):
        late = [need for need in notebook.needs if names.index(need) > position]
        if late:
            raise PlanError(
                f"{where}: notebooks[{position}].needs: {late[0]!r} comes later in the plan",
                hint="a plan is run from top to bottom; move it before this notebook",
            )
