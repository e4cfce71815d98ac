# SPDX-License-Identifier: Apache-2.0
"""Notebooks of a plan that share a file: they must not make it at the same time.

Whether two patterns may name one file is decided without looking at the disk, where the file
is still to be made. In doubt they share it: a lock too many costs time, one too few a file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from runner.core import files

if TYPE_CHECKING:
    from runner.plan.model import Plan

_TOKEN = re.compile(r"\*+|\?|\[!?+\]?+[^\]]{0,500}+\]|.", re.DOTALL)
"""What `fnmatch` reads one by one: any text, any character, one of a set, itself."""
_LOOKED_AT = 256
"""Parts of a path, or of a name, beyond which no file is looked for: names end at 255 bytes."""


def shared_products(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return, for each group of product patterns that may name one file, which notebooks make it.

    The key is the group's first pattern; groups of a single notebook are left out.
    """
    groups: list[tuple[set[str], list[str]]] = []
    for notebook in plan.notebooks:
        for pattern in notebook.products:
            overlapping = [group for group in groups if any(overlap(pattern, other) for other in group[0])]
            patterns, names = {pattern}, [notebook.name]
            for group in overlapping:
                patterns |= group[0]
                names = [*group[1], *names]
                groups.remove(group)
            groups.append((patterns, list(dict.fromkeys(names))))
    return {min(patterns): tuple(names) for patterns, names in groups if len(names) > 1}


def shared_datasets(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return which notebooks read each dataset that more than one of them reads."""
    readers = {name: tuple(nb.name for nb in plan.notebooks if name in nb.datasets) for name in plan.datasets}
    return {name: names for name, names in readers.items() if len(names) > 1}


def shared_with(plan: Plan, name: str) -> dict[str, tuple[str, ...]]:
    """Return the shared products of one notebook with the names of the others."""
    return {
        key: tuple(other for other in names if other != name)
        for key, names in shared_products(plan).items()
        if name in names
    }


def case_clashes(plan: Plan, checkout: Path) -> list[tuple[str, str]]:
    """Return the product patterns that name one file only because the checkout's volume ignores case."""
    patterns = list(dict.fromkeys(pattern for notebook in plan.notebooks for pattern in notebook.products))
    pairs = [
        (one, other)
        for one, other in itertools.combinations(patterns, 2)
        if overlap(files.folded(one), files.folded(other)) and not overlap(one, other)
    ]
    return pairs if pairs and files.ignores_case(checkout) else []


def overlap(one: str, other: str) -> bool:
    """Return True if two patterns may name one file, or a folder of one the file of the other."""
    return _paths_meet(PurePosixPath(one).parts, PurePosixPath(other).parts)


def _paths_meet(one: Sequence[str], other: Sequence[str]) -> bool:
    @cache
    def meet(i: int, j: int) -> bool:
        if i == len(one) or j == len(other) or i + j > _LOOKED_AT:
            return True  # what is matched this far is a folder of the rest, or the same
        if one[i] == "**" or other[j] == "**":
            return meet(i + 1, j) or meet(i, j + 1)
        return _names_meet(one[i], other[j]) and meet(i + 1, j + 1)

    return meet(0, 0)


def _names_meet(one: str, other: str) -> bool:
    """Return True if one name may match two patterns of a name."""
    first, second = _TOKEN.findall(one), _TOKEN.findall(other)

    @cache
    def meet(i: int, j: int) -> bool:
        if i + j > 2 * _LOOKED_AT:
            return True
        if i < len(first) and first[i].startswith("*"):
            return meet(i + 1, j) or (j < len(second) and meet(i, j + 1))
        if j < len(second) and second[j].startswith("*"):
            return meet(i, j + 1) or (i < len(first) and meet(i + 1, j))
        if i == len(first) or j == len(second):
            return i == len(first) and j == len(second)
        return _characters_meet(first[i], second[j]) and meet(i + 1, j + 1)

    return meet(0, 0)


def _characters_meet(one: str, other: str) -> bool:
    if len(one) > 1 and len(other) > 1:
        return True  # two sets: not looked into
    return one == "?" or other == "?" or fnmatchcase(one, other) or fnmatchcase(other, one)
