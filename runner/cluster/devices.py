# SPDX-License-Identifier: Apache-2.0
"""GPUs under Dynamic Resource Allocation: they stand in ResourceSlices, not in what a node can give.

Our Pods ask by resource name. A DeviceClass with that name as its extended resource leads it to the devices; without
one, what the scheduler would do with the request cannot be known from here.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from runner.cluster.capacity import Node, quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GPU_DRIVER = "gpu.nvidia.com"
SLICES = "resourceslices.resource.k8s.io"
CLASSES = "deviceclasses.resource.k8s.io"


def with_devices(
    nodes: Sequence[Node],
    slices: Sequence[Mapping[str, Any]] | None,
    classes: Sequence[Mapping[str, Any]],
    resource: str,
) -> tuple[list[Node], str]:
    """Return the nodes with the GPUs of their slices, and why GPUs cannot be judged; empty where they can.

    Parameters
    ----------
    slices
        None where they may not be read.
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
        why = f"GPUs stand in ResourceSlices, and no DeviceClass has the extended resource name {resource}"
        return list(nodes), "" if some else why
    return [_given(node, memory.get(node.name), resource) for node in nodes], ""


def _memory(device: Mapping[str, Any]) -> float:
    """Return the bytes of a whole GPU; 0 for what is none."""
    device = device.get("basic") or device  # as v1beta1 has it
    kind = ((device.get("attributes") or {}).get("type") or {}).get("string", "gpu")
    size = ((device.get("capacity") or {}).get("memory") or {}).get("value", "0")
    return quantity(str(size)) if kind == "gpu" else 0.0


def _given(node: Node, memory: list[float] | None, resource: str) -> Node:
    if not memory or node.allocatable.get(resource):
        return node
    label = {f"{resource}.memory": str(int(min(memory) / 2**20))}
    return dataclasses.replace(
        node, allocatable={**node.allocatable, resource: float(len(memory))}, labels={**label, **node.labels}
    )
