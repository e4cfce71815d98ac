# SPDX-License-Identifier: Apache-2.0
"""The PipelineRun to create: one from the repository, from a file, or rendered from a plan.

Once created it is fully pinned: it uses the installed image, and a plan in an immutable ConfigMap that is named after
its content and deleted with the run.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from runner import demo
from runner.cluster import install
from runner.cluster.kubectl import Kubectl, MissingError
from runner.cluster.part import notebook_of, notebooks_from, part
from runner.cluster.run_checks import is_true, params_of
from runner.cluster.runs import prepared, task_runs
from runner.cluster.volume import claim_of
from runner.core import safe_yaml
from runner.core.errors import UsageError, did_you_mean
from runner.core.units import hold_seconds
from runner.plan.model import Plan, load, parse
from runner.tekton import names
from runner.tekton.pipeline import IMAGE, plan_config_map
from runner.tekton.pipelinerun import held_longer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.cluster.run_view import RunView

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Changes to the run's manifest; None keeps its value."""

    storage: str | None = None
    storage_class: str | None = None
    access_mode: str | None = None
    gpu_resource: str | None = None
    claim: str | None = None
    """An existing volume claim, instead of a new volume for the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The user's selection."""

    which: str
    tekton_dir: Path
    plan: Path | None = None
    repository_url: str = ""
    revision: str = ""
    only: tuple[str, ...] = ()
    from_: str | None = None
    params: tuple[tuple[str, str], ...] = ()
    fit: Fit = field(default_factory=Fit)


@dataclass(frozen=True, slots=True)
class Request:
    """A PipelineRun, and the objects to create before it."""

    run: Document
    before: tuple[Document, ...]
    shared: tuple[tuple[str, str], ...]
    """Kind and name of the objects to keep as long as the run exists."""
    spec: Document
    """Spec of its Pipeline."""
    plan: Plan | None = None


def request(kubectl: Kubectl, wanted: Wanted) -> Request:
    """Return the request for the user's selection.

    Raises
    ------
    UsageError
        There is no such run, notebook or parameter.
    MissingError
        Nothing is installed in this namespace.
    """
    documents = _from_file(wanted) if wanted.plan is None else _from_plan(wanted, wanted.plan)
    by_kind = {str(one.get("kind")): one for one in documents}
    task = kubectl.find("get", "tasks.tekton.dev", names.EXECUTOR_TASK)
    if task is None:
        raise MissingError("nothing is installed in this namespace", hint="run `install` first")
    run, pipeline = by_kind["PipelineRun"], by_kind.get("Pipeline")
    if pipeline is not None:
        if _default(pipeline, "image") == IMAGE and (image := _default(task, "image")):
            pipeline = install.fitted(pipeline, "", image)
        spec = pipeline["spec"]
    elif (spec := run["spec"].get("pipelineSpec")) is None:
        name = str(run["spec"]["pipelineRef"].get("name"))
        installed = kubectl.find("get", "pipelines.tekton.dev", name)
        if installed is None:
            raise MissingError(f"the pipeline {name} is not in this namespace", hint="`install` creates it")
        spec = installed["spec"]
    check_params(spec, wanted.params)
    run = prepared(fitted(run, wanted.fit), wanted.params)
    held = dict(wanted.params).get(names.ON_FAILURE)
    if held and wanted.plan is None:  # else its timeouts already include it
        run = held_longer(run, held, [str(task["name"]) for task in spec["tasks"] if notebook_of(task)])
    chosen = notebooks_from(spec, wanted.only, wanted.from_)
    if chosen is not None:
        spec = part(spec, chosen)
        run = _only_known(run, spec)
    if pipeline is not None or chosen is not None:
        # Embedded in the run, so that no other plan of that name can replace it.
        run["spec"] = {key: value for key, value in run["spec"].items() if key != "pipelineRef"}
        run["spec"]["pipelineSpec"] = spec
    config_map, run, plan = _pinned(kubectl, by_kind.get("ConfigMap"), run, spec)
    others = [one for one in documents if one.get("kind") not in {"ConfigMap", "Pipeline", "PipelineRun"}]
    before = [*others, config_map] if config_map else others
    shared = [("configmap", str(config_map["metadata"]["name"]))] if config_map else []
    return Request(run, tuple(before), tuple(shared), spec, plan)


def create(kubectl: Kubectl, wanted: Request, *, dry_run: bool = False) -> str:
    """Create a run with its prerequisites and return its name; a dry run has the server validate it only.

    Objects shared with other runs are deleted with the last of them.

    Raises
    ------
    ClusterError
        The cluster refused it.
    """
    if wanted.before:
        install.apply(kubectl, wanted.before, dry_run=dry_run)
    extra = ["--dry-run=server"] if dry_run else []
    made = kubectl.json("create", "-f", "-", *extra, stdin=json.dumps(wanted.run))["metadata"]
    for kind, name in () if dry_run else wanted.shared:
        kubectl.run("patch", kind, name, "-p", json.dumps(owner_patch(made)))
    return str(made["name"])


