# SPDX-License-Identifier: Apache-2.0
"""The GPUs of this machine: connection to the driver, discovery, visibility.

Devices are keyed by UUID, because the numbers of NVML and CUDA differ and are not stable.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Self

from runner.machine.device import Gpu, Memory, MemoryApi, Reading
from runner.machine.nvml import DriverProblem, Unavailable, ask, initialise
from runner.machine.visible import Identity, Visible, resolve

__all__ = ["Driver", "DriverProblem", "Gpu", "Memory", "Reading", "open_driver"]


class Driver:
    """An open connection to the driver; close it, or use it in a ``with`` block."""

    def __init__(self, nvml: ModuleType) -> None:
        self._nvml: ModuleType | None = nvml
        self.driver_version = _or_none(nvml, nvml.nvmlSystemGetDriverVersion)
        cuda = _or_none(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
        self.cuda_version = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
        self.notes: list[str] = []
        """Why devices were ignored."""
        self.problem: DriverProblem | None = None
        """The error of a lost device."""
        found = list(self._find(nvml))
        self._identities = tuple(identity for identity, _ in found)
        self.memory_api = _memory_api(nvml, [handle for _, handle in found])
        self._gpus = {
            identity.uuid: _with_size(Gpu(identity=identity, memory_api=self.memory_api, handle=handle, nvml=nvml))
            for identity, handle in found
            if not identity.mig_mode
        }

    def devices(self) -> tuple[Gpu, ...]:
        """Return all devices that CUDA could use: GPUs not in MIG mode, and all MIG slices."""
        return tuple(self._gpus.values())

    def resolve(self, environ: Mapping[str, str]) -> Visible:
        """Return the UUIDs visible under an environment's CUDA_VISIBLE_DEVICES, with a note."""
        return resolve(environ.get("CUDA_VISIBLE_DEVICES"), self._identities)

    def visible(self, environ: Mapping[str, str]) -> tuple[Gpu, ...]:
        """Return the devices visible to CUDA in this environment, in its order."""
        return tuple(self._gpus[uuid] for uuid in self.resolve(environ).uuids)

    def close(self) -> None:
        """Close the connection; devices must not be used afterwards."""
        if self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):  # the driver may be lost
                self._nvml.nvmlShutdown()
            self._nvml = None

    def _find(self, nvml: ModuleType) -> Iterator[tuple[Identity, Any]]:
        """Yield every device with its handle; a lost one is noted and ignored."""
        for index in range(ask(nvml, nvml.nvmlDeviceGetCount)):
            try:
                handle = ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
                identity = _identify(nvml, index, handle)
                parts = list(_slices(nvml, identity, handle)) if identity.mig_mode else []
            except Unavailable as problem:
                self.notes.append(f"GPU {index} is ignored: {problem.reason}")
                continue
            except DriverProblem as problem:
                self.notes.append(f"GPU {index} is ignored: {problem.message}")
                self.problem = problem
                continue
            if identity.mig_mode and not parts:
                self.notes.append(f"GPU {index} ({identity.uuid}) is in MIG mode without a slice")
            yield identity, handle
            yield from parts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_driver() -> Driver:
    """Connect to the NVIDIA driver.

    Raises
    ------
    DriverProblem
        The library, the driver or a GPU is missing or unusable, see ``kind``.
    """
    nvml = initialise()
    try:
        driver = Driver(nvml)
    except Unavailable as problem:
        raise DriverProblem("unknown-error", problem.reason) from problem
    if driver.devices():
        return driver
    driver.close()
    raise driver.problem or DriverProblem("no-device", "; ".join(driver.notes))


def _with_size(gpu: Gpu) -> Gpu:
    with contextlib.suppress(DriverProblem):
        return dataclasses.replace(gpu, total_bytes=gpu.memory().total_bytes)
    return gpu


def _slices(nvml: ModuleType, parent: Identity, handle: Any) -> Iterator[tuple[Identity, Any]]:
    for position in range(_or_none(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _or_none(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, position)
        uuid = _or_none(nvml, nvml.nvmlDeviceGetUUID, part) if part is not None else None
        if uuid:
            name = _or_none(nvml, nvml.nvmlDeviceGetName, part) or f"{parent.name} MIG"
            yield Identity(uuid=uuid, name=name, index=parent.index, pci=parent.pci, parent_uuid=parent.uuid), part


def _identify(nvml: ModuleType, index: int, handle: Any) -> Identity:
    mode = _or_none(nvml, nvml.nvmlDeviceGetMigMode, handle)
    pci = _or_none(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    return Identity(
        uuid=ask(nvml, nvml.nvmlDeviceGetUUID, handle),
        name=_or_none(nvml, nvml.nvmlDeviceGetName, handle) or "unknown GPU",
        index=index,
        pci=(pci.domain, pci.bus, pci.device) if pci else (0, 0, index),
        mig_mode=bool(mode and mode[0]),
    )


def _memory_api(nvml: ModuleType, handles: Sequence[Any]) -> MemoryApi:
    """Return the version of the memory function that the driver supports.

    Drivers before 510 lack version 2, and under WSL it fails with an unknown error. GPUs that support
    neither, such as those in MIG mode, are skipped.
    """
    for handle in handles:
        with contextlib.suppress(DriverProblem):
            if _or_none(nvml, nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2) is not None:
                return "v2"
            if _or_none(nvml, nvml.nvmlDeviceGetMemoryInfo, handle) is not None:
                return "v1"
    return "v2"


def _or_none(nvml: ModuleType, function: Any, *arguments: Any) -> Any:
    try:
        return ask(nvml, function, *arguments)
    except Unavailable:
        return None
