# SPDX-License-Identifier: Apache-2.0
"""Readings of a GPU or MIG slice.

The gate, the samples and the release check depend on device memory. Values that NVML cannot provide are
None with a reason: utilisation of a MIG slice, memory of a GPU that shares the host's, functions missing
from an old driver. A function that can never work on a device is called once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from runner.core.machine_records import GpuProcess
from runner.machine.nvml import DriverProblem, Unavailable, ask

if TYPE_CHECKING:
    from runner.machine.visible import Identity

MemoryApi = Literal["v2", "v1"]
MemorySource = Literal["nvml", "host", "none"]
ComputeMode = Literal["default", "exclusive", "prohibited"]

_COMPUTE_MODES: dict[int, ComputeMode] = {0: "default", 1: "exclusive", 2: "prohibited", 3: "exclusive"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one device.

    ``source`` is ``host`` for a GPU that shares the memory of the machine: free is the host's available
    memory. ``reserved_bytes`` is reserved by the driver; version 1 of the NVML function counts it as used,
    so values of the two versions are not comparable.
    """

    source: MemorySource
    total_bytes: int | None = None
    free_bytes: int | None = None
    used_bytes: int | None = None
    reserved_bytes: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All values of one device at one moment; ``unavailable`` has the reason for each None."""

    uuid: str
    total_bytes: int | None
    free_bytes: int | None
    used_bytes: int | None
    reserved_bytes: int | None
    memory_api: MemoryApi
    memory_source: MemorySource
    utilization_percent: float | None
    power_watts: float | None
    temperature_celsius: float | None
    energy_joules: float | None
    unavailable: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One CUDA device: a GPU, or a MIG slice of one."""

    identity: Identity
    memory_api: MemoryApi
    total_bytes: int | None = None
    """Memory size when the driver was opened; still known after the GPU is lost."""
    handle: Any = field(repr=False, compare=False)
    nvml: ModuleType = field(repr=False, compare=False)
    never: dict[str, Unavailable] = field(default_factory=dict, repr=False, compare=False)
    """Functions that do not work on this device and are not called again."""

    @property
    def uuid(self) -> str:
        """Full UUID, used as the key everywhere."""
        return self.identity.uuid

    @property
    def index(self) -> int | None:
        """NVML's number of the GPU, which may change on reboot."""
        return self.identity.index

    @property
    def name(self) -> str:
        """Product name."""
        return self.identity.name

    @property
    def architecture(self) -> str:
        """CUDA architecture, such as ``sm_90``; the product name if unknown."""
        try:
            major, minor = self._ask("nvmlDeviceGetCudaComputeCapability")
        except Unavailable:
            return self.name
        return f"sm_{major}{minor}"

    @property
    def mig(self) -> bool:
        """Whether this is a MIG slice."""
        return self.identity.mig

    def memory(self) -> Memory:
        """Return the memory of the device, or of the host if shared.

        Raises
        ------
        DriverProblem
            The GPU or the driver is gone.
        """
        version = self.nvml.nvmlMemory_v2 if self.memory_api == "v2" else None
        try:
            seen = self._ask("nvmlDeviceGetMemoryInfo", version)
        except Unavailable as problem:
            if problem.unsupported and not self.mig:
                return _host_memory()
            return Memory(source="none", reason=problem.reason)
        if not seen.total:
            return _host_memory()
        return Memory(
            source="nvml",
            total_bytes=seen.total,
            free_bytes=seen.free,
            used_bytes=seen.used,
            reserved_bytes=seen.reserved if version else None,
        )

    def read(self, *, energy: bool = True) -> Reading:
        """Return memory, utilisation, power, temperature and the energy counter.

        Parameters
        ----------
        energy
            Read the energy counter too: on an H200 that takes 4 ms of CPU time, all the rest 0.4 ms.

        Raises
        ------
        DriverProblem
            The GPU or the driver is gone.
        """
        unavailable: dict[str, str] = {}
        memory = self.memory()
        if memory.used_bytes is None:
            unavailable |= dict.fromkeys(("total_bytes", "free_bytes", "used_bytes"), memory.reason)
        if memory.reserved_bytes is None:
            unavailable["reserved_bytes"] = memory.reason or "version 1 of the NVML function counts it as used"
        rates = self._value("utilization_percent", unavailable, "nvmlDeviceGetUtilizationRates")
        milliwatts = self._value("power_watts", unavailable, "nvmlDeviceGetPowerUsage")
        celsius = self._value("temperature_celsius", unavailable, "nvmlDeviceGetTemperature", 0)
        millijoules = None
        if energy:
            millijoules = self._value("energy_joules", unavailable, "nvmlDeviceGetTotalEnergyConsumption")
        else:
            unavailable["energy_joules"] = "not read this time"
        return Reading(
            uuid=self.uuid,
            total_bytes=memory.total_bytes,
            free_bytes=memory.free_bytes,
            used_bytes=memory.used_bytes,
            reserved_bytes=memory.reserved_bytes,
            memory_api=self.memory_api,
            memory_source=memory.source,
            utilization_percent=None if rates is None else float(rates.gpu),
            power_watts=None if milliwatts is None else milliwatts / 1000,
            temperature_celsius=None if celsius is None else float(celsius),
            energy_joules=None if millijoules is None else millijoules / 1000,
            unavailable=unavailable,
        )

    def energy_joules(self) -> float | None:
        """Return the energy counter only, for reads between two samples."""
        millijoules = self._value("energy_joules", {}, "nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else float(millijoules) / 1000

    def compute_mode(self) -> ComputeMode | None:
        """Return the compute mode: shared, one process at a time, or prohibited; None if unknown."""
        try:
            return _COMPUTE_MODES.get(self._ask("nvmlDeviceGetComputeMode"))
        except Unavailable:
            return None

    def processes(self) -> tuple[GpuProcess, ...]:
        """Return the processes that NVML lists on the device.

        For messages only: inside a container the list is empty or contains pids of the host.
        """
        for function in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"):
            with contextlib.suppress(Unavailable):
                return tuple(
                    GpuProcess(pid=seen.pid, used_bytes=seen.usedGpuMemory, name=self._process_name(seen.pid))
                    for seen in self._ask(function)
                )
        return ()

    def _process_name(self, pid: int) -> str | None:
        try:
            return ask(self.nvml, self.nvml.nvmlSystemGetProcessName, pid) or None
        except Unavailable:
            return None

    def _value(self, name: str, unavailable: dict[str, str], function: str, *arguments: Any) -> Any:
        try:
            return self._ask(function, *arguments)
        except Unavailable as problem:
            unavailable[name] = problem.reason
            return None

    def _ask(self, function: str, *arguments: Any) -> Any:
        if function in self.never:
            known = self.never[function]
            raise Unavailable(known.reason, known.code)
        try:
            return ask(self.nvml, getattr(self.nvml, function), self.handle, *arguments)
        except Unavailable as problem:
            if problem.lasting:
                self.never[function] = Unavailable(problem.reason, problem.code)
            raise


def _host_memory() -> Memory:
    """Return the memory of the machine, for a GPU without its own."""
    from runner.machine.host import meminfo

    seen = meminfo()
    total, available = seen["MemTotal"], seen["MemAvailable"]
    return Memory(
        source="host",
        total_bytes=total,
        free_bytes=available,
        used_bytes=total - available,
        reason="the GPU shares the memory of the host",
    )


class InUse(NamedTuple):
    """Memory in use on a GPU, or why it is unknown."""

    bytes: int | None
    reason: str = ""


def memory_in_use(gpu: Gpu) -> InUse:
    """Return the memory in use, unless it is shared with the host, whose changes have many causes."""
    try:
        memory = gpu.memory()
    except DriverProblem as problem:
        return InUse(None, problem.message)
    if memory.source != "nvml":
        return InUse(None, memory.reason)
    return InUse(memory.used_bytes)


def read_baseline(gpus: Sequence[Gpu]) -> dict[str, int | None]:
    """Return the memory in use on each GPU, None if not comparable, see `memory_in_use`."""
    return {gpu.uuid: memory_in_use(gpu).bytes for gpu in gpus}
