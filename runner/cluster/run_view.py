# SPDX-License-Identifier: Apache-2.0
"""State of a PipelineRun: one row per task, in the pipeline's order.

Pure: takes the PipelineRun and its TaskRuns and returns a `RunView`, the single source for the table and its JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

State = Literal["waiting", "running", "done", "failed", "skipped", "cancelled", "timed-out"]
_CANCELLED = {"TaskRunCancelled", "Cancelled", "CancelledRunFinally", "PipelineRunStopping"}
_NO_ROOM = "ExceededNodeResources"
"""Tekton's reason while other Pods use the requested resources; the Pod may start once they end."""
_TIMED_OUT = {"TaskRunTimeout", "PipelineRunTimeout"}
_POD = re.compile(r'pod status "(?P<condition>\w+)":"(?P<value>\w+)"(?:; message: "(?P<message>.*)")?')
_POD_WORDS = {
    "PodScheduled": "waits for a node",
    "Initialized": "initializing",
    "ContainersReady": "starting containers",
    "Ready": "starting containers",
    "PodReadyToStartContainers": "setting up volume and network",
}
"""State of a Pod whose condition of that name is not true yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task of the pipeline."""

    task: str
    title: str
    notebook: str | None
    state: State
    status: str
    """The runner's own status if available, else Tekton's reason."""
    reason: str
    task_run: str | None = None
    pod: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    wall_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A whole run."""

    name: str
    namespace: str
    pipeline: str
    run_id: str
    ended: bool
    succeeded: bool | None
    """None while running."""
    reason: str
    message: str
    started_at: str | None
    ended_at: str | None
    tasks: tuple[TaskView, ...]


def view(run: Mapping[str, Any], task_runs: Sequence[Mapping[str, Any]]) -> RunView:
    """Return the state of a run."""
    meta, status = run.get("metadata") or {}, run.get("status") or {}
    spec = status.get("pipelineSpec") or (run.get("spec") or {}).get("pipelineSpec") or {}
    by_task = {(one["metadata"].get("labels") or {}).get("tekton.dev/pipelineTask"): one for one in task_runs}
    skipped = {str(one.get("name")): one for one in status.get("skippedTasks") or ()}
    condition = _condition(run)
    ended = condition.get("status") in {"True", "False"}
    tasks = [*(spec.get("tasks") or ()), *(spec.get("finally") or ())]
    return RunView(
        name=str(meta.get("name", "")),
        namespace=str(meta.get("namespace", "")),
        pipeline=str(((run.get("spec") or {}).get("pipelineRef") or {}).get("name") or "embedded"),
        run_id=str(meta.get("uid", "")),
        ended=ended,
        succeeded=condition.get("status") == "True" if ended else None,
        reason=str(condition.get("reason") or "Pending"),
        message=_line(condition.get("message")),
        started_at=status.get("startTime"),
        ended_at=status.get("completionTime"),
        tasks=tuple(
            _task(
                task,
                by_task.get(str(task.get("name"))),
                skipped.get(str(task.get("name"))),
                over=ended,
                run_timed_out=condition.get("reason") in _TIMED_OUT,
            )
            for task in tasks
        ),
    )


def _task(
    task: Mapping[str, Any],
    task_run: Mapping[str, Any] | None,
    skipped: Mapping[str, Any] | None,
    *,
    over: bool,
    run_timed_out: bool,
) -> TaskView:
    name = str(task.get("name"))
    title = str(task.get("displayName") or name)
    values = {str(one.get("name")): one.get("value") for one in task.get("params") or ()}
    notebook = values.get("notebook-name")
    notebook = notebook if isinstance(notebook, str) else None
    if task_run is None:
        state: State = "skipped" if skipped else ("cancelled" if over else "waiting")
        why = _skip_reason(skipped, values) if skipped else _waits_for(task, over=over)
        return TaskView(task=name, title=title, notebook=notebook, state=state, status=state, reason=why)
    condition, status = _condition(task_run), task_run.get("status") or {}
    results = {str(one.get("name")): one.get("value") for one in status.get("results") or ()}
    state = _state(condition)
    if state == "cancelled" and run_timed_out:  # Tekton cancels the remaining tasks of a run that times out
        state = "timed-out"
    return TaskView(
        task=name,
        title=title,
        notebook=notebook,
        state=state,
        status=str(results.get("status") or results.get("verdict") or _word(state, condition)),
        reason=_line(results.get("reason") or results.get("counts") or _why(state, condition)),
        task_run=str((task_run.get("metadata") or {}).get("name")),
        pod=status.get("podName") or None,
        started_at=_started(status),
        ended_at=status.get("completionTime"),
        wall_seconds=_number(results.get("wall-seconds")),
    )


def _skip_reason(skipped: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    reason = _line(skipped.get("reason"))
    if not reason.startswith("When Expressions"):
        return reason
    if "min-gpu-memory-gb" in values:  # only the second try on a larger card has it
        return "it would fail again, or no node has a GPU that large"
    return "no node can host it; see its record"


def _waits_for(task: Mapping[str, Any], *, over: bool) -> str:
    after = ", ".join(str(name) for name in task.get("runAfter") or ())
    if over:
        return "the run ended first"
    return f"after {after}" if after else "not started yet"


def _state(condition: Mapping[str, Any]) -> State:
    status, reason = condition.get("status"), condition.get("reason")
    if status == "True":
        return "done"
    if status == "False":
        return "cancelled" if reason in _CANCELLED else "timed-out" if reason in _TIMED_OUT else "failed"
    return "running" if reason == "Running" else "waiting"


def _word(state: State, condition: Mapping[str, Any]) -> str:
    words = {"done": "succeeded", "cancelled": "cancelled", "timed-out": "timed-out"}
    reason = str(condition.get("reason") or state)
    return words.get(state) or ("Pending" if reason == _NO_ROOM else reason)


def _why(state: State, condition: Mapping[str, Any]) -> str:
    message = str(condition.get("message") or "")
    if condition.get("reason") == _NO_ROOM:
        return "waits for a node: no suitable one has enough free resources"
    pod = _POD.search(message[:4000])
    if state == "waiting" and pod and pod["condition"] in _POD_WORDS and pod["value"] != "True":
        why = (pod["message"] or "").removesuffix(" preemption: not eligible due to preemptionPolicy=Never.")
        return f"{_POD_WORDS[pod['condition']]}{f': {why}' if why else ''}"
    return "" if state in {"done", "running"} or message == "Pending" else message


def _started(status: Mapping[str, Any]) -> str | None:
    """Return when the first step started; the TaskRun's own start includes the wait for a node."""
    starts = (
        (step.get("running") or step.get("terminated") or {}).get("startedAt") for step in status.get("steps") or ()
    )
    return min(filter(None, starts), default=None)


def _condition(document: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = (document.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == "Succeeded"), {})


def _line(text: Any) -> str:
    """Return text from the cluster on one line, without control characters that could affect a terminal."""
    joined = " ".join(str(text or "").split())
    return "".join(c for c in joined if c.isprintable())[:400]


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Return the seconds between two Kubernetes timestamps, or until now."""
    if not start:
        return None
    try:
        begin = datetime.fromisoformat(start)
        until = datetime.fromisoformat(end) if end else datetime.now(UTC)
    except ValueError:
        return None
    return max(0.0, (until - begin).total_seconds())
