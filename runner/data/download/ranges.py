# SPDX-License-Identifier: Apache-2.0
"""Which bytes of a file are there and which are missing: half-open, sorted, merged ranges."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return the ranges sorted, without empty ones, touching and overlapping ones joined.

    >>> merged([(5, 7), (0, 2), (2, 4), (6, 9), (3, 3)])
    [(0, 4), (5, 9)]
    """
    result: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def gaps(ranges: Iterable[Range], total: int) -> list[Range]:
    """Return what of ``[0, total)`` the ranges leave out.

    >>> gaps([(0, 4), (5, 9)], 10)
    [(4, 5), (9, 10)]
    """
    missing = []
    position = 0
    for start, end in merged(ranges):
        if start > position:
            missing.append((position, min(start, total)))
        position = max(position, end)
    if position < total:
        missing.append((position, total))
    return missing


def covered(ranges: Iterable[Range]) -> int:
    """Return the number of bytes in the ranges."""
    return sum(end - start for start, end in merged(ranges))


def frontier(ranges: Iterable[Range]) -> int:
    """Return up to where everything from the start is there."""
    first = next(iter(merged(ranges)), (0, 0))
    return first[1] if first[0] == 0 else 0
