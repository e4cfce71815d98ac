# SPDX-License-Identifier: Apache-2.0
"""A GPU that ran out of memory: the figures in the messages of libraries, and which remedy is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.machine_records import DeviceShortage
from runner.machine.device_memory import explain, shortage

GB = 10**9
CUPY = "Out of memory allocating 88,233,017,344 bytes (allocated so far: 21,004,110,336 bytes)."
RMM = (
    "std::bad_alloc: out_of_memory: CUDA error (failed to allocate 88233017344 bytes) at: "
    "/include/rmm/mr/device/cuda_memory_resource.hpp:62: cudaErrorMemoryAllocation out of memory"
)
POOL = (
    "std::bad_alloc: out_of_memory: RMM failure at:/include/rmm/mr/device/pool_memory_resource.hpp:257: "
    "Maximum pool size exceeded (failed to allocate 18.626451 GiB): std::bad_alloc"
)
TORCH = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 3.19 GiB is "
    "free. Including non-PyTorch memory, this process has 75.95 GiB memory in use."
)
JAX = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 85899345920 bytes."
NUMBA = "Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"


@pytest.mark.parametrize(
    ("message", "asked", "allocated", "free"),
    [
        (CUPY, 88_233_017_344, 21_004_110_336, None),
        (RMM, 88_233_017_344, None, None),
        (POOL, int(18.626451 * 2**30), None, None),
        (TORCH, 20 * 2**30, None, int(3.19 * 2**30)),
        (JAX, 85_899_345_920, None, None),
        (NUMBA, None, None, None),
        ("", None, None, None),
    ],
)
def test_the_messages_of_libraries_are_read(message, asked, allocated, free):
    """Bytes asked, allocated and free are found where a library tells them."""
    seen = shortage(message, DeviceShortage())
    assert (seen.asked_bytes, seen.allocated_bytes, seen.free_bytes) == (asked, allocated, free)


def test_the_probe_knows_better_than_one_librarys_message():
    """The "so far" of cupy is its own pool; the probe has the whole process."""
    told = DeviceShortage(allocated_bytes=30 * GB, pool_bytes=40 * GB, free_bytes=GB, total_bytes=80 * GB)
    seen = shortage(CUPY, told)
    assert (seen.allocated_bytes, seen.pool_bytes, seen.free_bytes) == (30 * GB, 40 * GB, GB)


@given(st.text(max_size=200))
def test_any_message_is_read(text):
    """Whatever a notebook raises, there is an explanation."""
    for prefix in ("", "failed to allocate ", "Out of memory allocating ", "allocated so far: "):
        assert explain(prefix + text, shortage(prefix + text, DeviceShortage()))


def advice(message, **figures):
    """Return the explanation for these figures."""
    return explain(message, shortage(message, DeviceShortage(**figures)))


def test_the_figures_stand_in_the_explanation():
    """Asked, allocated, pool and free, in this order."""
    text = advice(RMM, allocated_bytes=3 * GB, pool_bytes=40 * GB, free_bytes=39 * GB, total_bytes=80 * GB)
    places = [text.index(part) for part in ("88.2 GB", "3.0 GB allocated", "40.0 GB in the pool", "39.0 GB free")]
    assert places == sorted(places)


def test_a_request_larger_than_the_card_wants_fewer_rows():
    """A dense copy of a sparse matrix: no pool and no managed memory is the remedy."""
    text = advice(RMM, allocated_bytes=3 * GB, pool_bytes=40 * GB, free_bytes=39 * GB, total_bytes=80 * GB)
    assert "fewer rows" in text
    assert "a card of 141 GB" in text
    assert "smaller pool" not in text
    assert "no common card" in advice(JAX.replace("85899345920", str(300 * GB)), total_bytes=80 * GB)


def test_a_pool_that_starves_others_is_to_be_smaller():
    """While rmm's pool is nearly empty, cupy allocates by itself."""
    message = CUPY.replace("88,233,017,344", "20,000,000,000")
    text = advice(message, allocated_bytes=GB, pool_bytes=70 * GB, free_bytes=2 * GB, total_bytes=80 * GB)
    assert "pool_allocator=True, initial_pool_size" in text
    assert "rmm_cupy_allocator" in text


def test_a_limit_of_the_pool_is_named():
    """The device has room, the pool may not grow."""
    text = advice(POOL, allocated_bytes=10 * GB, pool_bytes=12 * GB, free_bytes=60 * GB, total_bytes=80 * GB)
    assert "maximum_pool_size" in text


def test_memory_in_pieces_is_told_from_too_little():
    """All would fit; a pool does not have it not fragmented."""
    message = RMM.replace("88233017344", str(20 * GB))
    text = advice(message, allocated_bytes=30 * GB, pool_bytes=70 * GB, free_bytes=9 * GB, total_bytes=80 * GB)
    assert "not fragmented" in text


def test_memory_that_others_hold_is_a_matter_of_the_gate():
    """It would fit on the card when it is free."""
    message = RMM.replace("88233017344", str(20 * GB))
    text = advice(
        message, allocated_bytes=30 * GB, free_bytes=GB, total_bytes=80 * GB, baseline_bytes=40 * GB, outside_bytes=GB
    )
    assert "40.0 GB held by others" in text
    assert "--wait" in text


def test_a_card_that_is_too_small_names_the_one_that_is_not():
    """Everything wanted at once, with the context, against the common cards."""
    message = RMM.replace("88233017344", str(10 * GB))
    text = advice(message, allocated_bytes=20 * GB, free_bytes=2 * GB, total_bytes=24 * GB, outside_bytes=GB)
    assert "31.0 GB are needed at once" in text
    assert "a card of 40 GB" in text
    assert "managed" in text


def test_a_message_without_figures_gets_the_general_advice():
    """There is no size in what numba says."""
    assert "managed memory" in advice(NUMBA)


@pytest.mark.parametrize(
    ("total", "card"), [(16 * GB, "24 GB"), (24_146_608_128, "32 GB"), (85_520_809_984, "96 GB"), (400 * GB, None)]
)
def test_where_the_need_is_not_known_the_next_larger_card_is_named(total, card):
    """The message has no figure, or nobody counted what was allocated; cards report a little more or less than their name."""
    named = f"or a card of {card}" if card else "or a larger card"
    assert advice("CUDA error: out of memory", total_bytes=total).endswith(named)
    assert advice(f"Out of memory allocating {GB:,} bytes", total_bytes=total).endswith(named)
