# SPDX-License-Identifier: Apache-2.0
"""Explains why a GPU ran out of memory: the requested size, how memory was used, and a remedy.

"Out of memory" has several causes with opposite remedies: a pool that holds memory needed by another
allocator, a card shared with others, a card that is too small, one request that exceeds any card.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runner.core.units import format_bytes
from runner.machine.card_size import next_card_gb, smallest_card_gb

if TYPE_CHECKING:
    from runner.core.machine_records import DeviceShortage

_UNITS = {"": 1, "B": 1, "BYTES": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = r"([\d,]{1,30}(?:\.\d{1,12})?)\s*((?:[KMGT]i?)?B\b|bytes\b)?"
_ASKED = tuple(
    re.compile(pattern + _SIZE, re.IGNORECASE)
    for pattern in (
        r"Out of memory allocating ",  # cupy
        r"failed to allocate ",  # rmm
        r"Tried to allocate ",  # torch
        r"while trying to allocate ",  # jax
        r"Unable to allocate ",  # numpy, also used for devices
    )
)
_ALLOCATED = re.compile(r"allocated so far: " + _SIZE, re.IGNORECASE)
_FREE = re.compile(r"of which " + _SIZE + r" is free", re.IGNORECASE)
_CUPY = re.compile(r"Out of memory allocating ")


def shortage(message: str, reported: DeviceShortage) -> DeviceShortage:
    """Return the figures of a shortage: those of the message if present, else those of the allocator.

    Parameters
    ----------
    message
        Message of the exception.
    reported
        Figures of the allocator probe and the device at the end of the cell.
    """
    import dataclasses

    allocated = _size(_ALLOCATED.search(message))
    free = _size(_FREE.search(message))
    return dataclasses.replace(
        reported,
        asked_bytes=next((size for pattern in _ASKED if (size := _size(pattern.search(message))) is not None), None),
        # cupy reports its own pool only; the probe has all allocators of the process.
        allocated_bytes=allocated if reported.allocated_bytes is None else reported.allocated_bytes,
        free_bytes=reported.free_bytes if free is None else free,
    )


def explain(message: str, seen: DeviceShortage) -> str:
    """Describe a shortage and a suitable remedy."""
    figures = [
        f"{format_bytes(size)} {what}"
        for size, what in (
            (seen.asked_bytes, "requested"),
            (seen.allocated_bytes, "allocated"),
            (seen.pool_bytes, "in the pool"),
            (seen.free_bytes, "free on the device"),
        )
        if size is not None
    ]
    if seen.free_bytes is not None and seen.total_bytes is not None:
        figures[-1] += f" of {format_bytes(seen.total_bytes)}"
    known = ", ".join(figures)
    advice = _advice(message, seen)
    return f"the GPU's memory was full: {known}; {advice}" if known else f"the GPU's memory was full: {advice}"


def _advice(message: str, seen: DeviceShortage) -> str:
    asked, total = seen.asked_bytes, seen.total_bytes
    if asked is None:
        return (
            "use managed memory (rmm.reinitialize(managed_memory=True)) or a smaller pool, fewer rows at once"
            f"{_next_card(total)}"
        )
    if total is not None and asked > total:
        return (
            "a single request exceeds the card, so no pool helps: use fewer rows at once, or keep the matrix sparse"
            f"{_card(asked)}"
        )
    if _pool_hoards(message, seen, asked):
        return (
            "the pool holds memory that was needed outside it: make it smaller "
            "(rmm.reinitialize(pool_allocator=True, initial_pool_size=...)), or let cupy allocate from it "
            "(cupy.cuda.set_allocator(rmm_cupy_allocator))"
        )
    if "maximum pool size" in message.lower() and (seen.free_bytes or 0) > asked:
        return "the pool may not grow although the device has free memory: raise or remove maximum_pool_size"
    return _by_total(asked, seen)


def _by_total(asked: int, seen: DeviceShortage) -> str:
    """Compare the total need at that moment with the card's memory."""
    total, others = seen.total_bytes, seen.baseline_bytes or 0
    if total is None or seen.allocated_bytes is None:
        return f"use fewer rows at once, managed memory (rmm.reinitialize(managed_memory=True)){_next_card(total)}"
    wanted = asked + seen.allocated_bytes + (seen.outside_bytes or 0)
    if wanted <= total - others:
        return (
            "it would fit if the free memory were not fragmented: use managed memory "
            "(rmm.reinitialize(managed_memory=True)), a smaller pool, or free unused objects before this cell"
        )
    if wanted <= total:
        return (
            f"it would fit without the {format_bytes(others)} held by others before the run: "
            "require more at the gate (--min-gpu-memory-gb) and let it wait (--wait)"
        )
    return (
        f"{format_bytes(wanted)} are needed at once: use fewer rows, or managed memory "
        f"(rmm.reinitialize(managed_memory=True); slower){_card(wanted)}"
    )


def _pool_hoards(message: str, seen: DeviceShortage, asked: int) -> bool:
    """Return True if the request came from outside a pool that had enough free memory for it."""
    if seen.pool_bytes is None or seen.allocated_bytes is None:
        return False
    outside = bool(_CUPY.search(message)) or "PyTorch" in message or "cuMemAlloc" in message
    return outside and seen.pool_bytes - seen.allocated_bytes >= asked


def _card(wanted: int) -> str:
    card = smallest_card_gb(wanted)
    return f", or a card of {card} GB" if card else "; no common card has that much"


def _next_card(total: int | None) -> str:
    """Suggest the next larger card, if the need is unknown."""
    card = next_card_gb(total) if total is not None else None
    return f", or a card of {card} GB" if card else ", or a larger card"


def _size(found: re.Match[str] | None) -> int | None:
    if found is None:
        return None
    number, unit = found.groups()
    try:
        return int(float(number.replace(",", "")) * _UNITS[(unit or "").upper()])
    except (ValueError, KeyError):
        return None
