# SPDX-License-Identifier: Apache-2.0
"""GPU memory that a notebook needs, and the smallest common card with that much; pure.

A pool takes half of a card's free memory at once, so memory in use reflects the pool and not the need.
The need is the peak of memory actually allocated, plus the memory outside the pool at that time: the
CUDA context, modules of libraries, and their own allocations.
"""

from __future__ import annotations

CARDS_GB = (16, 24, 32, 40, 48, 80, 94, 96, 141, 180, 192, 288)
"""Nominal sizes of common cards, in decimal GB; actual sizes differ slightly."""

MARGIN_FRACTION = 0.10
"""Share of a card kept free. Half of it is because a card may report up to 5 % less than its nominal
size, as the gate allows (``gpu_free_fraction``); the other half is for fragmentation of pools."""


def need_bytes(peak_allocated_bytes: int | None, overhead_bytes: int | None) -> int | None:
    """Return the need, or None if a part of it was not measured."""
    if peak_allocated_bytes is None or overhead_bytes is None:
        return None
    return peak_allocated_bytes + overhead_bytes


def smallest_card_gb(need: int | None) -> int | None:
    """Return the smallest common card that fits a need with the margin, or None."""
    if need is None:
        return None
    return next((card for card in CARDS_GB if need <= card * 1e9 * (1 - MARGIN_FRACTION)), None)


def next_card_gb(total_bytes: int) -> int | None:
    """Return the next larger common card than one of this reported size, or None."""
    return next((card for card in CARDS_GB if card * 1e9 * (1 - MARGIN_FRACTION) > total_bytes), None)
