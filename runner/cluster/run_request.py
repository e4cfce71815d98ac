# SPDX-License-Identifier: Apache-2.0
"""Which run is wanted: one of those in the repository, a file, or one rendered from a plan.

What comes out is a PipelineRun that nothing changes any more once it is created: the image of the installation,
and the plan in a ConfigMap that is named after its content, immutable, and goes with the run.
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
from runner.cluster.helper_pod import claim_of
from runner.cluster.kubectl import Kubectl, MissingError
from runner.cluster.part import notebook_of, notebooks_from, part
from runner.cluster.run_checks import is_true, params_of
from runner.cluster.runs import prepared, task_runs
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
    """What differs from the run as it is written; None leaves it."""

    storage: str | None = None
    storage_class: str | None = None
    access_mode: str | None = None
    gpu_resource: str | None = None
    claim: str | None = None
    """A volume claim that is there already, instead of a volume of the run's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user asked for."""

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
    """A PipelineRun, and the objects that have to be there before it."""

    run: Document
    before: tuple[Document, ...]
    shared: tuple[tuple[str, str], ...]
    """Kind and name of what is kept as long as this run is."""
    spec: Document
    """Of its Pipeline."""
    plan: Plan | None = None


def request(kubectl: Kubectl, wanted: Wanted) -> Request:
    """Return what to create.

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
        raise MissingError("nothing is installed in this namespace", hint="`install` puts tasks and pipelines there")
    run, pipeline = by_kind["PipelineRun"], by_kind.get("Pipeline")
    if pipeline is not None:
        if _default(pipeline, "image") == IMAGE and (image := _default(task, "image")):
            pipeline = install.fitted(pipeline, "", image)
        spec = pipeline["spec"]
    elif (spec := run["spec"].get("pipelineSpec")) is None:
        name = str(run["spec"]["pipelineRef"].get("name"))
        installed = kubectl.find("get", "pipelines.tekton.dev", name)
        if installed is None:
            raise MissingError(f"the pipeline {name} is not in this namespace", hint="`install` puts it there")
        spec = installed["spec"]
    check_params(spec, wanted.params)
    run = prepared(fitted(run, wanted.fit), wanted.params)
    held = dict(wanted.params).get(names.ON_FAILURE)
    if held and wanted.plan is None:  # else its timeouts count it already
        run = held_longer(run, held, [str(task["name"]) for task in spec["tasks"] if notebook_of(task)])
    chosen = notebooks_from(spec, wanted.only, wanted.from_)
    if chosen is not None:
        spec = part(spec, chosen)
        run = _only_known(run, spec)
    if pipeline is not None or chosen is not None:
        # As a part of the run it is nobody's but the run's: no other plan of that name can replace it.
        run["spec"] = {key: value for key, value in run["spec"].items() if key != "pipelineRef"}
        run["spec"]["pipelineSpec"] = spec
    config_map, run, plan = _pinned(kubectl, by_kind.get("ConfigMap"), run, spec)
    others = [one for one in documents if one.get("kind") not in {"ConfigMap", "Pipeline", "PipelineRun"}]
    before = [*others, config_map] if config_map else others
    shared = [("configmap", str(config_map["metadata"]["name"]))] if config_map else []
    return Request(run, tuple(before), tuple(shared), spec, plan)


def create(kubectl: Kubectl, wanted: Request, *, dry_run: bool = False) -> str:
    """Create a run with what it needs and return its name; a dry run asks the server whether it would take it.

    What it shares with other runs goes with the last of them.

    Raises
    ------
    ClusterError
        It was refused.
    """
    if wanted.before:
        install.apply(kubectl, wanted.before, dry_run=dry_run)
    extra = ["--dry-run=server"] if dry_run else []
    made = kubectl.json("create", "-f", "-", *extra, stdin=json.dumps(wanted.run))["metadata"]
    for kind, name in () if dry_run else wanted.shared:
        kubectl.run("patch", kind, name, "-p", json.dumps(owner_patch(made)))
    return str(made["name"])


def owner_patch(made: Mapping[str, Any]) -> Document:
    """Return the patch that lets an object go with the last of the runs that share it."""
    owner = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": made["name"], "uid": made.get("uid")}
    return {"metadata": {"ownerReferences": [owner]}}


def rerun(kubectl: Kubectl, run: Mapping[str, Any], now: RunView, notebooks: Sequence[str], fit: Fit) -> Request:
    """Return a run that repeats notebooks of an ended one: on its volume, under its id, with one report over all.

    Raises
    ------
    UsageError
        The run is under way, has no such notebook, or none of them failed.
    NotFoundError
        Its volume is gone.
    """
    if not now.ended:
        raise UsageError(f"{now.name} is still under way", hint="wait for its end, or `cancel` it")
    spec = run["spec"].get("pipelineSpec") or (run.get("status") or {}).get("pipelineSpec")
    if not spec:
        raise UsageError(f"{now.name} never started: {now.message or now.reason}", hint="start a new one with `run`")
    states = {task.notebook or task.task: task.state for task in now.tasks}
    last = {task.notebook: task.state for task in now.tasks if task.notebook and task.state != "skipped"}
    chosen = notebooks_from(spec, notebooks, None) or [name for name, state in last.items() if state != "done"]
    if not chosen:
        raise UsageError(f"no notebook of {now.name} failed", hint="name those to repeat")
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
    """Check names and values of parameters: Tekton ignores a name it does not know, without a word.

    Raises
    ------
    UsageError
        The pipeline has no such parameter, or its value is not of its kind.
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
                raise UsageError(f"{value!r} is not a valid value of {name}", hint="say true or false") from error


