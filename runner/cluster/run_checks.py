# SPDX-License-Identifier: Apache-2.0
"""Preflight checks of a run: whether the objects and capacity it needs exist, before anything is created.

Without the right to check, the result is a warning and the run continues: the cluster itself decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.cluster.capacity import Policy, quantity
from runner.cluster.kubectl import ClusterError, Kubectl
from runner.cluster.part import notebook_of
from runner.cluster.readiness import (
    Check,
    check_capacity,
    check_namespace,
    check_tekton,
    default_class,
    read_nodes_of,
    seen,
)
from runner.core.units import duration_seconds, format_seconds
from runner.tekton.names import GPU_RESOURCE
from runner.tekton.pipelinerun import tolerated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from runner.cluster.capacity import Node
    from runner.plan.model import Plan

_ONE_NODE_PROVISIONERS = (
    "disk.csi.azure.com",
    "ebs.csi.aws.com",
    "kubernetes.io/aws-ebs",
    "kubernetes.io/azure-disk",
    "kubernetes.io/gce-pd",
    "pd.csi.storage.gke.io",
    "rancher.io/local-path",
)
"""Their volumes can be mounted by one node at a time."""
_ADVICE = {
    "serviceaccount": "`install` creates it",
    "secret": "kubectl create secret generic {name} ...; its keys are in tekton/docs",
    "configmap": "kubectl create configmap {name} ...",
    "persistentvolumeclaim": "give an existing one, or let the run create its own volume",
}
_LISTED_IMAGES = 50
"""Maximum number of images in a node's status."""


def check_run(
    kubectl: Kubectl, namespace: str, run: Mapping[str, Any], spec: Mapping[str, Any], plan: Plan | None
) -> list[Check]:
    """Return the preflight checks of a run; only a connection failure is raised.

    Parameters
    ----------
    run, spec
        The PipelineRun, and the spec of its Pipeline.
    plan
        The plan of its notebooks; None if unknown here.
    """
    nodes = read_nodes_of(kubectl)
    found = seen(
        ("tekton", lambda: [check_tekton(kubectl)]),
        ("namespace", lambda: [check_namespace(kubectl, namespace)]),
        ("named objects", lambda: _named(kubectl, run)),
        ("volume", lambda: _volume(kubectl, run)),
        ("quota", lambda: _quota(kubectl, run)),
    )
    found += _timeouts(run, spec)
    found += _image(params_of(run, spec).get("image"), nodes)
    if isinstance(nodes, Check):
        found.append(nodes)
    elif plan is not None:
        found += _capacity(kubectl, run, spec, plan, nodes)
    return found


