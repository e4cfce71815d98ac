# SPDX-License-Identifier: Apache-2.0
"""Renders a plan's PipelineRun: sizes, placement and timeouts of every task, as literals.

Tekton does not substitute parameters in resources and timeouts, so these numbers, from `runner.tekton.sizes`, cannot
be part of the Pipeline.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.core.errors import PlanError
from runner.core.units import duration_seconds, hold_seconds
from runner.tekton import names
from runner.tekton.sizes import Needs, go_duration, longest, needs, notebook_timeout, on_larger_card, task_timeout
from runner.tekton.task_order import downloads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.plan.model import Notebook, Plan
    from runner.tekton.pipeline import Document, Shape

USER = 1001
"""The image's user; any other works too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunShape:
    """Settings of a run."""

    generate_name: str
    storage: str | None = None
    """Size of the volume; None: computed from the plan, see `storage`."""
    storage_class: str | None = None
    access_mode: str = "ReadWriteOnce"
    gpu_resource: str = names.GPU_RESOURCE

    service_accounts: bool = True
    """Use the ServiceAccounts of tekton/configs, or the namespace's default one."""
    params: tuple[tuple[str, str], ...] = ()


def pipeline_run(plan: Plan, shape: Shape, run: RunShape) -> Document:
    """Return the PipelineRun for `render.pipeline(plan, shape)`."""
    notebooks = shape.select(plan)
    specs = _task_specs(notebooks, shape, run)
    report = task_timeout("report")
    tasks = sum(seconds * (1 + shape.retries if "stepSpecs" in spec else 1) for spec, seconds in specs)
    return {
        "apiVersion": "tekton.dev/v1",
        "kind": "PipelineRun",
        "metadata": {
            "generateName": run.generate_name,
            "labels": names.labels(run.generate_name.rstrip("-"), "run")
            | {names.PLAN_LABEL: names.plan_label(plan.name)},
        },
        "spec": {
            "pipelineRef": {"name": shape.name},
            **({"params": [{"name": key, "value": value} for key, value in run.params]} if run.params else {}),
            "workspaces": [{"name": names.WORKSPACE, "volumeClaimTemplate": _claim(plan, run)}],
            "timeouts": {
                "pipeline": go_duration(tasks + report),
                "tasks": go_duration(tasks),
                "finally": go_duration(report),
            },
            "taskRunTemplate": {
                **({"serviceAccountName": names.RUN_ACCOUNT} if run.service_accounts else {}),
                "podTemplate": _pod_template(notebooks, run),
            },
            "taskRunSpecs": [
                *(spec for spec, _ in specs),
                {"pipelineTaskName": "report", "timeout": go_duration(report)},
            ],
        },
    }


def held_longer(run: Document, on_failure: str, notebooks: Sequence[str]) -> Document:
    """Return a run with timeouts extended by the hold of each of its notebooks' tasks.

    In any order: all others may be waiting for the GPU of a held notebook.
    """
    longer = hold_seconds(on_failure) * len(notebooks)
    found = copy.deepcopy(run)
    specs = [one for one in found["spec"].get("taskRunSpecs") or () if one["pipelineTaskName"] in notebooks]
    places = [(one, "timeout") for one in specs]
    places += [(found["spec"].get("timeouts") or {}, key) for key in ("pipeline", "tasks")]
    for place, key in places:
        if key in place:
            place[key] = go_duration(duration_seconds(place[key]) + longer)
    return found


def tolerated(run: Mapping[str, Any]) -> list[str]:
    """Return the taint keys that a run's Pods tolerate."""
    template = (run["spec"].get("taskRunTemplate") or {}).get("podTemplate") or {}
    return [str(one["key"]) for one in template.get("tolerations") or () if "key" in one]


def storage(plan: Plan) -> str:
    """Return the size of the volume: twice the plan's data, or 500Gi if a dataset's size is unknown."""
    sizes = [dataset.bytes for dataset in plan.datasets.values()]
    if None in sizes:
        return "500Gi"
    named = sum(size or 0 for size in sizes) / 1e9 + sum(one.requires.disk_gb or 0 for one in plan.notebooks)
    return f"{math.ceil(10 + 2 * named)}Gi"


def _claim(plan: Plan, run: RunShape) -> Document:
    size = run.storage or storage(plan)
    spec: Document = {"accessModes": [run.access_mode], "resources": {"requests": {"storage": size}}}
    if run.storage_class:
        spec["storageClassName"] = run.storage_class
    return {"spec": spec}


