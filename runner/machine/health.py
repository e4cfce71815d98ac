# SPDX-License-Identifier: Apache-2.0
"""Health of a GPU: memory errors, temperature, throttling. Read once, before it is used.

A GPU with failing memory or thermal throttling still runs notebooks, but with wrong results or at half
the speed.
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
"""Abnormal reasons for reduced speed; a power cap or an idle clock is normal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Health of a GPU; ``unavailable`` has the reason for each None.

    Memory errors are uncorrectable ECC errors since the driver was loaded. Older GPUs retire pages, newer
    ones (Ampere and later) remap rows.
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
    """Read the health of a GPU, or of the parent GPU of a MIG slice.

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
    name = "nvmlDeviceGetCurrentClocksThrottleReasons"  # older drivers lack its new name
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
