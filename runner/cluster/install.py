# SPDX-License-Identifier: Apache-2.0
"""Puts our objects on a cluster, and takes away exactly those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from runner.cluster.runs import OURS
from runner.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from runner.cluster.kubectl import Kubectl

CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}
"""What needs rights beyond the namespace; without it the capacity check says that it may not look at nodes."""
_KEPT_KINDS = {"Namespace", "PersistentVolumeClaim", "DeviceClass", "ClusterQueue", "ResourceFlavor"}
"""Deleting one of them would delete results, or take from other namespaces what they use as well."""


@dataclass(frozen=True, slots=True)
class Left:
    """What an uninstall leaves."""

    removed: tuple[str, ...]
    volumes: tuple[str, ...]
    kept: tuple[str, ...]


def manifests(kubectl: Kubectl, folder: Path, namespace: str, image: str | None = None) -> list[dict[str, Any]]:
    """Return the objects of a kustomization, fitted to a namespace and an image.

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
    return [fitted(document, namespace, image) for document in yaml.safe_load_all(built) if document]


def fitted(document: Mapping[str, Any], namespace: str, image: str | None) -> dict[str, Any]:
    """Return an object for a namespace: what is cluster-wide gets a name and a subject of its own there.

    So two namespaces of one cluster share nothing, and each is uninstalled without the other.
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
    """Return a Task, Pipeline or CronJob whose default image is another one."""
    if document["kind"] in {"Task", "Pipeline"}:
        params = [
            {**param, "default": image} if param["name"] == "image" else param
            for param in document["spec"].get("params") or ()
        ]
        return {**document, "spec": {**document["spec"], "params": params}}
    if document["kind"] == "CronJob":
        for container in _containers(document):
            container["image"] = image
    return document


def _containers(cron_job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]


def apply(kubectl: Kubectl, documents: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> str:
    """Apply objects and return what kubectl says of each."""
    extra = ["--dry-run=server"] if dry_run else []
    return kubectl.run("apply", "-f", "-", *extra, stdin=yaml.safe_dump_all(documents, sort_keys=False))


def uninstall(kubectl: Kubectl, documents: Sequence[Mapping[str, Any]], *, volumes: bool, dry_run: bool) -> Left:
    """Delete objects, runs and their Pods; volumes only when asked.

    A PipelineRun owns its volume and would take it along, so the runs are deleted as orphans.
    """
    gone = [document for document in documents if document["kind"] not in _KEPT_KINDS]
    kept = tuple(f"{one['kind']}/{one['metadata']['name']}" for one in documents if one["kind"] in _KEPT_KINDS)
    runs = {
        str(run["metadata"]["uid"]): name_of(run) for run in kubectl.items("get", "pipelineruns.tekton.dev", "-l", OURS)
    }
    claims = [name_of(claim) for claim in kubectl.items("get", "persistentvolumeclaims") if _owners(claim) & set(runs)]
    # What runs and helpers of own plans brought, besides what the folder installs.
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


def _owners(document: Mapping[str, Any]) -> set[str]:
    return {str(owner.get("uid")) for owner in document["metadata"].get("ownerReferences") or ()}