def _task_specs(notebooks: Sequence[Notebook], shape: Shape, run: RunShape) -> list[tuple[Document, float]]:
    """Return each taskRunSpec with its timeout in seconds."""
    first = "demo-notebooks" if shape.source == "demo" else "clone"
    found: list[tuple[Document, float]] = []

    def add(name: str, seconds: float, **more: Any) -> None:
        found.append(({"pipelineTaskName": name, "timeout": go_duration(seconds), **more}, seconds))

    add(first, task_timeout("clone"))
    account = {"serviceAccountName": names.VALIDATION_ACCOUNT} if run.service_accounts else {}
    add("validate", task_timeout("validate"), **account)
    for group in downloads(notebooks, shape.order).all:
        add(group.task, task_timeout("download"))
    tasks = names.task_names("notebook", [notebook.name for notebook in notebooks])
    shared = _least_affinity(notebooks, run)
    seconds = {notebook.name: longest(notebook, dict(run.params).get(names.ON_FAILURE, "")) for notebook in notebooks}

    def add_notebook(task: str, notebook: Notebook) -> None:
        request = needs(notebook)
        # In the parallel order all others may run first if they share one GPU.
        own = seconds[notebook.name]
        others = sum(seconds.values()) - own if shape.order == "parallel" else 0.0
        resources = request.resources(run.gpu_resource)
        affinity = _affinity(request.min_gpu_memory_mib, run) if request.min_gpu_memory_mib is not None else None
        template = {"podTemplate": {"affinity": affinity}} if affinity and affinity != shared else {}
        sizes = {"requests": resources, "limits": dict(resources)}
        steps = [{"name": names.GPU_STEP, "computeResources": sizes}]
        add(task, notebook_timeout(own, others), stepSpecs=steps, **template)

    for notebook in notebooks:
        add_notebook(tasks[notebook.name], notebook)
        if larger := on_larger_card(notebook):
            if run.access_mode == "ReadWriteOnce":
                raise PlanError(
                    f"{notebook.name}: retry_larger needs a volume of access mode ReadWriteMany",
                    hint="a ReadWriteOnce volume ties all Pods to one node and its GPUs: give --access-mode "
                    "ReadWriteMany, or remove retry_larger",
                )
            ask, again = names.larger_tasks(tasks[notebook.name])
            add(ask, task_timeout("validate"), **account)
            add_notebook(again, larger)
    return found


def _pod_template(notebooks: Sequence[Notebook], run: RunShape) -> Document:
    """Return the Pod template of all tasks, the base of each task's own.

    A ReadWriteOnce volume ties all Pods to one node, which must have the GPU that the required notebooks need, and
    preferably one that also suits the optional ones.
    """
    found: Document = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    }
    gpu = [needs(notebook) for notebook in notebooks if needs(notebook).gpus]
    if not gpu:
        return found
    found["tolerations"] = [{"key": names.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}]
    if run.access_mode != "ReadWriteOnce":
        return found
    affinity = dict((_least_affinity(notebooks, run) or {}).get("nodeAffinity", {}))
    best = _largest(gpu)
    if best and best != _least(notebooks):
        term = _terms(best, run)["nodeSelectorTerms"][0]
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [{"weight": 100, "preference": term}]
    if affinity:
        found["affinity"] = {"nodeAffinity": affinity}
    return found


def _least(notebooks: Sequence[Notebook]) -> int | None:
    """Return the GPU memory in MiB needed by the required notebooks."""
    return _largest([needs(notebook) for notebook in notebooks if needs(notebook).gpus and not notebook.optional])


def _least_affinity(notebooks: Sequence[Notebook], run: RunShape) -> Document | None:
    """Return the affinity of all Pods of a ReadWriteOnce run, or None."""
    least = _least(notebooks)
    return _affinity(least, run) if least and run.access_mode == "ReadWriteOnce" else None


def _affinity(min_mib: int, run: RunShape) -> Document:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": _terms(min_mib, run)}}


def _largest(requests: Sequence[Needs]) -> int | None:
    return max((one.min_gpu_memory_mib for one in requests if one.min_gpu_memory_mib is not None), default=None)


def _terms(min_mib: int, run: RunShape) -> Document:
    """Return the node selector for GPUs of at least that memory; `Gt` is strict."""
    expression = {"key": f"{run.gpu_resource}.memory", "operator": "Gt", "values": [str(min_mib - 1)]}
    return {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
