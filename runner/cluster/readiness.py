# SPDX-License-Identifier: Apache-2.0
"""Checks whether a cluster is ready for runs, with a hint for each missing prerequisite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from runner.cluster.capacity import Node, read_nodes
from runner.cluster.kubectl import ClusterError, Kubectl, NotFoundError
from runner.core.units import format_seconds
from runner.tekton.names import GPU_RESOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from runner.cluster.capacity import Policy
    from runner.plan.model import Notebook, Plan

MIN_TEKTON = (1, 0, 0)
"""First release with a stable v1 API for everything in the manifests; they are tested with 1.15."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Result of a check."""

    name: str
    status: Literal["pass", "warn", "fail"]
    seen: str
    advice: str = ""


def check_cluster(kubectl: Kubectl, namespace: str) -> list[Check]:
    """Return the checks of a cluster; only a connection failure is raised."""
    server = kubectl.json("version").get("serverVersion") or {}
    found = [Check(name="kubernetes", status="pass", seen=str(server.get("gitVersion", "unknown")))]
    found += seen(
        ("tekton", lambda: [check_tekton(kubectl)]),
        ("namespace", lambda: [check_namespace(kubectl, namespace)]),
        ("storage class", lambda: [_storage(kubectl)]),
    )
    nodes = read_nodes_of(kubectl)
    return [*found, *([nodes] if isinstance(nodes, Check) else _gpus(kubectl, nodes))]


def seen(*checks: tuple[str, Callable[[], Iterable[Check]]]) -> list[Check]:
    """Return the results of checks by name, a warning for each that the cluster does not permit."""
    found: list[Check] = []
    for name, check in checks:
        try:
            found += check()
        except ClusterError as error:
            found.append(Check(name=name, status="warn", seen=error.message, advice="cannot be checked from here"))
    return found


def read_nodes_of(kubectl: Kubectl) -> list[Node] | Check:
    """Return the nodes, or a warning if they cannot be listed."""
    try:
        return read_nodes(kubectl.items("get", "nodes"))
    except ClusterError as error:
        return Check(
            name="nodes",
            status="warn",
            seen=error.message,
            advice="GPUs cannot be checked from here without the right to list nodes; the run checks them itself",
        )


def check_capacity(
    kubectl: Kubectl, nodes: Sequence[Node], notebooks: Sequence[Notebook], policy: Policy, *, one_node: bool
) -> list[Check]:
    """Return whether each notebook can be scheduled, and with ``one_node`` whether one node can host them all."""
    from runner.cluster.capacity import judge

    nodes, unknown = _with_devices(kubectl, nodes, policy.gpu_resource)
    words: dict[str, tuple[Literal["pass", "warn", "fail"], str]] = {
        "hosted": ("pass", ""),
        "unknown": ("warn", "the run will wait if none can"),
        "skipped": ("warn", "it will be skipped"),
        "refused": ("fail", "add such a node, or run with --param skip-unhostable-notebooks=true"),
    }
    found = judge(notebooks, nodes, policy, unknown)
    checks = [
        Check(name=one.notebook, status=words[one.outcome][0], seen=one.reason, advice=words[one.outcome][1])
        for one in found
    ]
    hosted = [one for one in found if one.outcome == "hosted"]
    if not one_node or not hosted or set.intersection(*(set(one.hosts) for one in hosted)):
        return checks
    seen = "; ".join(
        f"{one.notebook} fits {', '.join(one.hosts[:3])} only" for one in hosted if len(one.hosts) < len(nodes)
    )
    return [
        *checks,
        Check(
            name="one node for all",
            status="fail",
            seen=f"no node hosts every notebook of the plan: {seen}",
            advice="a ReadWriteOnce volume ties all Pods of a run to one node: use --access-mode ReadWriteMany "
            "--storage-class CLASS, or run the notebooks in parts with --only",
        ),
    ]


def _with_devices(kubectl: Kubectl, nodes: Sequence[Node], resource: str) -> tuple[list[Node], str]:
    """Return the nodes with the GPUs of Dynamic Resource Allocation, and why GPUs cannot be judged."""
    from runner.cluster.capacity import CLASSES, SLICES, with_devices

    slices: list[dict[str, Any]] | None = []
    classes: list[dict[str, Any]] = []
    try:
        slices, classes = kubectl.items("get", SLICES), kubectl.items("get", CLASSES)
    except NotFoundError:
        pass  # a cluster without Dynamic Resource Allocation
    except ClusterError:
        slices = None
    return with_devices(nodes, slices, classes, resource)


def longest_run(plan: Plan, params: tuple[tuple[str, str], ...]) -> Check:
    """Return the maximum duration of a run, with the time that failed notebooks may be held."""
    from runner.tekton.names import ON_FAILURE
    from runner.tekton.pipeline import Shape
    from runner.tekton.pipelinerun import RunShape, pipeline_run
    from runner.tekton.sizes import held

    run = pipeline_run(
        plan, Shape(name="any"), RunShape(generate_name="any-", access_mode="ReadWriteMany", params=params)
    )
    waits = sum(held(notebook, dict(params).get(ON_FAILURE, "")) for notebook in plan.notebooks)
    seen = f"a run may take {run['spec']['timeouts']['pipeline']}"
    return Check(
        name="timeouts",
        status="pass",
        seen=f"{seen}, {format_seconds(waits)} of it while failed notebooks are held" if waits else seen,
    )


