# SPDX-License-Identifier: Apache-2.0
"""Nodes of a cluster as the Kubernetes API describes them, reduced to what placing a Pod depends on."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
