# SPDX-License-Identifier: Apache-2.0
"""Notebooks of a plan that share a file: they must not make it at the same time."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.plan import Plan


def shared_products(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return, for each group of product patterns that may name one file, which notebooks make it.

    The key is the group's first pattern; groups of a single notebook are left out.
    """
    groups: list[tuple[set[str], list[str]]] = []
    for notebook in plan.notebooks:
        for pattern in notebook.products:
            overlapping = [group for group in groups if any(_overlap(pattern, other) for other in group[0])]
            patterns, names = {pattern}, [notebook.name]
            for group in overlapping:
                patterns |= group[0]
                names = [*group[1], *names]
                groups.remove(group)
            groups.append((patterns, list(dict.fromkeys(names))))
    return {min(patterns): tuple(names) for patterns, names in groups if len(names) > 1}


def shared_with(plan: Plan, name: str) -> dict[str, tuple[str, ...]]:
    """Return the shared products of one notebook with the names of the others."""
    return {
        key: tuple(other for other in names if other != name)
        for key, names in shared_products(plan).items()
        if name in names
    }


def _overlap(one: str, other: str) -> bool:
    """Tell whether two patterns may name one file: the same, one matches the other, or lies inside it."""
    first, second = PurePosixPath(one), PurePosixPath(other)
    return (
        first == second
        or fnmatchcase(one, other)
        or fnmatchcase(other, one)
        or first in second.parents
        or second in first.parents
    )