def params_of(run: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a run, with the pipeline's defaults."""
    defaults = {str(one["name"]): one.get("default") for one in spec.get("params") or ()}
    return defaults | {str(one["name"]): one["value"] for one in run["spec"].get("params") or ()}


def is_true(value: Any) -> bool:
    """Return the boolean value of a parameter, which tasks parse like an option of the command line."""
    import click

    return bool(click.BOOL.convert(str(value), None, None))


def _named(kubectl: Kubectl, run: Mapping[str, Any]) -> Iterator[Check]:
    """Check that the objects named by a run exist: ServiceAccounts, Secrets, ConfigMaps and a claim."""
    for kind, name in dict.fromkeys(_names(run["spec"])):
        exists = kubectl.find("get", kind, name) is not None
        seen = "exists" if exists else "is not in this namespace"
        advice = _ADVICE[kind].format(name=name)
        yield Check(name=f"{kind} {name}", status="pass" if exists else "fail", seen=seen, advice=advice)


def _names(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the kind and name of each object named in a run's spec."""
    for one in (spec.get("taskRunTemplate") or {}, *(spec.get("taskRunSpecs") or ())):
        if "serviceAccountName" in one:
            yield "serviceaccount", one["serviceAccountName"]
        yield from (
            ("secret", secret["name"]) for secret in (one.get("podTemplate") or {}).get("imagePullSecrets") or ()
        )
    yield from (
        ("secret", one["value"]) for one in spec.get("params") or () if one["name"] == "env-secret" and one["value"]
    )
    for one in spec.get("workspaces") or ():
        for source, kind, key in (
            ("secret", "secret", "secretName"),
            ("configMap", "configmap", "name"),
            ("persistentVolumeClaim", "persistentvolumeclaim", "claimName"),
        ):
            if source in one:
                yield kind, one[source][key]


def _claim_of(run: Mapping[str, Any]) -> Mapping[str, Any] | None:
    claims = ((one.get("volumeClaimTemplate") or {}).get("spec") for one in run["spec"].get("workspaces") or ())
    return next((claim for claim in claims if claim), None)


def _existing_claim(kubectl: Kubectl, run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the spec of the existing volume claim of a run, empty if unreadable."""
    claims = [one["persistentVolumeClaim"] for one in run["spec"]["workspaces"] if "persistentVolumeClaim" in one]
    try:
        found = kubectl.find("get", "persistentvolumeclaim", claims[0]["claimName"]) if claims else None
    except ClusterError:
        return {}
    return (found or {}).get("spec") or {}


def _volume(kubectl: Kubectl, run: Mapping[str, Any]) -> Iterator[Check]:
    claim = _claim_of(run)
    if claim is None:
        return
    classes = kubectl.items("get", "storageclasses")
    wanted = claim.get("storageClassName")
    known = ", ".join(str(one["metadata"]["name"]) for one in classes) or "none"
    used = (
        next((one for one in classes if one["metadata"]["name"] == wanted), None) if wanted else default_class(classes)
    )
    if used is None:
        what = f"there is no storage class {wanted!r}" if wanted else "there is no default storage class"
        advice = "give one with --storage-class, or a claim with --claim"
        yield Check(name="volume", status="fail", seen=f"{what}; available: {known}", advice=advice)
        return
    name, provisioner = str(used["metadata"]["name"]), str(used.get("provisioner", ""))
    modes = claim.get("accessModes") or []
    if "ReadWriteMany" in modes and provisioner in _ONE_NODE_PROVISIONERS:
        yield Check(
            name="volume",
            status="fail",
            seen=f"class {name} ({provisioner}) provisions single-node volumes, ReadWriteMany is requested",
            advice="give a class of NFS, CephFS, EFS or Filestore with --storage-class, or use ReadWriteOnce",
        )
        return
    yield Check(name="volume", status="pass", seen=f"class {name}, {', '.join(modes)}")


def _quota(kubectl: Kubectl, run: Mapping[str, Any]) -> Iterator[Check]:
    """Compare the largest Pod and the volume with the namespace's quotas."""
    requests = _requests(run)
    for quota in kubectl.items("get", "resourcequotas"):
        if (quota.get("spec") or {}).get("scopes") or (quota.get("spec") or {}).get("scopeSelector"):
            continue  # limited to some Pods, which the API server selects
        status = quota.get("status") or {}
        for key, hard in (status.get("hard") or {}).items():
            used = str((status.get("used") or {}).get(key, "0"))
            wanted, allowed = requests.get(key, 0.0), quantity(str(hard))
            if wanted > allowed - quantity(used):
                advice = "the run waits until other Pods release it"
                if wanted > allowed:
                    advice = "request less in the plan's `requires` or with --storage, or have the quota raised"
                yield Check(
                    name=f"quota {quota['metadata']['name']}",
                    status="fail" if wanted > allowed else "warn",
                    seen=f"{key}: {used} of {hard} used, {wanted:g} more requested",
                    advice=advice,
                )


def _requests(run: Mapping[str, Any]) -> dict[str, float]:
    """Return the requests of a run's largest Pod and of its volume, by quota key."""
    found = {"pods": 1.0}
    steps = (step for one in run["spec"].get("taskRunSpecs") or () for step in one.get("stepSpecs") or ())
    for step in steps:
        for kind, amounts in step["computeResources"].items():
            for resource, amount in amounts.items():
                for key in (f"{kind}.{resource}", *([resource] if kind == "requests" else [])):
                    found[key] = max(found.get(key, 0.0), quantity(str(amount)))
    claim = _claim_of(run)
    if claim is not None:
        size = quantity(str(claim["resources"]["requests"]["storage"]))
        found |= {"persistentvolumeclaims": 1.0, "requests.storage": size}
        if claim.get("storageClassName"):
            found[f"{claim['storageClassName']}.storageclass.storage.k8s.io/requests.storage"] = size
    return found


def _timeouts(run: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Check]:
    """Compare the sum of timeouts along the longest chain of tasks with the timeout of the whole run."""
    total = (run["spec"].get("timeouts") or {}).get("tasks")
    seconds = {
        one["pipelineTaskName"]: duration_seconds(one["timeout"])
        for one in run["spec"].get("taskRunSpecs") or ()
        if "timeout" in one
    }
    if not total or not seconds:
        return
    tasks = {str(one["name"]): one for one in spec["tasks"]}
    longest: dict[str, float] = {}

    def until(name: str) -> float:
        if name not in longest:
            before = [until(other) for other in tasks[name].get("runAfter") or () if other in tasks]
            longest[name] = max(before, default=0.0) + seconds.get(name, 0.0)
        return longest[name]

    most = max((until(name) for name in tasks), default=0.0)
    if most > duration_seconds(total):
        yield Check(
            name="timeouts",
            status="warn",
            seen=f"successive tasks may take {format_seconds(most)}, the run times out after {total}",
            advice="raise spec.timeouts of the run, or lower its tasks' timeouts",
        )


def _image(image: Any, nodes: Sequence[Node] | Check) -> Iterator[Check]:
    """Check that nodes have the image or can pull it; without a registry it must have been loaded into them."""
    if not isinstance(image, str):
        return
    first, slash, _ = image.partition("/")
    registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    if registry or isinstance(nodes, Check):
        yield Check(
            name="image",
            status="pass" if registry else "warn",
            seen=image,
            advice="without a registry, each node must have it; `install --image REGISTRY/NAME:TAG` sets another",
        )
        return
    full = f"docker.io/{'' if slash else 'library/'}{image}"
    holders = [node.name for node in nodes if {image, full, f"localhost/{image}"} & set(node.images)]
    unknown = any(len(node.images) >= _LISTED_IMAGES for node in nodes) or not any(node.images for node in nodes)
    yield Check(
        name="image",
        status="pass" if holders else "warn" if unknown or slash else "fail",
        seen=f"{image} is on {', '.join(holders[:3])}" if holders else f"{image} has no registry and is on no node",
        advice="push it to a registry and `install --image REGISTRY/NAME:TAG`, or load it on each node",
    )


def _capacity(
    kubectl: Kubectl, run: Mapping[str, Any], spec: Mapping[str, Any], plan: Plan, nodes: Sequence[Node]
) -> list[Check]:
    given = params_of(run, spec)
    if not is_true(given.get("check-capacity", "true")):
        return []
    wanted = {notebook_of(task) for task in spec["tasks"]}
    policy = Policy(
        skip_optional=is_true(given.get("skip-optional-notebooks", "true")),
        skip_all=is_true(given.get("skip-unhostable-notebooks", "false")),
        gpu_resource=_gpu_resource(run),
        tolerated=(GPU_RESOURCE, *tolerated(run)),
    )
    claim = _claim_of(run) or _existing_claim(kubectl, run)
    one_node = "ReadWriteMany" not in (claim.get("accessModes") or ())
    notebooks = [one for one in plan.notebooks if one.name in wanted]
    return check_capacity(kubectl, nodes, notebooks, policy, one_node=one_node)


def _gpu_resource(run: Mapping[str, Any]) -> str:
    """Return the resource name of a GPU in a run."""
    requested = (
        resource
        for one in run["spec"].get("taskRunSpecs") or ()
        for step in one.get("stepSpecs") or ()
        for resource, amount in (step["computeResources"].get("requests") or {}).items()
        if "/" in resource and amount != "0"
    )
    return next(requested, GPU_RESOURCE)
