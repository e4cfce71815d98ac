# SPDX-License-Identifier: Apache-2.0
"""Storage of samples: in memory for joins with cells, and as lines of `NAME.samples.csv`."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from runner.core import log

if TYPE_CHECKING:
    from runner.core.procfs import Disk
    from runner.machine.device import Reading

ACTIVITY = (
    "sm_utilization_percent",
    "sm_occupancy_percent",
    "tensor_percent",
    "dram_bandwidth_percent",
    "fp64_percent",
    "fp32_percent",
    "fp16_percent",
    "pcie_sent_bytes_per_second",
    "pcie_received_bytes_per_second",
    "nvlink_received_bytes_per_second",
    "nvlink_sent_bytes_per_second",
)
"""Activity of a GPU's units since the last read; empty in ticks without a read."""
COLUMNS = (
    "time_seconds",
    "gpu_uuid",
    "gpu_memory_used_bytes",
    "gpu_utilization_percent",
    "power_watts",
    "temperature_celsius",
    "host_memory_bytes",
    "host_cpu_percent",
    *(f"gpu_{name}" for name in ACTIVITY),
)


def _doubles() -> array[float]:
    return array("d")


@dataclass(slots=True)
class GpuSeries:
    """All readings of one GPU, one per tick, NaN if missing."""

    used_bytes: array[float] = field(default_factory=_doubles)
    utilization_percent: array[float] = field(default_factory=_doubles)
    temperature_celsius: array[float] = field(default_factory=_doubles)
    energy_joules: array[float] = field(default_factory=_doubles)
    power_watts: array[float] = field(default_factory=_doubles)
    activity_seconds: array[float] = field(default_factory=_doubles)
    """Ends of the intervals of the means in `activity`; the first value is the start of the first one."""
    activity: dict[str, array[float]] = field(default_factory=dict)
    moved_seconds: array[float] = field(default_factory=_doubles)
    """Times between ticks at which memory in use had changed."""
    moved_bytes: array[float] = field(default_factory=_doubles)
    """Memory in use at these times."""


@dataclass(slots=True)
class Sampled:
    """All samples of a run; each array has one number per tick, NaN if not measured."""

    seconds: array[float] = field(default_factory=_doubles)
    """Times of the ticks, from the start of the run."""
    gpus: dict[str, GpuSeries] = field(default_factory=dict)
    host_memory_bytes: array[float] = field(default_factory=_doubles)
    host_cpu_percent: array[float] = field(default_factory=_doubles)
    kernel_seconds: float | None = None
    """When the kernel started."""
    host_cpu_seconds: float | None = None
    """CPU time of the kernel and its descendants up to the last tick."""
    disk: Disk | None = None
    """Their disk reads and writes up to then."""


PART_BYTES = 16_000_000
"""After each growth of the file by this much, the rate of written ticks is halved."""


class SamplesFile:
    """The CSV file: one write of whole lines per tick, until a write fails.

    A run of days would fill its volume, so ticks are thinned out as the file grows. The samples in memory,
    the source of the record's figures, are complete.
    """

    def __init__(self, path: Path) -> None:
        self.problem: str | None = None
        self.left_out_ticks = 0
        """Ticks not written to keep the file small."""
        self._ticks = 0
        self._path = path
        self._handle: int | None = None
        self._size = 0
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        except OSError as error:
            self._fail(error)
        self.append([",".join(COLUMNS)])

    def tick(self, rows: Iterable[str]) -> None:
        """Append the lines of one tick, or skip it if the file is long."""
        every = 2 ** (self._size // PART_BYTES)
        self._ticks += 1
        if self._ticks % every:
            self.left_out_ticks += 1
        else:
            self.append(rows)

    def append(self, rows: Iterable[str]) -> None:
        """Append lines; on an error remove the partial write and stop writing."""
        if self._handle is None:
            return
        data = "".join(f"{row}\n" for row in rows).encode()
        try:
            while data:  # a disk that fills up accepts a part first
                data = data[os.write(self._handle, data) :]
            self._size = os.fstat(self._handle).st_size
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
            self._fail(error)
            self.close()

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            with contextlib.suppress(OSError):
                os.close(handle)

    def _fail(self, error: OSError) -> None:
        self.problem = f"{self._path.name} ends early: {error.strerror}"
        log.warning("sampler", problem=self.problem)


def row(
    seconds: float,
    uuid: str,
    reading: Reading | None,
    host: int | None,
    percent: float | None,
    activity: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """Return one line without its end; missing values are empty."""
    gpu = (
        (reading.used_bytes, reading.utilization_percent, reading.power_watts, reading.temperature_celsius)
        if reading
        else (None,) * 4
    )
    numbers = ("" if value is None else f"{value:.12g}" for value in (*gpu, host, percent))
    units = (f"{activity[name]:.5g}" if name in activity else "" for name in ACTIVITY)
    return f"{seconds:.3f},{uuid},{','.join(numbers)},{','.join(units)}"
