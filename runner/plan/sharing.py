# SPDX-License-Identifier: Apache-2.0
"""Notebooks of a plan that share files and must not write them at the same time.

Whether two patterns may match the same file is decided without the disk, as the file does not exist yet. In doubt
they overlap: an unnecessary lock costs time, a missing one a file.
"""

from __future__ import annotations

import itertools
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from runner.core import files

if TYPE_CHECKING:
    from runner.plan.model import Plan

_TOKEN = re.compile(r"\*+|\?|\[!?+\]?+[^\]]{0,500}+\]|.", re.DOTALL)
"""Tokens of `fnmatch`: any text, any character, a set, a literal character."""
_LONGEST = 256
"""Parts of a path, or tokens of a name, that are compared: names have at most 255 bytes."""


def shared_products(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the notebooks of each group of overlapping product patterns.

    The key is the group's first pattern; groups of a single notebook are omitted.
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
    """Return the notebooks of each dataset that several notebooks read."""
    readers = {name: tuple(nb.name for nb in plan.notebooks if name in nb.datasets) for name in plan.datasets}
    return {name: names for name, names in readers.items() if len(names) > 1}


def shared_with(plan: Plan, name: str) -> dict[str, tuple[str, ...]]:
    """Return the shared products of a notebook, with the names of the other notebooks."""
    return {
        key: tuple(other for other in names if other != name)
        for key, names in shared_products(plan).items()
        if name in names
    }


def case_clashes(plan: Plan, checkout: Path) -> list[tuple[str, str]]:
    """Return pairs of product patterns that overlap only because the checkout's file system ignores case."""
    patterns = list(dict.fromkeys(pattern for notebook in plan.notebooks for pattern in notebook.products))
    pairs = [
        (one, other)
        for one, other in itertools.combinations(patterns, 2)
        if overlap(files.folded(one), files.folded(other)) and not overlap(one, other)
    ]
    return pairs if pairs and files.ignores_case(checkout) else []


def overlap(one: str, other: str) -> bool:
    """Return True if two patterns may match the same file, or a folder and a file in it."""
    first, second = PurePosixPath(one).parts, PurePosixPath(other).parts

    @cache
    def meet(i: int, j: int) -> bool:
        if i == len(first) or j == len(second) or i + j > _LONGEST:
            return True  # equal, or one is a folder of the other
        if first[i] == "**" or second[j] == "**":
            return meet(i + 1, j) or meet(i, j + 1)
        return _names_overlap(first[i], second[j]) and meet(i + 1, j + 1)

    return meet(0, 0)


def _names_overlap(one: str, other: str) -> bool:
    """Return True if two patterns of a name may match the same name."""
    first, second = _TOKEN.findall(one), _TOKEN.findall(other)

    @cache
    def meet(i: int, j: int) -> bool:
        if i + j > 2 * _LONGEST:
            return True
        if i < len(first) and first[i].startswith("*"):
            return meet(i + 1, j) or (j < len(second) and meet(i, j + 1))
        if j < len(second) and second[j].startswith("*"):
            return meet(i, j + 1) or (i < len(first) and meet(i + 1, j))
        if i == len(first) or j == len(second):
            return i == len(first) and j == len(second)
        return _tokens_overlap(first[i], second[j]) and meet(i + 1, j + 1)

    return meet(0, 0)


def _tokens_overlap(one: str, other: str) -> bool:
    if len(one) > 1 and len(other) > 1:
        return True  # two sets: assumed to overlap
    return one == "?" or other == "?" or fnmatchcase(one, other) or fnmatchcase(other, one)
