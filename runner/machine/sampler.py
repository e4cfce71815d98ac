# SPDX-License-Identifier: Apache-2.0
"""Samples GPUs and host twice a second while a notebook runs.

The thread appends to `NAME.samples.csv` at each tick, so that the last moments of a run are on disk even if
the whole container is killed, and keeps the same numbers in memory, eight bytes each, to join them with
cells later. It measures its own cost. Errors here never end a run: a lost GPU or a full disk is recorded.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner.core import log, machine_records
from runner.machine.samples import GpuSeries, Sampled, SamplesFile, row

if TYPE_CHECKING:
    from runner.machine.activity import ActivityMeter
    from runner.machine.device import Gpu, Reading
    from runner.machine.processes import Family, Use

__all__ = ["CLOSEST_SECONDS", "Latest", "Sampled", "Sampler"]

CLOSEST_SECONDS = 0.02
"""Minimum distance of requested samples, for any number of cells."""
ENERGY_TICKS = 20
"""The energy counter is read every twentieth tick: on an H200 it costs ten times as much as all the rest. In between,
energy is interpolated with the power."""
DISK_TICKS = 4
LOOK_SECONDS = 0.05
"""Interval at which memory alone is polled between two ticks, if that is cheap: shows spikes of 100 ms."""
LOOK_SHARE = 0.0015
"""Maximum CPU use of these polls, as a share of a core; a slow driver is polled less often."""
MOVED_BYTES = 16 * 2**20
"""Smaller changes are not recorded between ticks."""
PATIENCE_SECONDS = 0.05
"""Maximum time the end of a cell waits for its sample."""
_STOP_SECONDS = 5.0


class Latest(NamedTuple):
    """The newest sample, for lines of progress."""

    seconds: float
    gpu_used_bytes: dict[str, int | None]
    host_bytes: int | None

    @property
    def gpu_total_bytes(self) -> int | None:
        """Memory in use over all GPUs of the run; None if unknown."""
        known = [used for used in self.gpu_used_bytes.values() if used is not None]
        return sum(known) if known else None


class Sampler:
    """The thread that takes the samples.

    Parameters
    ----------
    path
        The CSV file, recreated.
    started_monotonic
        Start of the run on `time.monotonic`, the origin of all times.
    interval_seconds
        Time between two ticks, on a fixed grid.
    gpus
        GPUs to sample.
    family
        Processes of the run, observed at each tick; with None the host's columns are empty.
    """

    def __init__(
        self,
        *,
        path: Path,
        started_monotonic: float,
        interval_seconds: float = 0.5,
        gpus: Sequence[Gpu] = (),
        family: Family | None = None,
    ) -> None:
        self.on_tick: list[Callable[[Latest], None]] = []
        """Called in this thread after each tick."""
        self.meters: Mapping[str, ActivityMeter] = {}
        """Activity meters read at each tick, by UUID."""
        self.latest: Latest | None = None
        self._started = started_monotonic
        self._interval = interval_seconds
        self._family = family
        self._gpus = list(gpus)
        self._sampled = Sampled(gpus={gpu.uuid: GpuSeries() for gpu in gpus})
        self._nothing: dict[str, Reading | None] = dict.fromkeys(self._sampled.gpus)
        self._file = SamplesFile(path)
        self._wake = threading.Event()
        self._ticked = threading.Event()
        self._ticks = 0
        self._stopping = threading.Event()
        self.given_up = False
        """A GPU did not answer at the end; another call would hang."""
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._cpu_seconds: float | None = None
        self._stopped: str | None = None
        self._last_cpu: tuple[float, float] | None = None
        self._look_seconds = LOOK_SECONDS
        self._seen_bytes: dict[str, int | None] = {}

    def series(self, uuid: str) -> GpuSeries:
        """Return the samples of a GPU."""
        return self._sampled.gpus[uuid]

    def start(self) -> None:
        """Take the first sample and continue until `stop`."""
        self._thread.start()

    def watch(self, pid: int) -> None:
        """Follow the kernel with this pid from now on."""
        if self._family is not None:
            self._family.watch(pid)
        self._sampled.kernel_seconds = self._now()

    def sample_now(self) -> None:
        """Take a sample, such as at the end of a cell, before the next cell starts.

        The thread takes it, and the wait for it is short, so that a hanging driver cannot block a
        notebook. Does nothing if the last sample is younger than `CLOSEST_SECONDS`.
        """
        latest = self.latest
        if latest is None or self._now() - latest.seconds >= CLOSEST_SECONDS:
            self._ticked.clear()
            self._wake.set()
            self._ticked.wait(PATIENCE_SECONDS)

    def stop(self) -> Sampled:
        """Take a last sample, end the thread and return all samples."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_STOP_SECONDS)
            if self._thread.is_alive():
                self.given_up = True
                self._note("a GPU stopped answering, sampling was abandoned")
        return self._sampled

    def record(self) -> machine_records.Sampling:
        """Return the number of samples and their cost."""
        return machine_records.Sampling(
            interval_seconds=self._interval,
            ticks=len(self._sampled.seconds),
            cpu_seconds=self._cpu_seconds,
            left_out_ticks=self._file.left_out_ticks,
            stopped="; ".join(filter(None, (self._stopped, self._file.problem))) or None,
        )

    def _now(self) -> float:
        return time.monotonic() - self._started

    def _note(self, text: str) -> None:
        self._stopped = f"{self._stopped}; {text}" if self._stopped else text
        log.warning("sampler", problem=text)

    def _run(self) -> None:
        first = time.monotonic()
        try:
            while True:
                self._tick()
                self._ticked.set()
                self._wake.clear()  # this tick serves requests made during it
                if self._stopping.is_set():
                    break
                into_interval = (time.monotonic() - first) % self._interval
                self._pause(self._interval - into_interval)
        except Exception as error:  # noqa: BLE001  (the notebook continues in any case)
            self._note(f"sampling ended: {error!r}")
        finally:
            self._file.close()

    def _pause(self, seconds: float) -> None:
        """Wait for the next tick or a request, polling memory meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            look = self._gpus and left > 1.5 * self._look_seconds  # else the tick is soon enough
            if self._wake.wait(self._look_seconds if look else left):
                return
            if look:
                self._look()

    def _look(self) -> None:
        """Record memory that has changed since the last poll; adapt the interval to the cost."""
        started = time.thread_time()
        for gpu in list(self._gpus):
            used = None
            with contextlib.suppress(Exception):  # reported at the next tick
                used = gpu.memory().used_bytes
            before = self._seen_bytes.get(gpu.uuid)
            if used is not None and (before is None or abs(used - before) >= MOVED_BYTES):
                series = self._sampled.gpus[gpu.uuid]
                series.moved_bytes.append(used)
                series.moved_seconds.append(self._now())  # last, so that concurrent readers never lack a value
                self._seen_bytes[gpu.uuid] = used
        cost = time.thread_time() - started
        self._look_seconds = max(LOOK_SECONDS, 0.8 * self._look_seconds, cost / LOOK_SHARE)

    def _tick(self) -> None:
        seconds, asked = self._now(), self._wake.is_set()
        last = self._stopping.is_set()
        disk = asked or last or self._ticks % DISK_TICKS == 0
        use = self._family.observe(disk=disk) if self._family is not None else None
        energy = last or self._ticks % ENERGY_TICKS == 0
        self._ticks += 1
        readings = self._nothing | {gpu.uuid: self._read(gpu, energy=energy) for gpu in self._gpus}
        if self.given_up:
            return
        percent = self._cpu_percent(seconds, use)
        host = use.rss_bytes if use is not None else None
        self._keep(seconds, readings, host, percent)
        if use is not None:
            self._sampled.host_cpu_seconds, self._sampled.disk = use.cpu_seconds, use.disk
        activity = {uuid: meter.look(seconds, asked=asked) for uuid, meter in self.meters.items()}
        self._file.tick(
            row(seconds, uuid, reading, host, percent, activity.get(uuid, {}))
            for uuid, reading in (readings or {"": None}).items()
        )
        self._seen_bytes = {uuid: r.used_bytes if r else None for uuid, r in readings.items()}
        self.latest = Latest(seconds, self._seen_bytes.copy(), host)
        for callback in self.on_tick:
            callback(self.latest)
        self._cpu_seconds = time.thread_time()

    def _read(self, gpu: Gpu, *, energy: bool) -> Reading | None:
        """Read one GPU; after a failure it is no longer sampled, unlike the others."""
        try:
            return gpu.read(energy=energy)
        except Exception as error:  # noqa: BLE001  (drivers may raise anything)
            self._gpus = [other for other in self._gpus if other is not gpu]
            self._note(f"no samples of {gpu.uuid} after {self._now():.1f} s: {error}")
            return None

    def _cpu_percent(self, seconds: float, use: Use | None) -> float | None:
        """Return the CPU use since the last tick; 100 is one core."""
        if use is None:
            return None
        last, self._last_cpu = self._last_cpu, (seconds, use.cpu_seconds)
        if last is None or seconds <= last[0]:
            return None
        return 100.0 * (use.cpu_seconds - last[1]) / (seconds - last[0])

    def _keep(
        self, seconds: float, readings: dict[str, Reading | None], host: int | None, percent: float | None
    ) -> None:
        for uuid, reading in readings.items():
            series = self._sampled.gpus[uuid]
            series.used_bytes.append(_or_nan(reading.used_bytes if reading else None))
            series.utilization_percent.append(_or_nan(reading.utilization_percent if reading else None))
            series.temperature_celsius.append(_or_nan(reading.temperature_celsius if reading else None))
            series.energy_joules.append(_or_nan(reading.energy_joules if reading else None))
            series.power_watts.append(_or_nan(reading.power_watts if reading else None))
        self._sampled.host_memory_bytes.append(_or_nan(host))
        self._sampled.host_cpu_percent.append(_or_nan(percent))
        self._sampled.seconds.append(seconds)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
