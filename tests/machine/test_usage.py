# SPDX-License-Identifier: Apache-2.0
"""What a cell used follows from the samples around it by rules that can be checked by hand."""

from __future__ import annotations

import math
from array import array

import pytest

from runner.machine.samples import GpuSeries, Sampled
from runner.machine.usage import Span, per_cell, per_run

NAN = math.nan


def sampled(*, seconds, used=(), percent=(), joules=(), celsius=(), host=(), watts=()) -> Sampled:
    result = Sampled()
    empty = [NAN] * len(seconds)
    series = GpuSeries()
    series.used_bytes.extend(used or empty)
    series.utilization_percent.extend(percent or empty)
    series.temperature_celsius.extend(celsius or empty)
    series.energy_joules.extend(joules or empty)
    series.power_watts.extend(watts or empty)
    result.gpus["GPU-a"] = series
    result.seconds.extend(seconds)
    result.host_memory_bytes.extend(host or empty)
    result.host_cpu_percent.extend(empty)
    return result


def cell(samples: Sampled, start: float, end: float):
    return per_cell(samples, [Span(7, start, end)])[7]


def test_a_peak_is_the_largest_sample_within_the_cell():
    """Larger samples before and after the cell do not count."""
    samples = sampled(seconds=[0, 1, 2, 3, 4], used=[90, 10, 30, 20, 99], host=[9, 1, 3, 2, 8])
    use = cell(samples, 0.5, 3.5)
    assert (use.peak_gpu_memory_bytes, use.peak_host_memory_bytes) == ({"GPU-a": 30}, 3)


def test_the_sample_asked_for_at_the_end_counts():
    """A sample some milliseconds after the end belongs to the cell, one later does not."""
    samples = sampled(seconds=[0, 1, 1.505, 1.6], used=[1, 2, 50, 99])
    assert cell(samples, 0.9, 1.5).peak_gpu_memory_bytes == {"GPU-a": 50}


@pytest.mark.parametrize(("start", "end", "expected"), [(1.1, 1.2, 10), (1.8, 1.9, 10), (7, 8, 20), (0.1, 0.2, 10)])
def test_a_cell_between_two_ticks_has_the_sample_before_it(start, end, expected):
    """What is sampled after a short cell may be the next cell's doing, so the one before stands for it."""
    samples = sampled(seconds=[1, 2], used=[10, 20])
    assert cell(samples, start, end).peak_gpu_memory_bytes == {"GPU-a": expected}


def test_a_sample_in_the_next_cell_is_the_next_cell_s():
    """However soon after the end of a cell it is taken."""
    samples = sampled(seconds=[0, 1, 1.505], used=[1, 2, 50])
    uses = per_cell(samples, [Span(1, 1.502, 1.6), Span(0, 0.9, 1.5)])
    assert uses[0].peak_gpu_memory_bytes == {"GPU-a": 2}
    assert uses[1].peak_gpu_memory_bytes == {"GPU-a": 50}


def test_a_run_without_cells_has_none():
    """A kernel that never answered leaves samples and no cells."""
    assert per_cell(sampled(seconds=[0, 1], used=[1, 2]), []) == {}


def test_utilization_is_weighed_by_time():
    """Samples taken extra at the end of cells do not count more than regular ones."""
    samples = sampled(seconds=[0, 1, 1.1, 1.2, 2.2], percent=[0, 100, 0, 0, 50])
    assert cell(samples, 0, 2.2).gpu_utilization_mean_percent == pytest.approx((100 * 1 + 50 * 1) / 2.2)


def test_utilization_of_a_cell_within_one_interval_is_the_next_sample_s():
    """A sample tells of the time since the one before it."""
    samples = sampled(seconds=[0, 1, 2], percent=[5, 60, 70])
    assert cell(samples, 1.2, 1.4).gpu_utilization_mean_percent == 70
    assert cell(samples, 5, 6).gpu_utilization_mean_percent == 70


