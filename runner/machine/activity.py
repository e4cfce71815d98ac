# SPDX-License-Identifier: Apache-2.0
"""What the units of a GPU did between two moments: NVML's GPM counters, on Hopper and newer.

Utilisation says that something ran; this says how much of the GPU it kept busy. Two samples are taken,
one when the kernel starts and one at its end: the counters add up in between at no cost.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

from runner.machine.nvml import DriverProblem, Unavailable, ask

if TYPE_CHECKING:
    from runner.machine.device import Gpu

_MIB = 2**20
# Number in nvml.h, and what a unit of it is.
_METRICS = {
    "sm_utilization_percent": (2, 1),
    "sm_occupancy_percent": (3, 1),
    "tensor_percent": (5, 1),
    "dram_bandwidth_percent": (10, 1),
    "fp64_percent": (11, 1),
    "fp32_percent": (12, 1),
    "fp16_percent": (13, 1),
    "pcie_sent_bytes_per_second": (20, _MIB),
    "pcie_received_bytes_per_second": (21, _MIB),
    "nvlink_received_bytes_per_second": (60, _MIB),
    "nvlink_sent_bytes_per_second": (61, _MIB),
}


class ActivityMeter:
    """Means over the time between `start` and `stop`; ``reason`` says why there are none."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._first: Any = None
        self.reason = "the kernel did not start"

    def start(self) -> None:
        """Take the first sample, if this GPU has the counters."""
        nvml, handle = self._gpu.nvml, self._gpu.handle
        if self._gpu.mig:
            self.reason = "a MIG slice does not tell"
            return
        with self._explained():
            if not ask(nvml, nvml.nvmlGpmQueryDeviceSupport, handle).isSupportedDevice:
                self.reason = "GPUs before Hopper do not tell"
                return
            self._first = self._sample()

    def stop(self) -> dict[str, float]:
        """Return what was measured since, by the names in `GpuUse.activity`."""
        found: dict[str, float] = {}
        first, self._first = self._first, None
        if first is None:
            return found
        nvml = self._gpu.nvml
        last = None
        with self._explained():
            last = self._sample()
            request = nvml.c_nvmlGpmMetricsGet_t()
            request.version, request.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(_METRICS)
            request.sample1, request.sample2 = first, last
            for metric, (number, _unit) in zip(request.metrics, _METRICS.values(), strict=False):
                metric.metricId = number
            ask(nvml, nvml.nvmlGpmMetricsGet, request)
            for metric, (name, (_number, unit)) in zip(request.metrics, _METRICS.items(), strict=False):
                if metric.nvmlReturn == 0 and math.isfinite(metric.value):
                    found[name] = metric.value * unit
            self.reason = "" if found else "the driver gave no value"
        with contextlib.suppress(Exception):  # a driver that is gone frees nothing
            for sample in (first, last):
                if sample is not None:
                    nvml.nvmlGpmSampleFree(sample)
        return found

    def _sample(self) -> Any:
        nvml = self._gpu.nvml
        sample = ask(nvml, nvml.nvmlGpmSampleAlloc)
        ask(nvml, nvml.nvmlGpmSampleGet, self._gpu.handle, sample)
        return sample

    @contextlib.contextmanager
    def _explained(self) -> Any:
        """Note why there is no answer: of a driver, or of a binding that is too old to ask."""
        try:
            yield
        except (Unavailable, DriverProblem, AttributeError) as problem:
            self.reason = str(problem)