def check_tekton(kubectl: Kubectl) -> Check:
    """Return whether Tekton is installed and recent enough."""
    advice = "install Tekton Pipelines: `kubectl apply` of release.yaml of tektoncd/pipeline, see its docs/install.md"
    if kubectl.find("get", "crd", "pipelines.tekton.dev") is None:
        return Check(name="tekton", status="fail", seen="no CRD pipelines.tekton.dev", advice=advice)
    text = _tekton_config(kubectl, "pipelines-info").get("version", "")
    version = version_of(text)
    if version is None:
        return Check(name="tekton", status="warn", seen="installed, of unknown version", advice="tested with 1.15")
    if version < MIN_TEKTON:
        return Check(name="tekton", status="fail", seen=text, advice=f"1.0 or newer is required: {advice}")
    return Check(name="tekton", status="pass", seen=text)


def _tekton_config(kubectl: Kubectl, name: str) -> dict[str, str]:
    """Return the data of one of Tekton's ConfigMaps, empty if missing or unreadable."""
    try:
        found = kubectl.find("get", "configmap", name, "-n", "tekton-pipelines")
    except ClusterError:
        return {}
    return {key: str(value) for key, value in ((found or {}).get("data") or {}).items()}


def version_of(text: str) -> tuple[int, int, int] | None:
    """Return the numbers of a version such as ``v1.15.0``."""
    found = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)(?:[-+].*)?", text.strip())
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def check_namespace(kubectl: Kubectl, namespace: str) -> Check:
    """Return whether the namespace exists, and whether Tekton is configured for its Pod Security level."""
    document = kubectl.find("get", "namespace", namespace)
    if document is None:
        return Check(
            name="namespace",
            status="fail",
            seen=f"{namespace} does not exist",
            advice=f"kubectl create namespace {namespace}, or install with --create-namespace",
        )
    labels = document["metadata"].get("labels") or {}
    level = labels.get("pod-security.kubernetes.io/enforce", "not set")
    seen = f"{namespace}, Pod Security {level}"
    if level != "restricted":
        return Check(name="namespace", status="pass", seen=seen)
    flag = _tekton_config(kubectl, "feature-flags").get("set-security-context")
    if flag == "true":
        return Check(name="namespace", status="pass", seen=f"{seen}, and Tekton is configured for it")
    return Check(
        name="namespace",
        status="warn" if flag is None else "fail",
        seen=f"{seen}, Tekton's feature flag set-security-context {'is unknown' if flag is None else f'is {flag}'}",
        advice="Tekton's init containers are rejected here without it: kubectl patch configmap feature-flags "
        """-n tekton-pipelines -p '{"data": {"set-security-context": "true"}}'""",
    )


def _storage(kubectl: Kubectl) -> Check:
    classes = kubectl.items("get", "storageclasses")
    default = default_class(classes)
    if default:
        return Check(name="storage class", status="pass", seen=f"default {default['metadata']['name']}")
    listed = ", ".join(str(one["metadata"]["name"]) for one in classes) or "none"
    return Check(
        name="storage class",
        status="warn" if classes else "fail",
        seen=f"no default; available: {listed}",
        advice="give one with `run --storage-class`, or install a provisioner and mark one as default",
    )


def default_class(classes: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the default storage class."""
    mark = "storageclass.kubernetes.io/is-default-class"
    return next((one for one in classes if (one["metadata"].get("annotations") or {}).get(mark) == "true"), None)


def _gpus(kubectl: Kubectl, nodes: Sequence[Node]) -> list[Check]:
    nodes, unknown = _with_devices(kubectl, nodes, GPU_RESOURCE)
    hosts = [node for node in nodes if any(_is_gpu(name) and count for name, count in node.allocatable.items())]
    if not hosts and unknown:
        advice = "the overlay tekton/overlays/dra has such a DeviceClass; the right needed: get and list resourceslices"
        return [Check(name="gpus", status="warn", seen=unknown, advice=advice)]
    if not hosts:
        operator = kubectl.find("get", "crd", "clusterpolicies.nvidia.com") is not None
        what = "is installed, but no node offers a GPU yet" if operator else "is not installed"
        return [
            Check(
                name="gpus",
                status="warn",
                seen=f"no node offers an NVIDIA GPU; the GPU operator {what}",
                advice="install the NVIDIA GPU operator on nodes with GPUs; `run demo` works without it",
            )
        ]
    return [
        Check(name="gpus", status="pass", seen="; ".join(_gpu_line(node) for node in hosts[:8])),
        _labels(hosts),
    ]


def _is_gpu(resource: str) -> bool:
    return resource == GPU_RESOURCE or resource.startswith("nvidia.com/mig-")


def _gpu_line(node: Node) -> str:
    counts = [f"{count:g} {name}" for name, count in node.allocatable.items() if _is_gpu(name) and count]
    product = node.labels.get("nvidia.com/gpu.product", "")
    return f"{node.name}: {', '.join(counts)}{f' ({product})' if product else ''}"


def _labels(hosts: Sequence[Node]) -> Check:
    bare = [node.name for node in hosts if not any(re.fullmatch(r"nvidia\.com/.*\.memory", key) for key in node.labels)]
    if not bare:
        return Check(name="gpu labels", status="pass", seen="each GPU node has a GPU memory label")
    return Check(
        name="gpu labels",
        status="fail",
        seen=f"no label nvidia.com/gpu.memory on {', '.join(bare[:8])}",
        advice="install GPU Feature Discovery (part of the GPU operator), "
        f"or by hand: kubectl label node {bare[0]} nvidia.com/gpu.memory=MIB",
    )


def as_text(checks: Sequence[Check]) -> str:
    """Return the checks as lines, with hints."""
    lines = []
    for check in checks:
        lines.append(f"{check.status:4} {check.name}: {check.seen}")
        if check.advice and check.status != "pass":
            lines.append(f"       hint: {check.advice}")
    return "\n".join(lines)


def as_objects(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Return the checks for JSON."""
    import dataclasses

    return [dataclasses.asdict(check) for check in checks]