def test_energy_is_read_between_the_samples():
    """The counter is read off the straight line at both ends of the cell."""
    samples = sampled(seconds=[0, 1, 2], joules=[1000, 1100, 1400])
    assert cell(samples, 0.5, 1.5).gpu_energy_joules == pytest.approx(1250 - 1050)
    assert cell(samples, 1.25, 1.5).gpu_energy_joules == pytest.approx(75)
    assert cell(samples, 0.5, 1.0).gpu_energy_joules + cell(samples, 1.0, 1.5).gpu_energy_joules == pytest.approx(200)


def test_energy_of_two_gpus_is_their_sum_and_none_if_one_has_no_counter():
    """A part of the energy is not given as if it were all of it."""
    samples = sampled(seconds=[0, 1], joules=[0, 10])
    other = sampled(seconds=[0, 1], joules=[0, 5]).gpus["GPU-a"]
    samples.gpus["GPU-b"] = other
    assert cell(samples, 0, 1).gpu_energy_joules == pytest.approx(15)
    samples.gpus["GPU-b"] = sampled(seconds=[0, 1]).gpus["GPU-a"]
    assert cell(samples, 0, 1).gpu_energy_joules is None


@pytest.mark.parametrize("joules", [[NAN, NAN], [100, 50]])
def test_no_counter_and_one_that_went_back_give_none(joules):
    """Energy is None, not 0 and not negative."""
    assert cell(sampled(seconds=[0, 1], joules=joules), 0, 1).gpu_energy_joules is None


def test_a_cell_outside_of_all_samples_has_no_energy():
    """Where nothing was counted the energy is None."""
    samples = sampled(seconds=[1, 2], joules=[0, 10])
    assert cell(samples, 3, 4).gpu_energy_joules is None
    assert cell(samples, 0, 0.5).gpu_energy_joules is None


def test_nothing_measured_is_none_and_not_zero():
    """A GPU without figures and a run without samples give None."""
    for samples in (sampled(seconds=[0, 1]), sampled(seconds=[])):
        use = cell(samples, 0, 1)
        assert use.peak_gpu_memory_bytes == {"GPU-a": None}
        assert (use.gpu_utilization_mean_percent, use.gpu_energy_joules, use.peak_host_memory_bytes) == (None,) * 3
        figures = per_run(samples).gpus["GPU-a"]
        assert (figures.peak_gpu_memory_bytes, figures.utilization_mean_percent, figures.energy_joules) == (None,) * 3
        assert (figures.busy_seconds, figures.temperature_max_celsius) == (None, None)


def test_a_lost_gpu_keeps_the_figures_of_its_life():
    """NaN after the loss neither hides nor lowers what was measured before."""
    samples = sampled(seconds=[0, 1, 2, 3], used=[1, 9, NAN, NAN], percent=[0, 40, NAN, NAN], joules=[5, 7, NAN, NAN])
    figures = per_run(samples).gpus["GPU-a"]
    assert (figures.peak_gpu_memory_bytes, figures.utilization_mean_percent, figures.energy_joules) == (9, 40, 2)
    assert figures.busy_seconds == pytest.approx(0.4)


def test_figures_of_the_whole_run():
    """Peak, mean and largest utilisation, energy, busy time, temperature, and the host's."""
    samples = sampled(
        seconds=[0, 1, 2],
        used=[5, 7, 6],
        percent=[0, 50, 100],
        joules=[10, 20, 50],
        celsius=[40, 61, 60],
        host=[1, 4, 2],
    )
    use = per_run(samples)
    figures = use.gpus["GPU-a"]
    assert (figures.peak_gpu_memory_bytes, figures.utilization_mean_percent) == (7, 75)
    assert (figures.utilization_max_percent, figures.energy_joules, figures.busy_seconds) == (100, 40, 1.5)
    assert (figures.temperature_max_celsius, use.peak_host_memory_bytes) == (61, 4)


