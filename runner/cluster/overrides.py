# SPDX-License-Identifier: Apache-2.0
"""A checked-in run fitted to a cluster: its storage, and the resource that stands for a GPU there."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.tekton.names import GPU_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What differs from the run as it is written; None leaves it."""

    storage: str | None = None
    storage_class: str | None = None
    access_mode: str | None = None
    gpu_resource: str | None = None


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
