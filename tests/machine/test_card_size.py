# SPDX-License-Identifier: Apache-2.0
"""The need of a notebook and the smallest card that has it; and the rows of the probe joined with cells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.machine_records import GpuUse
from runner.machine.allocator_probe.probe import Allocation, Allocations
from runner.machine.allocator_probe.probing import (
    NO_LIBRARY,
    NOT_REPORTED,
    NOTHING,
    Device,
    account,
    overhead_bytes,
    with_need,
)
from runner.machine.card_size import CARDS_GB, MARGIN_FRACTION, need_bytes, smallest_card_gb
from runner.machine.usage import Span

GB = 10**9
FIRST = "GPU-00000000-0000-4000-8000-00000000000a"
SECOND = "GPU-00000000-0000-4000-8000-00000000000b"


@pytest.mark.parametrize(
    ("need", "card"),
    [
        (0, 16),
        (14.4 * GB, 16),
        (14.4 * GB + 1, 24),
        (21.6 * GB, 24),
        (28.8 * GB, 32),
        (30 * GB, 40),
        (43 * GB, 48),
        (44 * GB, 80),
        (73 * GB, 94),
        (85 * GB, 96),
        (90 * GB, 141),
        (126.9 * GB, 141),
        (127 * GB, 180),
        (165 * GB, 192),
        (200 * GB, 288),
        (260 * GB, None),
        (None, None),
    ],
)
def test_the_smallest_card_has_the_need_and_a_tenth_more(need, card):
    """Nine tenths of a card count, because cards report less than their names and pools need room."""
    assert smallest_card_gb(need if need is None else int(need)) == card


@given(st.integers(0, 300 * GB))
def test_a_larger_need_never_fits_a_smaller_card(need):
    """The answer is the first card of the list that fits, and all before it do not."""
    card = smallest_card_gb(need)
    fits = [size for size in CARDS_GB if need <= size * GB * (1 - MARGIN_FRACTION)]
    assert card == (fits[0] if fits else None)
    assert smallest_card_gb(need + GB) is None or smallest_card_gb(need + GB) >= card


def test_a_need_wants_both_of_its_parts():
    """What was not measured makes no need, and not a smaller one."""
    assert need_bytes(3 * GB, GB // 2) == 3.5 * GB
    assert need_bytes(3 * GB, None) is None
    assert need_bytes(None, GB) is None


def row(seconds, peak, *, at="end", end=0, held=None, free=None, device=0, uuid=None, source="rmm", managed=False):
    """Return a row of the probe, `seconds` after the start of the run."""
    return Allocation(
        at=at,
        monotonic=1000 + seconds,
        device=device,
        uuid=uuid,
        source=source,
        peak_bytes=peak,
        end_bytes=end,
        held_bytes=held,
        pool_bytes=held,
        managed=managed,
        free_bytes=free,
        total_bytes=80 * GB,
    )


SPANS = [Span(0, 0.0, 1.0), Span(1, 2.0, 3.0), Span(2, 4.0, 5.0)]


def joined(*rows, devices=(FIRST,), before=79 * GB, libraries=("rmm",), spans=SPANS, **options):
    """Return the account of three cells of a second each."""
    allocations = Allocations(
        rows=rows, libraries=dict.fromkeys(libraries, "1"), started=True, trouble=options.pop("trouble", None)
    )
    return account(
        allocations,
        spans=spans,
        started_monotonic=1000.0,
        devices=[Device(uuid=uuid, free_before_bytes=before) for uuid in devices],
        **options,
    )


def test_a_cells_peak_is_the_largest_of_its_rows():
    """What the cell before left counts at its start, and what lies between two cells belongs to none."""
    found = joined(row(0.1, 0, at="start"), row(0.9, 7), row(1.5, 99), row(2.1, 5, at="start"), row(2.9, 3))
    assert [found.cells[index][0].peak_allocated_bytes for index in (0, 1)] == [7, 5]
    assert 2 not in found.cells


def test_the_runs_figures_are_those_of_the_cell_with_the_largest_peak():
    """Overhead is measured there: what was free before, less what is free, less what allocators had taken."""
    found = joined(
        row(0.9, 10 * GB, end=GB, held=40 * GB, free=38 * GB),
        row(2.9, 30 * GB, end=2 * GB, held=40 * GB, free=int(38.4 * GB), source="cupy-hook"),
        row(4.9, 2 * GB, end=0, held=40 * GB, free=30 * GB),
    )
    total = found.gpus[FIRST]
    assert (total.peak_allocated_bytes, total.source, total.end_allocated_bytes) == (30 * GB, "cupy-hook", 0)
    assert total.overhead_bytes == int(0.6 * GB)
    use = with_need(GpuUse(uuid=FIRST, index=0, name="x", total_bytes=80 * GB), total)
    assert (use.need_bytes, use.smallest_card_gb) == (int(30.6 * GB), 40)
    assert use.card_margin_fraction == MARGIN_FRACTION
    assert "need_bytes" not in use.unavailable


def test_a_cell_that_the_kernel_did_not_survive_has_no_peak():
    """The row of its start alone would tell the peak of the cell before."""
    found = joined(row(0.9, 7), row(2.1, 5, at="start"))
    assert (found.cells[1][0].source, found.cells[1][0].reason) == ("none", NOT_REPORTED)
    assert found.cells[1][0].peak_allocated_bytes is None
    assert found.gpus[FIRST].peak_allocated_bytes == 7
    assert found.gpus[FIRST].reason == NOT_REPORTED


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"libraries": ()}, NO_LIBRARY),
        ({}, NOTHING),
        ({"none_reason": "off"}, "off"),
        ({"trouble": "broken"}, "broken"),
    ],
)
def test_nothing_measured_has_a_reason(options, reason):
    """Each GPU of the run says why there is no figure, and there is no need."""
    found = joined(**options)
    assert (found.cells, found.gpus[FIRST].source, found.gpus[FIRST].reason) == ({}, "none", reason)
    use = with_need(GpuUse(uuid=FIRST, index=0, name="x", total_bytes=None), found.gpus[FIRST])
    assert use.need_bytes is None
    assert use.unavailable["need_bytes"] == reason


def test_other_processes_leave_no_need():
    """Their memory shows in the device's figure, so what lies outside the pool is not the context's."""
    found = joined(row(0.9, 10 * GB, held=10 * GB, free=60 * GB), others="two workers")
    assert found.gpus[FIRST].peak_allocated_bytes == 10 * GB
    use = with_need(GpuUse(uuid=FIRST, index=0, name="x", total_bytes=None), found.gpus[FIRST])
    assert use.need_bytes is None
    assert use.unavailable["need_bytes"].startswith("two workers")


def test_a_notebook_that_reorders_its_gpus_is_followed_by_uuid():
    """The kernel's number 0 may be our second GPU; rows without a UUID go where that number went before."""
    digits = SECOND.partition("-")[2].replace("-", "")
    found = joined(row(0.9, 7, uuid=digits), row(2.9, 9), row(4.9, 5, device=1), devices=(FIRST, SECOND))
    assert [one.uuid for one in found.cells[0]] == [SECOND]
    assert found.gpus[SECOND].peak_allocated_bytes == 9
    stranger = joined(row(0.9, 7, uuid="f" * 32))
    assert stranger.cells[0][0].uuid == "GPU-ffffffff-ffff-ffff-ffff-ffffffffffff"
    assert stranger.gpus[FIRST].reason == NOTHING


