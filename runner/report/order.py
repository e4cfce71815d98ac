# SPDX-License-Identifier: Apache-2.0
"""What needs make of the order of a plan: how deep a notebook stands, and which needs say something.

One pass in topological order each: a plan in which each notebook needs all earlier ones has more
paths than can be walked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter


def depths(needs: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Return by notebook how many must run before it, one after the other; the plan has no circles."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(needs).static_order():
        found[name] = max((1 + found[need] for need in needs.get(name, ())), default=0)
    return found


def direct(needs: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """Return the needs of each notebook without those that another of its needs implies."""
    bits = {name: 1 << place for place, name in enumerate(TopologicalSorter(needs).static_order())}
    before: dict[str, int] = {}
    kept: dict[str, tuple[str, ...]] = {}
    for name in bits:
        mine = needs.get(name, ())
        implied = 0
        for need in mine:
            implied |= before[need]
        before[name] = implied
        for need in mine:
            before[name] |= bits[need]
        kept[name] = tuple(need for need in mine if not bits[need] & implied)
    return kept