def test_two_samples_at_one_moment_do_no_harm():
    """A clock that did not move between two samples divides nothing by zero."""
    samples = sampled(seconds=[1, 1, 2], used=[1, 2, 3], percent=[1, 2, 3], joules=[0, 0, 10])
    use = cell(samples, 1, 2)
    assert (use.peak_gpu_memory_bytes, use.gpu_energy_joules) == ({"GPU-a": 3}, 10)


def test_energy_of_a_run_begins_with_its_kernel():
    """What the GPU drew before is of the gate; the time is told, so that a mean power is right."""
    samples = sampled(seconds=[0, 1, 2, 3], joules=[0, 100, 400, 700])
    figures = per_run(samples).gpus["GPU-a"]
    assert (figures.energy_joules, figures.energy_seconds) == (700, 3)
    samples.kernel_seconds = 1.5
    figures = per_run(samples).gpus["GPU-a"]
    assert (figures.energy_joules, figures.energy_seconds) == (pytest.approx(450), 1.5)
    samples.kernel_seconds = 5
    assert per_run(samples).gpus["GPU-a"].energy_joules is None


def test_the_idle_share_is_drawn_at_the_lowest_power():
    """Just after another run a GPU draws more than at rest; as if at rest all the time, a busy one would do nothing."""
    samples = sampled(seconds=[0, 1, 2, 3], joules=[0, 120, 180, 480], watts=[120, 120, 60, 300])
    figures = per_run(samples).gpus["GPU-a"]
    assert figures.idle_joules(120) == figures.idle_joules(None) == 180
    assert figures.idle_joules(50) == 150
    assert per_run(sampled(seconds=[0, 1], joules=[0, 9])).gpus["GPU-a"].idle_joules(None) is None


def test_a_look_between_two_samples_belongs_to_the_cell_of_its_time():
    """The peak of a cell holds it, that of its neighbours does not."""
    samples = sampled(seconds=[0, 1, 2, 3], used=[1, 1, 1, 1])
    samples.gpus["GPU-a"].moved_seconds.extend([1.2, 1.3])
    samples.gpus["GPU-a"].moved_bytes.extend([9, 1])
    assert cell(samples, 0.0, 1.0).peak_gpu_memory_bytes == {"GPU-a": 1}
    assert cell(samples, 1.1, 1.9).peak_gpu_memory_bytes == {"GPU-a": 9}
    assert cell(samples, 2.0, 3.0).peak_gpu_memory_bytes == {"GPU-a": 1}


def test_energy_between_two_readings_of_the_counter_follows_the_power():
    """The counter is read every ten seconds; the cell that drew the power is charged for it."""
    joules = [0, NAN, NAN, NAN, 1000]
    samples = sampled(seconds=[0, 1, 2, 3, 4], joules=joules, watts=[100, 100, 100, 700, 100])
    assert cell(samples, 0, 2).gpu_energy_joules == pytest.approx(200)
    assert cell(samples, 2, 3).gpu_energy_joules == pytest.approx(700)
    assert per_run(samples).gpus["GPU-a"].energy_joules == 1000
    unknown = sampled(seconds=[0, 1, 2, 3, 4], joules=joules)
    assert cell(unknown, 2, 3).gpu_energy_joules == pytest.approx(250)  # a straight line where no power is told


def test_activity_of_a_cell_is_its_share_of_the_intervals():
    """Weighed by time; a cell shorter than the counters are read has none."""
    samples = sampled(seconds=[0, 4])
    series = samples.gpus["GPU-a"]
    series.activity_seconds.extend([0, 2, 4])
    series.activity["tensor_percent"] = array("d", [NAN, 10, 90])
    assert cell(samples, 0, 2).gpu_activity == {"tensor_percent": 10}
    assert cell(samples, 1, 3).gpu_activity == {"tensor_percent": pytest.approx(50)}
    assert cell(samples, 1, 1.05).gpu_activity == {}
    assert cell(samples, 5, 6).gpu_activity == {}
