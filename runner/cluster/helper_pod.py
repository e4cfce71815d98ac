# SPDX-License-Identifier: Apache-2.0
"""A Pod that holds a run's volume open for reading, and is gone when the work is done.

It also ends by itself after an hour, so that a laptop that is closed in the middle leaves nothing.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from runner.cluster.kubectl import ClusterError, Kubectl, NotFoundError
from runner.tekton import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MOUNT = "/volume"
_LIFE_SECONDS = 3600
_SLEEP = f"import time; time.sleep({_LIFE_SECONDS})"


def claim_of(run: Mapping[str, Any], task_runs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the volume claim of a run and the folder in it.

    Raises
    ------
    NotFoundError
        The run has no volume, or none yet.
    """
    for owner in (*task_runs, run):
        for workspace in (owner.get("spec") or {}).get("workspaces") or ():
            claim = (workspace.get("persistentVolumeClaim") or {}).get("claimName")
            if workspace.get("name") == names.WORKSPACE and claim:
                return str(claim), str(workspace.get("subPath") or "")
    raise NotFoundError(
        f"the run {run['metadata']['name']} has no volume named {names.WORKSPACE}",
        hint="it may not have started yet, or its volume was deleted",
    )


def manifest(run: Mapping[str, Any], claim: str, image: str) -> dict[str, Any]:
    """Return the Pod; it may run where the run's own Pods may, and better where they do."""
    spec = run.get("spec") or {}
    template = (spec.get("taskRunTemplate") or {}).get("podTemplate") or {}
    peers = {"labelSelector": {"matchLabels": {"tekton.dev/pipelineRun": run["metadata"]["name"]}}}
    near = {"weight": 100, "podAffinityTerm": {**peers, "topologyKey": "kubernetes.io/hostname"}}
    resources = {"cpu": "250m", "memory": "256Mi"}
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "fetch-outputs-", "labels": names.labels("fetch-outputs", "helper")},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _LIFE_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": template.get("securityContext")
            or {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "tolerations": template.get("tolerations") or [],
            "imagePullSecrets": template.get("imagePullSecrets") or [],
            "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [near]}},
            "containers": [
                {
                    "name": "volume",
                    "image": image,
                    "command": ["python", "-c", _SLEEP],
                    "resources": {"requests": resources, "limits": resources},
                    "securityContext": security,
                    "volumeMounts": [{"name": "volume", "mountPath": MOUNT, "readOnly": True}],
                }
            ],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}],
        },
    }


@contextlib.contextmanager
def running(kubectl: Kubectl, pod: Mapping[str, Any], *, wait_seconds: int = 300) -> Iterator[str]:
    """Create the Pod, wait until it runs, give its name, and remove it whatever happens.

    Raises
    ------
    ClusterError
        It does not start; the message says why.
    """
    name = str(kubectl.json("create", "-f", "-", stdin=json.dumps(pod))["metadata"]["name"])
    try:
        try:
            kubectl.run(
                "wait",
                "--for=condition=Ready",
                f"pod/{name}",
                f"--timeout={wait_seconds}s",
                timeout_seconds=wait_seconds + 30,
            )
        except ClusterError as error:
            raise ClusterError(
                f"the helper Pod does not start: {_why(kubectl.find('get', 'pod', name))}",
                hint="a ReadWriteOnce volume that another node holds is free again when that Pod has ended",
            ) from error
        yield name
    finally:
        kubectl.run("delete", "pod", name, "--ignore-not-found", "--wait=false")


def _why(pod: Mapping[str, Any] | None) -> str:
    status = (pod or {}).get("status") or {}
    waiting = [(one.get("state") or {}).get("waiting") or {} for one in status.get("containerStatuses") or ()]
    words = [f"{one.get('reason')}: {one.get('message', '')}" for one in waiting if one]
    words += [str(one["message"]) for one in status.get("conditions") or () if one.get("message")]
    return "; ".join(words) or str(status.get("phase", "it is gone"))
