# SPDX-License-Identifier: Apache-2.0
"""Which run is wanted: one of those in the repository, a file, or one rendered from a plan."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from runner.cluster import install
from runner.core import safe_yaml
from runner.core.errors import UsageError
from runner.tekton.names import GPU_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.cluster.kubectl import Kubectl


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What differs from the run as it is written; None leaves it."""

    storage: str | None = None
    storage_class: str | None = None
    access_mode: str | None = None
    gpu_resource: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user asked for."""

    which: str
    tekton_dir: Path
    plan: Path | None = None
    repository_url: str = ""
    revision: str = ""
    params: tuple[tuple[str, str], ...] = ()
    fit: Fit = field(default_factory=Fit)


def documents(wanted: Wanted) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return what has to be applied first, and the PipelineRun to create.

    Raises
    ------
    UsageError
        There is no such run.
    """
    before, run = ([], _from_file(wanted)) if wanted.plan is None else _from_plan(wanted, wanted.plan)
    return before, fitted(run, wanted.fit)


def _from_file(wanted: Wanted) -> dict[str, Any]:
    candidates = [wanted.tekton_dir / "pipelineruns" / wanted.which, Path(wanted.which)]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise UsageError(
            f"there is no run {wanted.which!r}",
            hint=f"use complete, preprocessing, parallel, demo or a file; looked in {candidates[0].parent}",
        )
    document = yaml.safe_load(found.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise UsageError(f"{found} holds no PipelineRun", hint="give a file with one PipelineRun")
    return document


def _from_plan(wanted: Wanted, path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from runner.plan import load
    from runner.tekton import pipeline, pipelinerun
    from runner.tekton.pipeline import Shape

    plan = load(path)
    label = pipelinerun.plan_label(plan)
    shape = Shape(
        name=f"{label}-workflow",
        plan_config_map=f"{label}-plan",
        repository_url=wanted.repository_url,
        revision=wanted.revision,
    )
    if not wanted.repository_url and "repository-url" not in dict(wanted.params):
        raise UsageError("where are the notebooks of this plan?", hint="give --repository-url")
    config_map = install.plan_config_map(f"{label}-plan", _plan_text(path))
    run = pipelinerun.pipeline_run(plan, shape, pipelinerun.RunShape(generate_name=f"{label}-"))
    return [config_map, pipeline.pipeline(plan, shape)], run


def _plan_text(path: Path) -> str:
    """Return the text of a plan, also of one that is wrapped in a ConfigMap."""
    text = path.read_text(encoding="utf-8")
    document = safe_yaml.load(text)
    return str(document["data"]["plan.yaml"]) if document.get("kind") == "ConfigMap" else text


def apply(kubectl: Kubectl, document: dict[str, Any], *, dry_run: bool) -> str:
    """Apply one object and return what kubectl says."""
    return install.apply(kubectl, [document], dry_run=dry_run)


def fitted(run: Mapping[str, Any], fit: Fit) -> dict[str, Any]:
    """Return a copy of a PipelineRun for this cluster."""
    found = copy.deepcopy(dict(run))
    spec = found.get("spec") or {}
    for workspace in spec.get("workspaces") or ():
        claim = (workspace.get("volumeClaimTemplate") or {}).get("spec")
        if claim is not None:
            _fit_claim(claim, fit)
    if fit.gpu_resource and fit.gpu_resource != GPU_RESOURCE:
        found["spec"] = _renamed(spec, fit.gpu_resource)
    return found


def _fit_claim(claim: dict[str, Any], fit: Fit) -> None:
    if fit.storage:
        claim["resources"]["requests"]["storage"] = fit.storage
    if fit.storage_class:
        claim["storageClassName"] = fit.storage_class
    if fit.access_mode:
        claim["accessModes"] = [fit.access_mode]


def _renamed(value: Any, resource: str) -> Any:
    """Return a part of a run with requests and node labels of another GPU resource.

    The plain GPU stays in requests with 0: left out, the Task's own 1 would be merged in.
    """
    if isinstance(value, list):
        return [_renamed(item, resource) for item in value]
    if not isinstance(value, dict):
        return f"{resource}.memory" if value == f"{GPU_RESOURCE}.memory" else value
    found = {key: _renamed(item, resource) for key, item in value.items()}
    if GPU_RESOURCE in found:
        found = {**found, resource: found[GPU_RESOURCE], GPU_RESOURCE: "0"}
    return found
