# SPDX-License-Identifier: Apache-2.0
"""Can any node host each notebook? What none can would stay Pending until its timeout, unseen by our gate.

Pure: nodes as the Kubernetes API describes them and a plan's notebooks go in, a verdict for each notebook
comes out. What is compared is what the run asks for (`runner.tekton.sizes`), with all of a node counted as
free: a busy node is waited for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
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


Outcome = Literal["hosted", "skipped", "refused", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """What keeps Pods away from a node unless they tolerate it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"

    def __str__(self) -> str:
        return f"{self.key}{f'={self.value}' if self.value else ''}:{self.effect}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node."""

    name: str
    allocatable: Mapping[str, float] = field(default_factory=dict)
    """Cores, bytes and counts by resource name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Sequence[Taint] = ()
    unschedulable: bool = False
    images: Sequence[str] = ()


def read_nodes(items: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the nodes of a NodeList's items."""
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
    """Return the value of a Kubernetes quantity; one that cannot be read counts as nothing.

    >>> quantity("1500m"), quantity("16Gi"), quantity("8")
    (1.5, 17179869184.0, 8.0)
    """
    found = _QUANTITY.fullmatch(text.strip())
    if not found:
        return 0.0
    return float(found["number"]) * _UNITS[found["unit"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is done with a notebook that no node can host, and what the Pods tolerate."""

    skip_optional: bool = True
    skip_all: bool = False
    gpu_resource: str = GPU_RESOURCE
    tolerated: tuple[str, ...] = (GPU_RESOURCE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a notebook can be placed."""

    notebook: str
    outcome: Outcome
    hosts: tuple[str, ...]
    reason: str


def judge(notebooks: Sequence[Notebook], nodes: Sequence[Node], policy: Policy, unknown: str = "") -> list[Verdict]:
    """Return a verdict for each notebook, in order.

    Parameters
    ----------
    unknown
        Why GPUs cannot be judged; notebooks that ask for them and fit no node then count as unknown.
    """
    return [_judge(notebook, nodes, policy, unknown) for notebook in notebooks]


def _judge(notebook: Notebook, nodes: Sequence[Node], policy: Policy, unknown: str) -> Verdict:
    asked = needs(notebook)
    faults = {node.name: _fault(asked, node, policy) for node in nodes}
    hosts = tuple(name for name, fault in faults.items() if fault is None)
    if hosts:
        return Verdict(notebook=notebook.name, outcome="hosted", hosts=hosts, reason=f"fits {', '.join(hosts[:5])}")
    if asked.gpus and unknown:
        reason = f"cannot know whether a node can host {describe(asked, policy.gpu_resource)}: {unknown}"
        return Verdict(notebook=notebook.name, outcome="unknown", hosts=(), reason=reason)
    skip = policy.skip_all or (notebook.optional and policy.skip_optional)
    return Verdict(
        notebook=notebook.name,
        outcome="skipped" if skip else "refused",
        hosts=(),
        reason=f"no node can host {describe(asked, policy.gpu_resource)}: {_summary(faults)}",
    )


def describe(asked: Needs, gpu_resource: str = GPU_RESOURCE) -> str:
    """Return a request in words."""
    gpus = f"{asked.gpus} {gpu_resource}" if asked.gpus else "no GPU"
    if asked.gpus and asked.gpu_memory_gb is not None:
        gpus += f" of {asked.gpu_memory_gb:g} GB"
    return f"{gpus}, {asked.cpus:g} CPU, {asked.memory_gib} GiB memory"


def _summary(faults: dict[str, str | None]) -> str:
    """Name what the nodes lack, nodes with the same fault together."""
    by_fault: dict[str, list[str]] = {}
    for name, fault in faults.items():
        by_fault.setdefault(str(fault), []).append(name)
    parts = []
    for fault, names in list(by_fault.items())[:4]:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        parts.append(f"{shown}: {fault}")
    more = len(by_fault) - len(parts)
    return ("; ".join(parts) + (f"; and {more} other reasons" if more > 0 else "")) or "the cluster has no nodes"


def _fault(asked: Needs, node: Node, policy: Policy) -> str | None:
    """Return the first thing that keeps the Pod off this node, or None."""
    if node.unschedulable:
        return "is cordoned"
    for taint in node.taints:
        if taint.effect in {"NoSchedule", "NoExecute"} and taint.key not in policy.tolerated:
            return f"has the taint {taint}, which the run does not tolerate"
    gpu = _gpu_fault(asked, node, policy.gpu_resource)
    if gpu:
        return gpu
    cpus = node.allocatable.get("cpu", 0.0)
    if cpus < asked.cpus:
        return f"has {cpus:g} CPU to give, {asked.cpus:g} are requested"
    memory = node.allocatable.get("memory", 0.0)
    if memory < asked.memory_gib * 2**30:
        return f"has {memory / 2**30:.1f} GiB memory to give, {asked.memory_gib} GiB are requested"
    return None


def _gpu_fault(asked: Needs, node: Node, resource: str) -> str | None:
    if not asked.gpus:
        return None
    count = node.allocatable.get(resource, 0.0)
    if count < asked.gpus:
        return f"has {count:g} {resource} to give, {asked.gpus} are requested"
    least = asked.min_gpu_memory_mib
    if least is None:
        return None
    label = f"{resource}.memory"
    value = node.labels.get(label, "")
    if not value.isdecimal():
        return f"has no label {label} (GPU Feature Discovery sets it; by hand: kubectl label node NAME {label}=MIB)"
    if int(value) < least:
        return f"has GPUs of {value} MiB, {least} MiB are needed"
    return None
