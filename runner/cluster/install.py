# SPDX-License-Identifier: Apache-2.0
"""Installs our objects on a cluster, and uninstalls exactly those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from runner.cluster.runs import OURS
from runner.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runner.cluster.kubectl import Kubectl

CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}
"""Kinds that need rights beyond the namespace; without them the capacity check reports that it cannot list nodes."""
_KEPT_KINDS = {"Namespace", "PersistentVolumeClaim", "DeviceClass", "ClusterQueue", "ResourceFlavor"}
"""Deleting one would delete results, or break other namespaces that use it."""


@dataclass(frozen=True, slots=True)
class Left:
    """Objects removed and kept by an uninstall."""

    removed: tuple[str, ...]
    volumes: tuple[str, ...]
    kept: tuple[str, ...]


def manifests(kubectl: Kubectl, folder: Path, namespace: str, image: str | None = None) -> list[dict[str, Any]]:
    """Return the objects of a kustomization, adapted to a namespace and an image.

    Raises
    ------
    UsageError
        The folder has no kustomization.
    """
    if not (folder / "kustomization.yaml").is_file():
        raise UsageError(
            f"there is no kustomization.yaml in {folder}",
            hint="give the repository's tekton folder, or one of its overlays, with --manifests",
        )
    built = kubectl.run("kustomize", str(folder))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a second faster
    return [fitted(document, namespace, image) for document in yaml.load_all(built, loader) if document]


def fitted(document: Mapping[str, Any], namespace: str, image: str | None) -> dict[str, Any]:
    """Return an object adapted to a namespace: cluster-wide objects get a per-namespace name and subject.

    Namespaces of one cluster thus share nothing, and each can be uninstalled alone.
    """
    found = dict(document)
    if found.get("kind") in CLUSTER_WIDE:
        found["metadata"] = {**found["metadata"], "name": _own_name(found["metadata"]["name"], namespace)}
    if found.get("kind") == "ClusterRoleBinding":
        role = found["roleRef"]
        found["roleRef"] = {**role, "name": _own_name(role["name"], namespace)}
        found["subjects"] = [{**subject, "namespace": namespace} for subject in found.get("subjects") or ()]
    if image is not None:
        found = _with_image(found, image)
    return found


def _own_name(name: str, namespace: str) -> str:
    return f"{name.removesuffix(f'-{namespace}')}-{namespace}"


def _with_image(document: dict[str, Any], image: str) -> dict[str, Any]:
    """Return a Task, Pipeline or CronJob with another default image."""
    if document["kind"] in {"Task", "Pipeline"}:
        params = [
            {**param, "default": image} if param["name"] == "image" else param
            for param in document["spec"].get("params") or ()
        ]
        return {**document, "spec": {**document["spec"], "params": params}}
    if document["kind"] == "CronJob":
        for container in document["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]:
            container["image"] = image
    return document


def apply(kubectl: Kubectl, documents: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> str:
    """Apply objects and return kubectl's output."""
    extra = ["--dry-run=server"] if dry_run else []
    return kubectl.run("apply", "-f", "-", *extra, stdin=yaml.safe_dump_all(documents, sort_keys=False))


def uninstall(kubectl: Kubectl, documents: Sequence[Mapping[str, Any]], *, volumes: bool, dry_run: bool) -> Left:
    """Delete objects, runs and their Pods, and on request the runs' volumes.

    A PipelineRun owns its volume, which would be deleted with it, so the runs are deleted with ``--cascade=orphan``.
    """
    gone = [document for document in documents if document["kind"] not in _KEPT_KINDS]
    kept = tuple(f"{one['kind']}/{one['metadata']['name']}" for one in documents if one["kind"] in _KEPT_KINDS)
    runs = {
        str(run["metadata"]["uid"]): name_of(run) for run in kubectl.items("get", "pipelineruns.tekton.dev", "-l", OURS)
    }
    claims = [
        name_of(claim)
        for claim in kubectl.items("get", "persistentvolumeclaims")
        if any(owner.get("uid") in runs for owner in claim["metadata"].get("ownerReferences") or ())
    ]
    # Objects created by runs and helper Pods, in addition to those of the folder.
    listed = {name_of(document) for document in gone}
    helpers = f"{OURS},app.kubernetes.io/component=helper"
    extra = [
        (kind, name_of(one))
        for kind, label in (("pipelines.tekton.dev", OURS), ("configmap", OURS), ("pod", helpers))
        for one in kubectl.items("get", kind, "-l", label)
        if name_of(one) not in listed
    ]
    removed = tuple(
        [f"{one['kind']}/{name_of(one)}" for one in gone]
        + [f"PipelineRun/{name}" for name in runs.values()]
        + [f"{kind}/{name}" for kind, name in extra]
    )
    if dry_run:
        return Left(removed, tuple(claims), kept)
    if runs:
        kubectl.run("delete", "pipelineruns.tekton.dev", *runs.values(), "--cascade=orphan", "--ignore-not-found")
        kubectl.run("delete", "taskruns.tekton.dev", "-l", OURS, "--ignore-not-found")
    kubectl.run("delete", "--ignore-not-found", "-f", "-", stdin=yaml.safe_dump_all(gone, sort_keys=False))
    for kind in dict.fromkeys(kind for kind, _ in extra):
        kubectl.run("delete", kind, *(name for one, name in extra if one == kind), "--ignore-not-found")
    if volumes and claims:
        kubectl.run("delete", "persistentvolumeclaims", *claims, "--ignore-not-found", "--wait=false")
        claims = []
    return Left(removed, tuple(claims), kept)


def name_of(document: Mapping[str, Any]) -> str:
    """Return an object's name."""
    return str(document["metadata"]["name"])