def _pinned(
    kubectl: Kubectl, local: Document | None, run: Document, spec: Mapping[str, Any]
) -> tuple[Document | None, Document, Plan | None]:
    """Return the plan's ConfigMap as nobody can change it, the run that names it, and the plan if it is known here."""
    name = params_of(run, spec).get("plan-configmap")
    if not name:  # it lies beside the notebooks
        is_demo = any(task["taskRef"].get("name") == names.DEMO_TASK for task in spec["tasks"])
        return None, run, load(Path(demo.__file__).parent / "plan.yaml") if is_demo else None
    config_map = local if local and local["metadata"]["name"] == name else kubectl.find("get", "configmap", str(name))
    if config_map is None:
        raise MissingError(f"there is no ConfigMap {name} with the plan", hint="`install` puts it there")
    text = str((config_map.get("data") or {}).get(names.PLAN_KEY, ""))
    plan = parse(text, f"ConfigMap {name} data[{names.PLAN_KEY!r}]")
    fixed = plan_config_map(plan, text)
    return fixed, prepared(run, [("plan-configmap", fixed["metadata"]["name"])]), plan


def _default(document: Mapping[str, Any], param: str) -> Any:
    return next((one.get("default") for one in document["spec"].get("params") or () if one["name"] == param), None)


def _only_known(run: Document, spec: Mapping[str, Any]) -> Document:
    """Return a run whose specs are those of the pipeline's tasks."""
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
            hint=f"use complete, preprocessing, parallel, demo or a file; looked in {candidates[0].parent}",
        )
    return run_documents(found)


def run_documents(path: Path) -> list[Document]:
    """Return the documents of a file with one PipelineRun and, as `plan render` prints them, what it needs.

    Raises
    ------
    UsageError
        It is not valid YAML, or holds no PipelineRun or several.
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
            hint="a plan is run with --plan; `runner plan render` prints a run",
        )
    return documents


def _from_plan(wanted: Wanted, path: Path) -> list[Document]:
    from runner.plan.model import load
    from runner.tekton import pipeline, pipelinerun

    plan = load(path)
    if not wanted.repository_url and "repository-url" not in dict(wanted.params):
        raise UsageError("where are the notebooks of this plan?", hint="give --repository-url")
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
    """Return a copy of a PipelineRun for this cluster."""
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
    """Return a part of a run with requests and node labels of another GPU resource.

    The plain GPU stays in requests with 0: left out, the Task's own 1 would be merged in.
    """
    if isinstance(value, list):
        return [_renamed(item, resource) for item in value]
    if not isinstance(value, dict):
        return f"{resource}.memory" if value == f"{names.GPU_RESOURCE}.memory" else value
    found = {key: _renamed(item, resource) for key, item in value.items()}
    if names.GPU_RESOURCE in found:
        found = {**found, resource: found[names.GPU_RESOURCE], names.GPU_RESOURCE: "0"}
    return found
