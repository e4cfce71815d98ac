# SPDX-License-Identifier: Apache-2.0
"""What a notebook needs of a GPU, and the smallest common card that has it; pure.

A pool takes half of a card's free memory at once, so memory in use shows the pool and not the need.
The need is what was really allocated at most, plus what the device held outside the pool then: the
CUDA context, modules of libraries, memory that they take for themselves.
"""

from __future__ import annotations

CARDS_GB = (16, 24, 32, 40, 48, 80, 94, 96, 141, 180, 192, 288)
"""Cards as they are sold, in decimal GB; each has that much or a little more or less."""

MARGIN_FRACTION = 0.10
"""Kept free of a card. A card may report up to a twentieth less than its name says, which is what
the gate allows for (``gpu_free_fraction``); the other half is for pools, which cut their memory
into pieces and so need more than the sum of them."""


def need_bytes(peak_allocated_bytes: int | None, overhead_bytes: int | None) -> int | None:
    """Return the need, or None when one of its parts was not measured."""
    if peak_allocated_bytes is None or overhead_bytes is None:
        return None
    return peak_allocated_bytes + overhead_bytes


def smallest_card_gb(need: int | None, margin_fraction: float = MARGIN_FRACTION) -> int | None:
    """Return the smallest common card that a need fits with the margin, None if there is none."""
    if need is None:
        return None
    return next((card for card in CARDS_GB if need <= card * 1e9 * (1 - margin_fraction)), None)


def next_card_gb(total_bytes: int) -> int | None:
    """Return the next larger common card than one that reports so many bytes, None if there is none."""
    return next((card for card in CARDS_GB if card * 1e9 * (1 - MARGIN_FRACTION) > total_bytes), None)
