# SPDX-License-Identifier: Apache-2.0
"""The runner's side of the allocator probe: starts it in the kernel, and reads its rows.

NVML shows the memory that a pool took from the device. The notebook's allocations from the pool are known
only to the allocator inside the kernel, where `in_kernel` and `allocators` run. Their file is written by the
kernel and therefore untrusted.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runner.core.import_watch import kernel_line
from runner.core.machine_records import AllocatorProbe

Mode = Literal["off", "on", "exact"]
Source = Literal["rmm", "cupy-hook", "cupy-pool-bound"]

VARIABLE = "RUNNER_ALLOCATOR_PROBE"
ROWS = "allocations.jsonl"
_MAX_BYTES = 64 * 2**20
_LARGEST = 2**50
"""No device has a pebibyte; larger numbers are invalid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Allocations on one device, at the start or end of a cell, for the time since the previous row."""

    at: Literal["start", "end"]
    monotonic: float
    """On `time.monotonic`, shared by kernel and runner."""
    device: int
    """CUDA's number of the device in the kernel."""
    uuid: str | None
    """Hexadecimal digits of the device's UUID, if the kernel reported it."""
    source: Source
    peak_bytes: int
    end_bytes: int
    held_bytes: int | None
    """Device memory held for that, including pools; None if an allocator does not report it."""
    pool_bytes: int | None
    managed: bool
    free_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocations:
    """All data of the probe."""

    rows: tuple[Allocation, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)
    started: bool = False
    trouble: str | None = None
    workers: bool = False
    """The notebook started a Dask cluster of GPU workers, which are separate processes."""
    hook_calls: int | None = None
    hook_seconds: float | None = None

    def record(self, mode: Mode) -> AllocatorProbe:
        """Return the record for the metrics."""
        return AllocatorProbe(
            mode=mode,
            libraries=self.libraries,
            hook_calls=self.hook_calls,
            hook_seconds=None if self.hook_seconds is None else round(self.hook_seconds, 6),
            trouble=self.trouble,
        )


def variables(mode: Mode, devices: int) -> dict[str, str]:
    """Return the variables for the kernel's environment, which the probe removes again."""
    return {} if mode == "off" else {VARIABLE: f"{mode}:{max(1, devices)}"}


def startup(mode: Mode) -> tuple[str, ...]:
    """Return the Python lines that start the probe."""
    texts = (Path(__file__).with_name(name) for name in ("allocators.py", "in_kernel.py"))
    return () if mode == "off" else (kernel_line(*texts, __name__="allocator_probe"),)


def read(folder: Path) -> Allocations:
    """Return the valid rows of the probe."""
    try:
        with (folder / ROWS).open("rb") as stream:
            lines = stream.read(_MAX_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return Allocations()
    rows: list[Allocation] = []
    libraries: dict[str, str] = {}
    known: dict[str, Any] = {}
    for line in lines:
        try:
            row = json.loads(line)
            if row["event"] in {"start", "end"}:
                now = float(row["now"])
                rows += [_allocation(row["event"], now, int(on), values) for on, values in row["devices"].items()]
                known |= _extras(row)
            elif row["event"] == "import":
                libraries[str(row["library"])[:20]] = str(row["version"])[:40]
            elif row["event"] == "probe":
                known["started"] = True
            elif row["event"] == "trouble":
                known.setdefault("trouble", str(row["text"])[:500])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the last line of a kernel that died, or written by the notebook
    return Allocations(rows=tuple(rows), libraries=libraries, **known)


def _extras(row: dict[str, Any]) -> dict[str, Any]:
    cost = row.get("cost") or {}
    found: dict[str, Any] = {"workers": True} if row.get("workers") else {}
    if cost:
        seconds = float(cost["seconds"])
        if not math.isfinite(seconds):
            raise ValueError
        found |= {"hook_calls": _size(cost["calls"]), "hook_seconds": seconds}
    return found


def _allocation(at: Literal["start", "end"], monotonic: float, device: int, values: dict[str, Any]) -> Allocation:
    """Combine the values of rmm and cupy: sizes are added, with the less exact source as the sum's."""
    rmm, cupy = values.get("rmm") or {}, values.get("cupy") or {}
    source: Source = "rmm"
    if cupy:
        source = "cupy-hook" if "peak" in cupy else "cupy-pool-bound"
    pools = [size for size in (_maybe(rmm.get("pool")), _maybe(cupy.get("total"))) if size is not None]
    rmm_held = None if rmm.get("hoards") else _size(rmm.get("now") or 0 if rmm.get("pool") is None else rmm["pool"])
    return Allocation(
        at=at,
        monotonic=monotonic,
        device=device,
        uuid=str(values["uuid"]).replace("-", "").lower()[:32] if values.get("uuid") else None,
        source=source,
        peak_bytes=_size(rmm.get("peak", 0)) + _size(cupy.get("peak", cupy.get("total", 0))),
        end_bytes=_size(rmm.get("now", 0)) + _size(cupy.get("used", 0)),
        held_bytes=None if rmm_held is None else rmm_held + _size(cupy.get("total", 0)),
        pool_bytes=sum(pools) if pools else None,
        managed=bool(rmm.get("managed")),
        free_bytes=_maybe(values.get("free")),
        total_bytes=_maybe(values.get("total")),
    )


def _maybe(value: Any) -> int | None:
    return None if value is None else _size(value)


def _size(value: Any) -> int:
    """Return a number of bytes; raise if it is invalid."""
    if isinstance(value, bool) or not isinstance(value, int) or not -_LARGEST < value < _LARGEST:
        raise ValueError
    return max(0, value)
