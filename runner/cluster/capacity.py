# SPDX-License-Identifier: Apache-2.0
"""Whether any node can host each notebook: otherwise its Pod stays Pending until the timeout, and no gate ever runs.

Pure: takes nodes as the Kubernetes API describes them and a plan's notebooks, and returns a verdict per notebook. The
run's requests (`runner.tekton.sizes`) are compared with a node's full capacity, since Pods wait for a busy node.

Under Dynamic Resource Allocation GPUs are listed in ResourceSlices instead of a node's allocatable resources. Our Pods
request them by resource name, which a DeviceClass with that extended resource name maps to devices; without one, the
scheduler's decision cannot be predicted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from runner.tekton.names import GPU_RESOURCE
from runner.tekton.sizes import Needs, needs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.plan.model import Notebook

_QUANTITY = re.compile(r"(?P<number>[0-9.]+(?:[eE][+-]?[0-9]+)?)(?P<unit>[KMGTPE]i|[kMGTPEmnu])?")
_UNITS: dict[str | None, float] = {
    None: 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    **{letter: 1000.0 ** (power + 2) for power, letter in enumerate("MGTPE")},
    **{f"{letter}i": 1024.0 ** (power + 1) for power, letter in enumerate("KMGTPE")},
}

GPU_DRIVER = "gpu.nvidia.com"
SLICES = "resourceslices.resource.k8s.io"
CLASSES = "deviceclasses.resource.k8s.io"

Outcome = Literal["hosted", "skipped", "refused", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    def __str__(self) -> str:
        return f"{self.key}{f'={self.value}' if self.value else ''}:{self.effect}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node."""

    name: str
    allocatable: Mapping[str, float] = field(default_factory=dict)
    """Cores, bytes and counts by resource name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Taint] = ()
    unschedulable: bool = False
    images: Sequence[str] = ()


def read_nodes(items: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the items of a NodeList as nodes."""
    return [_node(item) for item in items]


def _node(item: Mapping[str, Any]) -> Node:
    meta, spec = item.get("metadata") or {}, item.get("spec") or {}
    allocatable = (item.get("status") or {}).get("allocatable") or {}
    return Node(
        name=str(meta.get("name", "")),
        allocatable={name: quantity(str(value)) for name, value in allocatable.items()},
        labels={key: str(value) for key, value in (meta.get("labels") or {}).items()},
        taints=tuple(
            Taint(key=str(one.get("key", "")), value=str(one.get("value") or ""), effect=str(one.get("effect", "")))
            for one in spec.get("taints") or ()
        ),
        unschedulable=bool(spec.get("unschedulable")),
        images=tuple(
            str(name) for one in (item.get("status") or {}).get("images") or () for name in one.get("names") or ()
        ),
    )


def quantity(text: str) -> float:
    """Return the value of a Kubernetes quantity, 0 if invalid.

    >>> quantity("1500m"), quantity("16Gi"), quantity("8")
    (1.5, 17179869184.0, 8.0)
    """
    found = _QUANTITY.fullmatch(text.strip())
    if not found:
        return 0.0
    return float(found["number"]) * _UNITS[found["unit"]]


def with_devices(
    nodes: Sequence[Node],
    slices: Sequence[Mapping[str, Any]] | None,
    classes: Sequence[Mapping[str, Any]],
    resource: str,
) -> tuple[list[Node], str]:
    """Return the nodes with the GPUs of their slices, and why GPUs cannot be judged, empty if they can.

    Parameters
    ----------
    slices
        None without the right to read them.
    """
    if slices is None:
        bare = not any(node.allocatable.get(resource) for node in nodes)
        return list(nodes), "the right to read ResourceSlices is missing, and no node offers a GPU" if bare else ""
    memory: dict[str, list[float]] = {}
    for one in slices:
        spec = one.get("spec") or {}
        if spec.get("driver") == GPU_DRIVER and spec.get("nodeName"):
            found = (_memory(device) for device in spec.get("devices") or ())
            memory.setdefault(str(spec["nodeName"]), []).extend(size for size in found if size)
    named = any((one.get("spec") or {}).get("extendedResourceName") == resource for one in classes)
    if not any(memory.values()):
        return list(nodes), ""
    if not named:
        some = all(node.allocatable.get(resource) for node in nodes if memory.get(node.name))
        why = f"GPUs are listed in ResourceSlices, and no DeviceClass has the extended resource name {resource}"
        return list(nodes), "" if some else why
    return [_with_gpus(node, memory.get(node.name), resource) for node in nodes], ""


def _memory(device: Mapping[str, Any]) -> float:
    """Return the memory of a whole GPU in bytes, 0 for any other device."""
    device = device.get("basic") or device  # v1beta1
    kind = ((device.get("attributes") or {}).get("type") or {}).get("string", "gpu")
    size = ((device.get("capacity") or {}).get("memory") or {}).get("value", "0")
    return quantity(str(size)) if kind == "gpu" else 0.0