def owner_patch(made: Mapping[str, Any]) -> Document:
    """Return the patch that makes a run an owner of an object, which is deleted with its last owner."""
    owner = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": made["name"], "uid": made.get("uid")}
    return {"metadata": {"ownerReferences": [owner]}}


def rerun(kubectl: Kubectl, run: Mapping[str, Any], now: RunView, notebooks: Sequence[str], fit: Fit) -> Request:
    """Return a run that repeats notebooks of a finished one: on its volume, under its ID, with one report on all.

    Raises
    ------
    UsageError
        The run is still running, has no such notebook, or no notebook failed.
    NotFoundError
        Its volume no longer exists.
    """
    if not now.ended:
        raise UsageError(f"{now.name} is still running", hint="wait for it to end, or `cancel` it")
    spec = run["spec"].get("pipelineSpec") or (run.get("status") or {}).get("pipelineSpec")
    if not spec:
        raise UsageError(f"{now.name} never started: {now.message or now.reason}", hint="start a new one with `run`")
    states = {task.notebook or task.task: task.state for task in now.tasks}
    last = {task.notebook: task.state for task in now.tasks if task.notebook and task.state != "skipped"}
    chosen = notebooks_from(spec, notebooks, None) or [name for name, state in last.items() if state != "done"]
    if not chosen:
        raise UsageError(f"no notebook of {now.name} failed", hint="give the notebooks to repeat")
    claim, folder = claim_of(run, task_runs(kubectl, now.name))
    first = str(spec["tasks"][0]["name"])
    spec = part(spec, chosen, run_id=now.run_id, source=states.get(first) != "done")
    document = {
        "apiVersion": run["apiVersion"],
        "kind": run["kind"],
        "metadata": {"generateName": f"{now.name[:40]}-rerun-", "labels": run["metadata"].get("labels") or {}},
        "spec": {key: value for key, value in run["spec"].items() if key not in {"pipelineRef", "status"}},
    }
    document = _only_known(fitted(prepared(document, ()), fit), spec)
    volume = {"name": names.WORKSPACE, "persistentVolumeClaim": {"claimName": claim}}
    others = [one for one in run["spec"].get("workspaces") or () if one["name"] != names.WORKSPACE]
    document["spec"] |= {
        "pipelineSpec": spec,
        "workspaces": [volume | ({"subPath": folder} if folder else {}), *others],
    }
    shared = [("persistentvolumeclaim", claim)]
    shared += [
        ("configmap", str(one["value"]))
        for one in document["spec"].get("params") or ()
        if one["name"] == "plan-configmap"
    ]
    return Request(document, (), tuple(shared), spec)


def check_params(spec: Mapping[str, Any], given: Sequence[tuple[str, str]]) -> None:
    """Check names and values of parameters: Tekton silently ignores unknown names.

    Raises
    ------
    UsageError
        The pipeline has no such parameter, or the value is invalid.
    """
    known = {str(one["name"]): one.get("default") for one in spec.get("params") or ()}
    for name, value in given:
        if name not in known:
            raise UsageError(
                f"the pipeline has no parameter {name!r}",
                hint=f"{did_you_mean(name, known)}it has {', '.join(known)}",
            )
        if name == names.ON_FAILURE and value:
            hold_seconds(value)
        if known[name] in {"true", "false"}:
            try:
                is_true(value)
            except click.UsageError as error:
                raise UsageError(f"{value!r} is not a valid value of {name}", hint="use true or false") from error


def _pinned(
    kubectl: Kubectl, local: Document | None, run: Document, spec: Mapping[str, Any]
) -> tuple[Document | None, Document, Plan | None]:
    """Return the plan's immutable ConfigMap, the run that refers to it, and the plan if known here."""
    name = params_of(run, spec).get("plan-configmap")
    if not name:  # the plan is beside the notebooks
        is_demo = any(task["taskRef"].get("name") == names.DEMO_TASK for task in spec["tasks"])
        return None, run, load(Path(demo.__file__).parent / "plan.yaml") if is_demo else None
    config_map = local if local and local["metadata"]["name"] == name else kubectl.find("get", "configmap", str(name))
    if config_map is None:
        raise MissingError(f"there is no ConfigMap {name} with the plan", hint="`install` creates it")
    text = str((config_map.get("data") or {}).get(names.PLAN_KEY, ""))
    plan = parse(text, f"ConfigMap {name} data[{names.PLAN_KEY!r}]")
    fixed = plan_config_map(plan, text)
    return fixed, prepared(run, [("plan-configmap", fixed["metadata"]["name"])]), plan


