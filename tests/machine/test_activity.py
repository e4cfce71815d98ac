# SPDX-License-Identifier: Apache-2.0
"""What a GPU's units did is what NVML's counters say, or there is a reason why not."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from runner.machine.activity import ActivityMeter
from runner.machine.samples import GpuSeries


class Counters:
    """GPM as the binding shows it, with its own structures."""

    NVMLError = pynvml.NVMLError
    NVML_GPM_METRICS_GET_VERSION = pynvml.NVML_GPM_METRICS_GET_VERSION
    c_nvmlGpmMetricsGet_t = pynvml.c_nvmlGpmMetricsGet_t  # noqa: N815

    def __init__(self, *, supported: bool = True, error: int | None = None) -> None:
        self.supported, self.error = supported, error
        self.samples: list[object] = []
        self.freed = 0

    def nvmlGpmQueryDeviceSupport(self, handle):  # noqa: N802
        return SimpleNamespace(isSupportedDevice=self.supported)

    def nvmlGpmSampleAlloc(self):  # noqa: N802
        return pynvml.c_nvmlGpmSample_t()

    def nvmlGpmSampleGet(self, handle, sample):  # noqa: N802
        if self.error is not None:
            raise pynvml.NVMLError(self.error)
        self.samples.append(sample)

    def nvmlGpmMetricsGet(self, request):  # noqa: N802
        for metric in list(request.metrics)[: request.numMetrics]:
            metric.value = float(metric.metricId)
            metric.nvmlReturn = 3 if metric.metricId == 5 else 0

    def nvmlGpmSampleFree(self, sample):  # noqa: N802
        self.freed += 1


def meter(nvml, *, mig=False) -> ActivityMeter:
    return ActivityMeter(SimpleNamespace(nvml=nvml, handle=object(), mig=mig), GpuSeries())


def test_what_the_counters_say_is_in_the_units_of_its_name():
    """A value that this GPU lacks is left out, and the samples are given back."""
    nvml = Counters()
    one = meter(nvml)
    one.look(0.0)
    found = one.stop()
    assert found["sm_occupancy_percent"] == 3
    assert found["dram_bandwidth_percent"] == 10
    assert found["pcie_sent_bytes_per_second"] == 20 * 2**20
    assert "tensor_percent" not in found
    assert (len(nvml.samples), nvml.freed) == (2, 2)
    assert one.stop() == {}


@pytest.mark.parametrize(
    ("nvml", "mig", "reason"),
    [
        (Counters(), True, "MIG"),
        (Counters(supported=False), False, "before Hopper"),
        (Counters(error=3), False, "not supported by this device"),
        (Counters(error=15), False, "the connection to a GPU was lost"),
        (SimpleNamespace(NVMLError=pynvml.NVMLError), False, "nvmlGpmQueryDeviceSupport"),
    ],
)
def test_without_counters_there_is_a_reason(nvml, mig, reason):
    """An older GPU, a slice, a lost device, a binding without the functions."""
    one = meter(nvml, mig=mig)
    one.look(0.0)
    assert one.stop() == {}
    assert reason in one.reason


def test_the_ends_of_cells_part_the_time_and_nothing_else_is_asked_more_often(monkeypatch):
    """A look that is asked for comes at once, others each second where they cost little; the samples in use stay few."""
    monkeypatch.setattr("runner.machine.activity.time.thread_time", lambda: 0.0)
    nvml, series = Counters(), GpuSeries()
    one = ActivityMeter(SimpleNamespace(nvml=nvml, handle=object(), mig=False), series)
    for seconds, asked in ((1.0, False), (1.5, False), (1.6, True), (1.65, True), (2.0, False), (2.6, False)):
        one.look(seconds, asked=asked)
    assert list(series.activity_seconds) == [1.0, 1.6, 2.6]
    assert [len(values) for values in series.activity.values()] == [3] * len(series.activity)
    assert list(series.activity["sm_occupancy_percent"])[1:] == [3, 3]
    assert one.stop()["sm_occupancy_percent"] == 3
    assert nvml.freed == len({id(sample) for sample in nvml.samples})


def test_a_gpu_that_is_lost_meanwhile_says_so_at_the_end():
    """What was measured before stays."""
    nvml, series = Counters(), GpuSeries()
    one = ActivityMeter(SimpleNamespace(nvml=nvml, handle=object(), mig=False), series)
    one.look(0.0)
    one.look(1.0)
    nvml.error = 15
    one.look(2.0)
    assert list(series.activity_seconds) == [0.0, 1.0]
    assert one.stop() == {}
    assert "lost" in one.reason
