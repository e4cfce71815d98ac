# SPDX-License-Identifier: Apache-2.0
"""Activity of a GPU's units between two samples: NVML's GPM counters, on Hopper and newer.

Utilisation shows that something ran, activity how much of the GPU it used. The counters are cumulative: two samples
give the means over the time between them. The first and the last give those of the run; the sampler's thread takes
others in between, at the ends of cells and as often as their cost allows.
"""

from __future__ import annotations

import contextlib
import math
import time
from array import array
from typing import TYPE_CHECKING, Any

from runner.machine.nvml import DriverProblem, Unavailable, ask
from runner.machine.samples import ACTIVITY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.machine.device import Gpu
    from runner.machine.samples import GpuSeries

# Numbers in nvml.h, in the order of `ACTIVITY`; rates are in MiB/s.
_METRICS = dict(zip(ACTIVITY, (2, 3, 5, 10, 11, 12, 13, 20, 21, 60, 61), strict=True))
SHORTEST_SECONDS = 0.1
"""Minimum time between two samples for meaningful values."""
LOOK_SECONDS = 1.0
LOOK_SHARE = 0.0005
"""Maximum CPU use of regular samples, as a share of a core."""


class ActivityMeter:
    """Means over the time between the first `look` and `stop`; ``reason`` explains missing ones.

    Parameters
    ----------
    series
        Receives the means between two samples.
    """

    def __init__(self, gpu: Gpu, series: GpuSeries) -> None:
        self._gpu = gpu
        self._series = series
        self._first: Any = None
        self._last: Any = None
        self._spare: Any = None
        self._every = LOOK_SECONDS
        self._off = False
        self.reason = "the kernel did not start"

    def look(self, seconds: float, *, asked: bool = False) -> dict[str, float]:
        """Take a sample if one is due, and return the means since the previous one.

        Parameters
        ----------
        seconds
            Time since the start of the run.
        asked
            Requested explicitly: due earlier than a regular sample.
        """
        found: dict[str, float] = {}
        if self._off:
            return found
        if self._first is None:
            self._start(seconds)
            return found
        ends = self._series.activity_seconds
        pause = seconds - ends[-1]
        if pause < (max(SHORTEST_SECONDS, self._every / 10) if asked else self._every):
            return found
        started = time.thread_time()
        with self._explained():
            sample = self._sample(self._spare)
            before, self._last, self._spare = self._last, sample, None
            found = self._between(before, sample)
            if before is not self._first:
                self._spare = before
            for name in _METRICS:
                values = self._series.activity.setdefault(name, array("d", [math.nan] * len(ends)))
                values.append(found.get(name, math.nan))
            ends.append(seconds)
        self._every = max(LOOK_SECONDS, (time.thread_time() - started) / LOOK_SHARE)
        return found

    def _start(self, seconds: float) -> None:
        """Take the first sample, if the GPU supports the counters."""
        nvml, handle = self._gpu.nvml, self._gpu.handle
        self._off = True
        if self._gpu.mig:
            self.reason = "not available for a MIG slice"
            return
        with self._explained():
            if not ask(nvml, nvml.nvmlGpmQueryDeviceSupport, handle).isSupportedDevice:
                self.reason = "not available before Hopper"
                return
            self._first = self._last = self._sample()
            self._series.activity_seconds.append(seconds)
            self._off = False

    def stop(self) -> dict[str, float]:
        """Return the means since the first sample, by the names in `GpuUse.activity`."""
        found: dict[str, float] = {}
        first, self._first, self._off = self._first, None, True
        if first is None:
            return found
        last = None
        with self._explained():
            last = self._sample()
            found = self._between(first, last)
            self.reason = "" if found else "the driver gave no value"
        with contextlib.suppress(Exception):  # a lost driver frees nothing
            for sample in {id(one): one for one in (first, self._last, self._spare, last) if one is not None}.values():
                self._gpu.nvml.nvmlGpmSampleFree(sample)
        return found

    def _between(self, before: Any, after: Any) -> dict[str, float]:
        nvml = self._gpu.nvml
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, len(_METRICS)
        request.sample1, request.sample2 = before, after
        for metric, number in zip(request.metrics, _METRICS.values(), strict=False):
            metric.metricId = number
        ask(nvml, nvml.nvmlGpmMetricsGet, request)
        return {
            name: metric.value * (2**20 if name.endswith("_bytes_per_second") else 1)
            for metric, name in zip(request.metrics, _METRICS, strict=False)
            if metric.nvmlReturn == 0 and math.isfinite(metric.value)
        }

    def _sample(self, sample: Any = None) -> Any:
        nvml = self._gpu.nvml
        sample = ask(nvml, nvml.nvmlGpmSampleAlloc) if sample is None else sample
        ask(nvml, nvml.nvmlGpmSampleGet, self._gpu.handle, sample)
        return sample

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Set ``reason`` if the driver fails or the binding is too old."""
        try:
            yield
        except (Unavailable, DriverProblem, AttributeError) as problem:
            self.reason = str(problem)
