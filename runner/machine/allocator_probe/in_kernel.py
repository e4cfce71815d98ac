# SPDX-License-Identifier: Apache-2.0
"""The part of the allocator probe that runs inside the notebook's kernel and records allocated bytes.

This file and `allocators` are never imported by the runner. The kernel runs their source, possibly in
another Python with other packages, so they use only the standard library and the syntax of Python 3.8.

The probe changes nothing that is visible to a notebook. Rows are written to a file, so that they survive
the kernel. On an error it records the reason and removes itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any


class Journal:
    """JSON rows in a file that is opened and closed for each write, so that nothing is buffered."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.pid = os.getpid()

    def write(self, **row: Any) -> None:
        """Append a row; a forked child of the kernel writes nothing."""
        if os.getpid() != self.pid:
            return
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, (json.dumps(row) + "\n").encode())
        finally:
            os.close(handle)


class Probe:
    """Follows imports and cells, and writes a row at the start and end of each cell."""

    def __init__(self, journal: Journal, makers: dict[str, Any]) -> None:
        self.journal = journal
        self.makers = makers
        self.watch = globals()["ImportWatch"]({name: functools.partial(self.imported, name) for name in makers})
        self.meters: dict[str, Any] = {}
        self.uuids: dict[int, str | None] = {}
        self.since = time.monotonic()
        self.left = False

    def start(self) -> None:
        """Register the hooks."""
        self.watch.start()
        from IPython import get_ipython  # type: ignore[attr-defined, unused-ignore]

        shell: Any = get_ipython()
        shell.events.register("pre_run_cell", self.cell_starts)
        shell.events.register("post_run_cell", self.cell_ends)

    def imported(self, library: str, module: Any) -> None:
        """Start measuring a library that has just been imported."""
        try:
            version = str(getattr(module, "__version__", ""))
            self.journal.write(event="import", library=library, version=version)
            self.meters[library] = self.makers[library]()
            self.meters[library].broken = self.trouble
        except Exception as error:  # noqa: BLE001  (other versions may raise anything)
            self.trouble(f"{library} cannot be measured: {error!r}")

    def cell_starts(self, *_: Any) -> None:
        """Start the interval of a cell."""
        self._row("start")

    def cell_ends(self, *_: Any) -> None:
        """End the interval of a cell."""
        self._row("end")

    def _row(self, at: str) -> None:
        if self.left or not self.meters or os.getpid() != self.journal.pid:
            return
        try:
            devices: dict[int, dict[str, Any]] = {}
            for library, meter in self.meters.items():
                for device, row in meter.read().items():
                    devices.setdefault(device, {})[library] = row
            now = time.monotonic()
            if devices:
                self._add_free(devices)
                cost = self.meters["cupy"].cost() if "cupy" in self.meters else {}
                workers = has_gpu_workers()
                self.journal.write(event=at, since=self.since, now=now, devices=devices, cost=cost, workers=workers)
            self.since = now
        except Exception as error:  # noqa: BLE001  (as above)
            self.trouble(repr(error))

    def _add_free(self, devices: dict[int, dict[str, Any]]) -> None:
        """Add free memory and UUID of the current device, from a library that uses it."""
        for library in ("cupy", "rmm"):
            meter = self.meters.get(library)
            if meter is None or not any(library in row for row in devices.values()):
                continue
            device, free, total = meter.free()
            if device in devices:
                devices[device].update(free=free, total=total, uuid=self._uuid(device))
                return

    def _uuid(self, device: int) -> str | None:
        if device not in self.uuids:
            self.uuids[device] = None
            if "cupy" in sys.modules:
                properties = sys.modules["cupy"].cuda.runtime.getDeviceProperties(device)
                raw = bytes(properties["uuid"])
                # cupy truncates the text at its first zero byte; the device's number is the fallback.
                self.uuids[device] = str(uuid.UUID(bytes=raw)) if len(raw) == 16 else None
            elif "cuda.bindings.runtime" in sys.modules:
                _, properties = sys.modules["cuda.bindings.runtime"].cudaGetDeviceProperties(device)
                self.uuids[device] = str(uuid.UUID(bytes=bytes(properties.uuid.bytes)))
        return self.uuids[device]

    def trouble(self, text: str) -> None:
        """Record an error, and remove the probe."""
        with contextlib.suppress(OSError):
            self.journal.write(event="trouble", text=text)
        self.left = True
        self.watch.stop()
        for meter in self.meters.values():
            with contextlib.suppress(Exception):  # the error is already recorded
                meter.leave()


def has_gpu_workers() -> bool:
    """Return True if the notebook has started a Dask cluster of GPU workers; libraries import dask_cuda without one."""
    clusters = getattr(getattr(sys.modules.get("distributed.deploy.spec"), "SpecCluster", None), "_instances", ())
    return any(kind.__module__.startswith("dask_cuda") for one in list(clusters) for kind in type(one).__mro__)


def start() -> None:
    """Start the probe with the settings in the environment, and remove them from there for child processes."""
    folder = Path(os.environ["RUNNER_FAULT_LOG"]).parent
    mode, devices = os.environ.pop("RUNNER_ALLOCATOR_PROBE").split(":")
    journal = Journal(str(folder / "allocations.jsonl"))
    meters = globals()  # `probe.startup` ran the text of `allocators` in this namespace first
    makers = {"rmm": lambda: meters["RmmMeter"](int(devices)), "cupy": lambda: meters["CupyMeter"](mode == "exact")}
    try:
        Probe(journal, makers).start()
        journal.write(event="probe", mode=mode, pid=os.getpid())
    except Exception as error:  # noqa: BLE001  (the notebook runs without the probe)
        journal.write(event="trouble", text=f"the probe cannot start: {error!r}")


if __name__ == "allocator_probe":
    start()
