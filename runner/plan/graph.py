# SPDX-License-Identifier: Apache-2.0
"""How the parts of a plan refer to each other: names, needs, datasets and their paths."""

from __future__ import annotations

import graphlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runner.core.errors import did_you_mean
from runner.plan.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.plan.model import Plan


def graph_faults(plan: Plan) -> list[Fault]:
    """Return names that appear twice or are unknown, needs in a circle or backwards, datasets that share a path."""
    return [*_names(plan), *_dataset_paths(plan)] or list(_order(plan))


def _names(plan: Plan) -> Iterator[Fault]:
    names = [notebook.name for notebook in plan.notebooks]
    for position, notebook in enumerate(plan.notebooks):
        at = ("notebooks", position)
        if notebook.name in names[:position]:
            yield Fault((*at, "name"), f"the name {notebook.name!r} appears twice; names are unique")
        for key, wanted, known in (
            ("needs", notebook.needs, names),
            ("datasets", notebook.datasets, list(plan.datasets)),
        ):
            what = "notebook" if key == "needs" else "dataset"
            for number, name in enumerate(wanted):
                if name not in known:
                    meant = f"{did_you_mean(name, known)}it has {', '.join(known) or 'none'}"
                    yield Fault((*at, key, number), f"unknown {what} {name!r} ({meant})")


def _dataset_paths(plan: Plan) -> Iterator[Fault]:
    taken: dict[PurePosixPath, str] = {}
    for name, dataset in plan.datasets.items():
        path = PurePosixPath(dataset.path)
        if path in taken:
            yield Fault(("datasets", name, "path"), f"{dataset.path!r} is also the path of {taken[path]!r}")
        taken[path] = name


def _order(plan: Plan) -> Iterator[Fault]:
    names = [notebook.name for notebook in plan.notebooks]
    try:
        graphlib.TopologicalSorter({notebook.name: notebook.needs for notebook in plan.notebooks}).prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]
        at = ("notebooks", names.index(circle[0]), "needs")
        yield Fault(at, f"circular needs: {' -> '.join(circle)}; remove one of them")
        return
    for position, notebook in enumerate(plan.notebooks):
        for number, need in enumerate(notebook.needs):
            if names.index(need) > position:
                why = "a plan is run from top to bottom; move it before this notebook"
                yield Fault(("notebooks", position, "needs", number), f"{need!r} comes later in the plan; {why}")
