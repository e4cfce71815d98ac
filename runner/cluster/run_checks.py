# SPDX-License-Identifier: Apache-2.0
"""Would a run of ours start and end on this cluster? What is named by it is looked for before anything is created.

Without the right to look, a check warns and the run goes on: the cluster itself has the last word.
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
"""They make volumes that one node at a time mounts."""
_ADVICE = {
    "serviceaccount": "`install` puts it there",
    "secret": "kubectl create secret generic {name} ...; its keys are in tekton/docs",
    "configmap": "kubectl create configmap {name} ...",
    "persistentvolumeclaim": "name one that exists, or let the run make its own volume",
}
_LISTED_IMAGES = 50
"""A node's status lists no more."""


def check_run(
    kubectl: Kubectl, namespace: str, run: Mapping[str, Any], spec: Mapping[str, Any], plan: Plan | None
) -> list[Check]:
    """Return what the cluster has and lacks for a run; only a connection that fails is raised.

    Parameters
    ----------
    run, spec
        The PipelineRun, and the spec of its Pipeline.
    plan
        The plan whose notebooks it runs; None where it is not known here.
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
    """Return the parameters of a run: its own, else the pipeline's defaults."""
    defaults = {str(one["name"]): one.get("default") for one in spec.get("params") or ()}
    return defaults | {str(one["name"]): one["value"] for one in run["spec"].get("params") or ()}


def is_true(value: Any) -> bool:
    """Return what a parameter means to the tasks, which take the truth words of the command line."""
    import click

    return bool(click.BOOL.convert(str(value), None, None))


def _named(kubectl: Kubectl, run: Mapping[str, Any]) -> Iterator[Check]:
    """Look for what a run names: accounts, secrets, ConfigMaps and a claim."""
    for kind, name in dict.fromkeys(_names(run["spec"])):
        there = kubectl.find("get", kind, name) is not None
        seen = "is there" if there else "is not in this namespace"
        advice = _ADVICE[kind].format(name=name)
        yield Check(name=f"{kind} {name}", status="pass" if there else "fail", seen=seen, advice=advice)


def _names(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each object that a run's spec names."""
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
    """Return the spec of the volume claim that a run names; empty where it cannot be seen."""
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
        what = f"there is no class {wanted!r}" if wanted else "no class is the default one"
        advice = "name one of them with --storage-class, or a claim with --claim"
        yield Check(name="volume", status="fail", seen=f"{what}; there are: {known}", advice=advice)
        return
    name, provisioner = str(used["metadata"]["name"]), str(used.get("provisioner", ""))
    modes = claim.get("accessModes") or []
    if "ReadWriteMany" in modes and provisioner in _ONE_NODE_PROVISIONERS:
        yield Check(
            name="volume",
            status="fail",
            seen=f"class {name} ({provisioner}) makes volumes for one node, ReadWriteMany is asked",
            advice="name a class of NFS, CephFS, EFS or Filestore with --storage-class, or use ReadWriteOnce",
        )
        return
    yield Check(name="volume", status="pass", seen=f"class {name}, {', '.join(modes)}")


def _quota(kubectl: Kubectl, run: Mapping[str, Any]) -> Iterator[Check]:
    """Compare the largest Pod and the volume with what the namespace may use."""
    asked = _asked(run)
    for quota in kubectl.items("get", "resourcequotas"):
        if (quota.get("spec") or {}).get("scopes") or (quota.get("spec") or {}).get("scopeSelector"):
            continue  # for some Pods only; which, is decided by the API server
        status = quota.get("status") or {}
        for key, hard in (status.get("hard") or {}).items():
            used = str((status.get("used") or {}).get(key, "0"))
            wanted, allowed = asked.get(key, 0.0), quantity(str(hard))
            if wanted > allowed - quantity(used):
                advice = "the run waits until others give it back"
                if wanted > allowed:
                    advice = "ask for less in the plan's `requires` or with --storage, or have the quota raised"
                yield Check(
                    name=f"quota {quota['metadata']['name']}",
                    status="fail" if wanted > allowed else "warn",
                    seen=f"{key}: {used} of {hard} are used, {wanted:g} more are requested",
                    advice=advice,
                )


def _asked(run: Mapping[str, Any]) -> dict[str, float]:
    """Return what the largest Pod of a run and its volume ask for, by the keys of a quota."""
    asked = {"pods": 1.0}
    steps = (step for one in run["spec"].get("taskRunSpecs") or () for step in one.get("stepSpecs") or ())
    for step in steps:
        for kind, amounts in step["computeResources"].items():
            for resource, amount in amounts.items():
                for key in (f"{kind}.{resource}", *([resource] if kind == "requests" else [])):
                    asked[key] = max(asked.get(key, 0.0), quantity(str(amount)))
    claim = _claim_of(run)
    if claim is not None:
        size = quantity(str(claim["resources"]["requests"]["storage"]))
        asked |= {"persistentvolumeclaims": 1.0, "requests.storage": size}
        if claim.get("storageClassName"):
            asked[f"{claim['storageClassName']}.storageclass.storage.k8s.io/requests.storage"] = size
    return asked


def _timeouts(run: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Check]:
    """Compare the longest chain of tasks, each taking all its time, with the time of the whole run."""
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
            seen=f"tasks may take {format_seconds(most)} one after another, the run ends them after {total}",
            advice="raise spec.timeouts of the run, or lower those of its tasks",
        )


def _image(image: Any, nodes: Sequence[Node] | Check) -> Iterator[Check]:
    """Return whether nodes have an image or can pull it; one without a registry is where somebody put it."""
    if not isinstance(image, str):
        return
    first, slash, _ = image.partition("/")
    registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    if registry or isinstance(nodes, Check):
        yield Check(
            name="image",
            status="pass" if registry else "warn",
            seen=image,
            advice="it names no registry, so each node must have it; `install --image REGISTRY/NAME:TAG` sets another",
        )
        return
    full = f"docker.io/{'' if slash else 'library/'}{image}"
    holders = [node.name for node in nodes if {image, full, f"localhost/{image}"} & set(node.images)]
    unknown = any(len(node.images) >= _LISTED_IMAGES for node in nodes) or not any(node.images for node in nodes)
    yield Check(
        name="image",
        status="pass" if holders else "warn" if unknown or slash else "fail",
        seen=f"{image} is on {', '.join(holders[:3])}" if holders else f"{image} names no registry and is on no node",
        advice="push it to a registry and `install --image REGISTRY/NAME:TAG`, or load it into each node",
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
    """Return the resource that stands for a GPU in a run."""
    asked = (
        resource
        for one in run["spec"].get("taskRunSpecs") or ()
        for step in one.get("stepSpecs") or ()
        for resource, amount in (step["computeResources"].get("requests") or {}).items()
        if "/" in resource and amount != "0"
    )
    return next(asked, GPU_RESOURCE)
