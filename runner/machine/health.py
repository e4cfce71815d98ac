# SPDX-License-Identifier: Apache-2.0
"""How healthy a GPU is: memory errors, heat, throttling. Read once, before work is given to it.

A GPU with failing memory or one that is throttled by heat still runs notebooks, with wrong
numbers or at half the speed. NVML knows; nobody asks it until it is too late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.machine.nvml import Unavailable, ask

if TYPE_CHECKING:
    from runner.machine.device import Gpu

# The numbers of nvml.h.
_UNCORRECTED, _SINCE_BOOT = 1, 0
_SLOWDOWN_THRESHOLD = 1
_MULTIPLE_SINGLE_BIT, _DOUBLE_BIT = 0, 1
THROTTLING = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Reasons that cost speed and should not be; a power cap or an idle clock is everyday life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What one GPU says of its state; ``unavailable`` has the reason of each None.

    Memory errors are those that ECC could not correct, since the driver was loaded. Pages are
    retired by older GPUs, rows are remapped by newer ones (Ampere and later).
    """

    ecc: bool | None = None
    uncorrected_errors: int | None = None
    retired_pages: int | None = None
    remapped_rows: int | None = None
    remapping_pending: bool | None = None
    remapping_failed: bool | None = None
    temperature_celsius: float | None = None
    slowdown_celsius: float | None = None
    throttled_by: tuple[str, ...] | None = None
    persistence: bool | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


def read_health(gpu: Gpu) -> Health:
    """Ask a GPU for its health; a MIG slice tells that of the GPU it is a part of.

    Raises
    ------
    DriverProblem
        The GPU or the driver is gone.
    """
    unavailable: dict[str, str] = {}
    nvml, handle = gpu.nvml, gpu.handle
    if gpu.mig:
        handle = _answer(gpu, unavailable, "gpu", "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle) or handle

    def value(name: str, function: str, *arguments: Any) -> Any:
        return _answer(gpu, unavailable, name, function, handle, *arguments)

    ecc = value("ecc", "nvmlDeviceGetEccMode")
    rows = value("remapped_rows", "nvmlDeviceGetRemappedRows")
    pages = [
        value("retired_pages", "nvmlDeviceGetRetiredPages", cause) for cause in (_MULTIPLE_SINGLE_BIT, _DOUBLE_BIT)
    ]
    name = "nvmlDeviceGetCurrentClocksThrottleReasons"  # its newer name is missing in older drivers
    reasons = value("throttled_by", name if hasattr(nvml, name) else "nvmlDeviceGetCurrentClocksEventReasons")
    persistence = value("persistence", "nvmlDeviceGetPersistenceMode")
    return Health(
        ecc=None if ecc is None else bool(ecc[0]),
        uncorrected_errors=value("uncorrected_errors", "nvmlDeviceGetTotalEccErrors", _UNCORRECTED, _SINCE_BOOT),
        retired_pages=None if None in pages else sum(len(part) for part in pages),
        remapped_rows=None if rows is None else rows[0] + rows[1],
        remapping_pending=None if rows is None else bool(rows[2]),
        remapping_failed=None if rows is None else bool(rows[3]),
        temperature_celsius=value("temperature_celsius", "nvmlDeviceGetTemperature", 0),
        slowdown_celsius=value("slowdown_celsius", "nvmlDeviceGetTemperatureThreshold", _SLOWDOWN_THRESHOLD),
        throttled_by=None if reasons is None else tuple(text for bit, text in THROTTLING.items() if reasons & bit),
        persistence=None if persistence is None else bool(persistence),
        unavailable=unavailable,
    )


def _answer(gpu: Gpu, unavailable: dict[str, str], name: str, function: str, *arguments: Any) -> Any:
    try:
        return ask(gpu.nvml, getattr(gpu.nvml, function), *arguments)
    except Unavailable as problem:
        unavailable[name] = problem.reason
        return None
