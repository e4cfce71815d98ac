# SPDX-License-Identifier: Apache-2.0
"""Part of a pipeline: selected notebooks with their prerequisites, for a first run or a rerun.

Pure: takes the spec of a Pipeline and returns a smaller one.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from runner.core.errors import UsageError, did_you_mean
from runner.tekton import names
from runner.tekton.pipeline import RUN_ID

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Document = dict[str, Any]
_STATUS = re.compile(r"\$\(tasks\.([\w-]+)\.status\)")


def notebook_of(task: Mapping[str, Any]) -> str | None:
    """Return the notebook that a pipeline task runs, or whose second try it checks."""
    values = {one.get("name"): one.get("value") for one in task.get("params") or ()}
    name = values.get("notebook-name", values.get("larger-card"))
    return name if isinstance(name, str) else None


def notebooks_from(spec: Mapping[str, Any], only: Sequence[str], from_: str | None) -> list[str] | None:
    """Return the selected notebooks in the pipeline's order, or None for all.

    Raises
    ------
    UsageError
        The pipeline has no such notebook.
    """
    known = list(dict.fromkeys(name for task in spec["tasks"] if (name := notebook_of(task))))
    selected = [*only, *([from_] if from_ else [])]
    for name in selected:
        if name not in known:
            raise UsageError(
                f"the pipeline has no notebook {name!r}",
                hint=f"{did_you_mean(name, known)}it has {', '.join(known)}",
            )
    if not selected:
        return None
    later = known[known.index(from_) :] if from_ else known
    return [name for name in later if not only or name in only]


def part(
    spec: Mapping[str, Any], notebooks: Collection[str], *, run_id: str | None = None, source: bool = True
) -> Document:
    """Return a pipeline with only these notebooks, their datasets, validation and report.

    Parameters
    ----------
    run_id
        Run to repeat, whose report covers the whole plan. None: a new run, whose needs may be satisfied by any
        run and whose report covers this part.
    source
        Whether to put the notebooks on the volume; they may already be there.
    """
    found = copy.deepcopy(dict(spec))
    tasks = {str(one["name"]): one for one in found["tasks"]}
    kept = {name for name, task in tasks.items() if notebook_of(task) in notebooks}
    data = {name for name, task in tasks.items() if task["taskRef"].get("name") == names.DOWNLOAD_TASK}
    kept |= data & {before for name in kept for before in tasks[name].get("runAfter") or ()}
    left_out = set() if source else {names.CLONE_TASK, names.DEMO_TASK}
    kept |= {
        name
        for name, task in tasks.items()
        if name not in data and notebook_of(task) is None and task["taskRef"].get("name") not in left_out
    }
    found["tasks"] = [task for name, task in tasks.items() if name in kept]
    for task in found["tasks"]:
        after = _nearest(tasks, task.pop("runAfter", None) or (), kept)
        if after:
            task["runAfter"] = after
        if task["taskRef"].get("name") == names.EXECUTOR_TASK and run_id is None:
            set_param(task, "needs-of-any-run", "true")
    only = [f"--only={name}" for name in notebooks]
    for task in [*found["tasks"], *(found.get("finally") or ())]:
        kind = task["taskRef"].get("name")
        if kind == names.VALIDATION_TASK or (kind == names.REPORT_TASK and run_id is None):
            set_param(task, "only", only)
        for one in task.get("params") or ():
            if one["name"] == "task-statuses":
                statuses = str(one["value"]).split()
                one["value"] = " ".join(word for word in statuses if set(_STATUS.findall(word)) & kept)
            elif run_id is not None and one["value"] == RUN_ID:
                one["value"] = run_id
    return found


def set_param(task: Document, name: str, value: Any) -> None:
    """Set a parameter of a pipeline task."""
    task["params"] = [one for one in task.get("params") or () if one["name"] != name] + [{"name": name, "value": value}]


def _nearest(tasks: Mapping[str, Document], after: Sequence[str], kept: Collection[str]) -> list[str]:
    """Return the tasks that a task waits for, with omitted ones replaced by their own predecessors."""
    found: list[str] = []
    waiting = list(after)
    while waiting:
        name = waiting.pop(0)
        if name in kept:
            found.append(name)
        else:
            waiting += tasks[name].get("runAfter") or ()
    return list(dict.fromkeys(found))