def test_overhead_is_unknown_where_an_allocator_does_not_tell_its_pool():
    """None, and also where the difference is negative, since others gave memory back."""
    assert overhead_bytes(row(1, 1, held=None, free=70 * GB), 79 * GB) is None
    assert overhead_bytes(row(1, 1, held=5 * GB, free=None), 79 * GB) is None
    assert overhead_bytes(row(1, 1, held=5 * GB, free=70 * GB), None) is None
    assert overhead_bytes(row(1, 1, held=20 * GB, free=70 * GB), 79 * GB) is None
    assert overhead_bytes(row(1, 1, held=5 * GB, free=70 * GB), 79 * GB) == 4 * GB


def test_managed_memory_takes_the_largest_overhead_of_all_cells():
    """Pages that were not touched count for the allocator and not for the device: each cell tells too little."""
    found = joined(
        row(0.9, GB, held=GB, free=int(77.5 * GB), managed=True),
        row(2.9, 30 * GB, held=30 * GB, free=60 * GB, managed=True),
    )
    assert found.gpus[FIRST].overhead_bytes == GB // 2
    assert found.gpus[FIRST].managed


def test_a_neighbour_whose_memory_moved_leaves_no_need():
    """What it took is in the device's figure, as if it lay outside the notebook's pools."""
    allocations = Allocations(rows=(row(0.9, GB, held=GB, free=60 * GB),), libraries={"rmm": "1"}, started=True)
    device = Device(uuid=FIRST, free_before_bytes=79 * GB, neighbours="others used this GPU too, x (pid 7)")
    found = account(allocations, spans=SPANS, started_monotonic=1000.0, devices=[device])
    use = with_need(GpuUse(uuid=FIRST, index=0, name="x", total_bytes=None), found.gpus[FIRST])
    assert (use.allocated.peak_allocated_bytes, use.need_bytes) == (GB, None)
    assert use.unavailable["need_bytes"].startswith("others used this GPU too")


@pytest.mark.parametrize(("peak", "told"), [(75 * GB, True), (GB, False), (None, False)])
def test_nothing_allocated_is_not_all_there_is_to_say_where_memory_was_taken(peak, told):
    """Another library may hold the whole card: the figure of the device stands beside the allocators'."""
    use = GpuUse(uuid=FIRST, index=0, name="x", total_bytes=80 * GB, baseline_bytes=0, peak_gpu_memory_bytes=peak)
    reason = with_need(use, joined().gpus[FIRST]).allocated.reason
    assert reason.startswith(NOTHING)
    assert ("grew by 75.0 GB" in reason) is told