def _with_gpus(node: Node, memory: list[float] | None, resource: str) -> Node:
    if not memory or node.allocatable.get(resource):
        return node
    label = {f"{resource}.memory": str(int(min(memory) / 2**20))}
    return replace(
        node, allocatable={**node.allocatable, resource: float(len(memory))}, labels={**label, **node.labels}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Handling of notebooks that no node can host, and the Pods' tolerations."""

    skip_optional: bool = True
    skip_all: bool = False
    gpu_resource: str = GPU_RESOURCE
    tolerated: tuple[str, ...] = (GPU_RESOURCE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a notebook can be scheduled."""

    notebook: str
    outcome: Outcome
    hosts: tuple[str, ...]
    reason: str


def judge(notebooks: Sequence[Notebook], nodes: Sequence[Node], policy: Policy, unknown: str = "") -> list[Verdict]:
    """Return a verdict for each notebook, in order.

    Parameters
    ----------
    unknown
        Why GPUs cannot be judged; notebooks that request GPUs and fit no node are then unknown.
    """
    return [_judge(notebook, nodes, policy, unknown) for notebook in notebooks]


def _judge(notebook: Notebook, nodes: Sequence[Node], policy: Policy, unknown: str) -> Verdict:
    request = needs(notebook)
    faults = {node.name: _fault(request, node, policy) for node in nodes}
    hosts = tuple(name for name, fault in faults.items() if fault is None)
    if hosts:
        return Verdict(notebook=notebook.name, outcome="hosted", hosts=hosts, reason=f"fits {', '.join(hosts[:5])}")
    if request.gpus and unknown:
        reason = f"unknown whether a node can host {describe(request, policy.gpu_resource)}: {unknown}"
        return Verdict(notebook=notebook.name, outcome="unknown", hosts=(), reason=reason)
    skip = policy.skip_all or (notebook.optional and policy.skip_optional)
    return Verdict(
        notebook=notebook.name,
        outcome="skipped" if skip else "refused",
        hosts=(),
        reason=f"no node can host {describe(request, policy.gpu_resource)}: {_summary(faults)}",
    )


def describe(request: Needs, gpu_resource: str) -> str:
    """Return a request in words."""
    gpus = f"{request.gpus} {gpu_resource}" if request.gpus else "no GPU"
    if request.gpus and request.gpu_memory_gb is not None:
        gpus += f" of {request.gpu_memory_gb:g} GB"
    return f"{gpus}, {request.cpus:g} CPU, {request.memory_gib} GiB memory"


def _summary(faults: dict[str, str | None]) -> str:
    """Summarize why nodes do not qualify, grouped by reason."""
    by_fault: dict[str, list[str]] = {}
    for name, fault in faults.items():
        by_fault.setdefault(str(fault), []).append(name)
    parts = []
    for fault, names in list(by_fault.items())[:4]:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        parts.append(f"{shown}: {fault}")
    more = len(by_fault) - len(parts)
    return ("; ".join(parts) + (f"; and {more} other reasons" if more > 0 else "")) or "the cluster has no nodes"


def _fault(request: Needs, node: Node, policy: Policy) -> str | None:
    """Return the first reason why the Pod cannot run on a node, or None."""
    if node.unschedulable:
        return "is cordoned"
    for taint in node.taints:
        if taint.effect in {"NoSchedule", "NoExecute"} and taint.key not in policy.tolerated:
            return f"has the taint {taint}, which the run does not tolerate"
    if fault := _gpu_fault(request, node, policy.gpu_resource):
        return fault
    cpus = node.allocatable.get("cpu", 0.0)
    if cpus < request.cpus:
        return f"offers {cpus:g} CPU, {request.cpus:g} requested"
    memory = node.allocatable.get("memory", 0.0)
    if memory < request.memory_gib * 2**30:
        return f"offers {memory / 2**30:.1f} GiB memory, {request.memory_gib} GiB requested"
    return None


def _gpu_fault(request: Needs, node: Node, resource: str) -> str | None:
    if not request.gpus:
        return None
    count = node.allocatable.get(resource, 0.0)
    if count < request.gpus:
        return f"offers {count:g} {resource}, {request.gpus} requested"
    least = request.min_gpu_memory_mib
    if least is None:
        return None
    label = f"{resource}.memory"
    value = node.labels.get(label, "")
    if not value.isdecimal():
        return f"has no label {label} (GPU Feature Discovery sets it; by hand: kubectl label node NAME {label}=MIB)"
    if int(value) < least:
        return f"has GPUs of {value} MiB, {least} MiB required"
    return None