def _default(document: Mapping[str, Any], param: str) -> Any:
    return next((one.get("default") for one in document["spec"].get("params") or () if one["name"] == param), None)


def _only_known(run: Document, spec: Mapping[str, Any]) -> Document:
    """Return a run with the taskRunSpecs of the pipeline's tasks only."""
    tasks = {str(one["name"]) for one in [*spec["tasks"], *(spec.get("finally") or ())]}
    found = copy.deepcopy(run)
    specs = found["spec"].get("taskRunSpecs") or []
    found["spec"]["taskRunSpecs"] = [one for one in specs if one["pipelineTaskName"] in tasks]
    return found


def _from_file(wanted: Wanted) -> list[Document]:
    candidates = [wanted.tekton_dir / "pipelineruns" / wanted.which, Path(wanted.which)]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise UsageError(
            f"there is no run {wanted.which!r}",
            hint=f"use complete, preprocessing, parallel, demo or a file; searched {candidates[0].parent}",
        )
    return run_documents(found)


def run_documents(path: Path) -> list[Document]:
    """Return the documents of a file with one PipelineRun and its prerequisites, such as `plan render` prints.

    Raises
    ------
    UsageError
        It is not valid YAML, or does not contain exactly one PipelineRun.
    """
    try:
        documents = safe_yaml.load_all(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} cannot be read: {' '.join(str(error).split())}", hint="see tekton/pipelineruns"
        ) from error
    kinds = [one.get("kind") if isinstance(one, dict) else type(one).__name__ for one in documents]
    if kinds.count("PipelineRun") != 1 or not all(isinstance(one, dict) for one in documents):
        raise UsageError(
            f"{path} holds {', '.join(map(str, kinds)) or 'nothing'}, not one PipelineRun",
            hint="run a plan with --plan; `runner plan render` prints a run",
        )
    return documents


def _from_plan(wanted: Wanted, path: Path) -> list[Document]:
    from runner.plan.model import load
    from runner.tekton import pipeline, pipelinerun

    plan = load(path)
    if not wanted.repository_url and "repository-url" not in dict(wanted.params):
        raise UsageError("the plan's notebooks have no repository", hint="give --repository-url")
    config_map = plan_config_map(plan, path.read_text(encoding="utf-8"))
    label = names.plan_label(plan.name)
    shape = pipeline.Shape(
        name=f"{label}-workflow",
        plan_config_map=str(config_map["metadata"]["name"]),
        repository_url=wanted.repository_url,
        revision=wanted.revision,
    )
    mode = wanted.fit.access_mode or "ReadWriteOnce"
    run_shape = pipelinerun.RunShape(generate_name=f"{label}-", access_mode=mode, params=wanted.params)
    run = pipelinerun.pipeline_run(plan, shape, run_shape)
    return [config_map, pipeline.pipeline(plan, shape), run]


def fitted(run: Mapping[str, Any], fit: Fit) -> Document:
    """Return a copy of a PipelineRun, adapted to the cluster."""
    found = copy.deepcopy(dict(run))
    spec = found["spec"]
    for workspace in spec.get("workspaces") or ():
        claim = (workspace.get("volumeClaimTemplate") or {}).get("spec")
        if claim is None:
            continue
        if fit.storage:
            claim["resources"]["requests"]["storage"] = fit.storage
        if fit.storage_class:
            claim["storageClassName"] = fit.storage_class
        if fit.access_mode:
            claim["accessModes"] = [fit.access_mode]
        if fit.claim:
            del workspace["volumeClaimTemplate"]
            workspace["persistentVolumeClaim"] = {"claimName": fit.claim}
    if fit.gpu_resource and fit.gpu_resource != names.GPU_RESOURCE:
        found["spec"] = _renamed(spec, fit.gpu_resource)
    return found


def _renamed(value: Any, resource: str) -> Any:
    """Return a part of a run with requests and node labels for another GPU resource.

    The default resource remains with 0: without it, Tekton would merge in the Task's own 1.
    """
    if isinstance(value, list):
        return [_renamed(item, resource) for item in value]
    if not isinstance(value, dict):
        return f"{resource}.memory" if value == f"{names.GPU_RESOURCE}.memory" else value
    found = {key: _renamed(item, resource) for key, item in value.items()}
    if names.GPU_RESOURCE in found:
        found = {**found, resource: found[names.GPU_RESOURCE], names.GPU_RESOURCE: "0"}
    return found
