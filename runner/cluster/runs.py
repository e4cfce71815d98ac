# SPDX-License-Identifier: Apache-2.0
"""PipelineRuns on a cluster: prepare, find, follow, cancel, clean up."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from runner.cluster.kubectl import ClusterError, Kubectl, NotFoundError
from runner.cluster.run_view import RunView, view
from runner.core.errors import NetworkError, UsageError, did_you_mean
from runner.tekton import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OURS = f"{names.PART_OF_LABEL}={names.PART_OF}"
STARTED = f"{OURS},{names.STARTED_BY_LABEL}={names.STARTED_BY}"
_RUNS = "pipelineruns.tekton.dev"
_TASK_RUNS = "taskruns.tekton.dev"
_POLL_SECONDS = 3.0


def prepared(run: Mapping[str, Any], params: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return a PipelineRun with our labels and the given parameters in addition to its own.

    Raises
    ------
    UsageError
        The document is not a PipelineRun.
    """
    if run.get("kind") != "PipelineRun":
        raise UsageError(f"this is a {run.get('kind')}, not a PipelineRun", hint="see tekton/pipelineruns")
    metadata = dict(run["metadata"])
    labels = {**(metadata.get("labels") or {}), names.PART_OF_LABEL: names.PART_OF}
    metadata["labels"] = {**labels, names.STARTED_BY_LABEL: names.STARTED_BY}
    spec = dict(run["spec"])
    values = {one["name"]: one["value"] for one in spec.get("params") or ()} | dict(params)
    if values:
        spec["params"] = [{"name": key, "value": value} for key, value in values.items()]
    return {**run, "metadata": metadata, "spec": spec}


def find(kubectl: Kubectl, name: str | None) -> dict[str, Any]:
    """Return a PipelineRun by name, or our newest one.

    Raises
    ------
    NotFoundError
        There is no such run.
    """
    if name:
        return kubectl.json("get", _RUNS, name)
    runs = newest_first(kubectl.items("get", _RUNS, "-l", OURS))
    if not runs:
        raise NotFoundError("there is no run in this namespace", hint="start one with `run`, or give --namespace")
    return runs[0]


def look(kubectl: Kubectl, name: str | None) -> RunView:
    """Return the state of a run."""
    run = find(kubectl, name)
    return view(run, task_runs(kubectl, str(run["metadata"]["name"])))


def task_runs(kubectl: Kubectl, name: str) -> list[dict[str, Any]]:
    """Return the TaskRuns of a run."""
    return kubectl.items("get", _TASK_RUNS, "-l", f"tekton.dev/pipelineRun={name}")


def image_of(run: Mapping[str, Any]) -> str:
    """Return the image of a run: its parameter, else its pipeline's default."""
    spec = (run.get("status") or {}).get("pipelineSpec") or {}
    defaults = {one["name"]: one.get("default") for one in spec.get("params") or ()}
    given = {one["name"]: one.get("value") for one in (run.get("spec") or {}).get("params") or ()}
    image = given.get("image") or defaults.get("image")
    if not isinstance(image, str):
        raise ClusterError("the run has no parameter `image`", hint="give --image")
    return image


def follow(kubectl: Kubectl, name: str, show: Callable[[RunView | None, str], None]) -> RunView:
    """Show a run until it ends; reconnect if the connection drops.

    Parameters
    ----------
    show
        Called with each view, or with None and the reason while disconnected.
    """
    pause = _POLL_SECONDS
    while True:
        try:
            now = look(kubectl, name)
        except NetworkError as error:
            show(None, str(error))
            pause = min(pause * 2, 30.0)
        else:
            show(now, "")
            pause = _POLL_SECONDS
            if now.ended:
                return now
        time.sleep(pause)


def cancel(kubectl: Kubectl, name: str) -> None:
    """Cancel a run, but let its report be written."""
    patch = json.dumps({"spec": {"status": "CancelledRunFinally"}})
    kubectl.run("patch", _RUNS, name, "--type=merge", "-p", patch)


def newest_first(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return runs by creation time, newest first."""
    return sorted(
        (dict(run) for run in runs), key=lambda run: str(run["metadata"].get("creationTimestamp")), reverse=True
    )


def superseded(runs: Sequence[Mapping[str, Any]], keep: int) -> list[str]:
    """Return the names of all finished runs but the newest ``keep``; running ones are never included."""
    ended = [run for run in newest_first(runs) if (run.get("status") or {}).get("completionTime")]
    mine = [run for run in ended if (run["metadata"].get("labels") or {}).get(names.STARTED_BY_LABEL)]
    return [str(run["metadata"]["name"]) for run in mine[keep:]]


def clean_up(kubectl: Kubectl, keep: int, *, dry_run: bool = False) -> list[str]:
    """Delete the superseded runs with their volumes, and return their names."""
    found = superseded(kubectl.items("get", _RUNS, "-l", STARTED), keep)
    if found and not dry_run:
        kubectl.run("delete", _RUNS, *found, "--wait=false")
    return found


def task_of(run: RunView, wanted: str) -> str:
    """Return the Pod of a notebook or task of a run.

    Raises
    ------
    NotFoundError
        There is no such notebook, or it has no Pod.
    """
    known = [task.notebook or task.task for task in run.tasks]
    found = [task for task in run.tasks if wanted in {task.task, task.notebook}]
    found = found or [task for task in run.tasks if (task.notebook or "").startswith(wanted)]
    if len(found) != 1:
        problem = "has more than one" if found else "has no"
        listed = [str(task.notebook) for task in found] or known
        hint = f"{did_you_mean(wanted, known)}it has {', '.join(listed)}"
        raise ClusterError(f"the run {run.name} {problem} {wanted!r}", hint=hint)
    if found[0].pod is None:
        state = f"{found[0].state}, {found[0].reason}"
        raise NotFoundError(f"{wanted} has no Pod: {state}", hint="`status` shows the whole run")
    return found[0].pod
