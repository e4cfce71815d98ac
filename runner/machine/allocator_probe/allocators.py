# SPDX-License-Identifier: Apache-2.0
"""Meters of the allocator probe for rmm and cupy; run in the kernel, see `in_kernel`.

Statistics of rmm come from its own adaptor, kept on top of each device's resource; functions that return a
resource return the notebook's, without the adaptor. cupy is queried at the end of a cell, and only after it
has used the device: an earlier query would initialise CUDA, after which a process must not fork.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import time
import weakref
from typing import Any

READERS = ("get_current_device_resource", "get_per_device_resource")
TYPE_READERS = ("get_current_device_resource_type", "get_per_device_resource_type")
SETTERS = ("set_current_device_resource", "set_per_device_resource")
LOGGERS = ("enable_logging", "disable_logging", "get_log_filenames", "_flush_logs")
"""They expect a logging adaptor on top, so ours is removed during the call."""
NAMESPACES = (
    "rmm",
    "rmm.rmm",
    "rmm.mr",
    "rmm.pylibrmm.memory_resource",
    "rmm.pylibrmm.memory_resource._memory_resource",
)
HOARDERS = ("CudaAsync", "Arena", "FixedSize", "Binning")
"""Name prefixes of resources that retain memory without reporting how much."""


class RmmMeter:
    """Bytes allocated through rmm, for each device."""

    def __init__(self, devices: int) -> None:
        self.broken: Any = lambda _: None
        self.left = False
        rmm = sys.modules["rmm"]
        self.mr = rmm.mr
        self.set = rmm.mr.set_per_device_resource
        self.get = rmm.mr.get_per_device_resource
        self.get_device = importlib.import_module("rmm._cuda.gpu").getDevice
        self.peaks = dict.fromkeys(range(devices), 0)
        self.adaptors: dict[int, weakref.WeakSet[Any]] = {device: weakref.WeakSet() for device in self.peaks}
        # A Python class, because only that supports weak references: a strong one would keep alive
        # the pool below the adaptor, which `rmm.reinitialize` must be able to free.
        base = rmm.mr.StatisticsResourceAdaptor
        base.push_counters, base.pop_counters  # noqa: B018  (missing in old versions)
        members = {"__slots__": ("__weakref__",), "__module__": base.__module__}
        self.kind: Any = type(base.__name__, (base,), members)
        self.wrapped: list[tuple[Any, str, Any, Any]] = []
        self.wrappers: dict[Any, Any] = {}
        try:
            for device in self.peaks:
                self.attach(device)
            for name in NAMESPACES:
                if name in sys.modules:
                    self._wrap_all(sys.modules[name])
        except BaseException:
            self.leave()
            raise

    def _wrap_all(self, module: Any) -> None:
        wrappers: dict[str, Any] = dict.fromkeys(READERS, self._reading)
        wrappers.update(dict.fromkeys(TYPE_READERS, self._reading_type))
        wrappers.update(dict.fromkeys(SETTERS, self._setting))
        wrappers.update(dict.fromkeys(LOGGERS, self._logging))
        wrappers["reinitialize"] = self._reinitializing
        for name, wrap in wrappers.items():
            original = vars(module).get(name)
            if callable(original):
                # One wrapper for a function in several modules: pickle looks it up by identity.
                wrapper = self.wrappers.get(original)
                if wrapper is None:
                    wrapper = self.wrappers[original] = functools.wraps(original)(wrap(original))
                setattr(module, name, wrapper)
                self.wrapped.append((module, name, wrapper, original))

    def attach(self, device: int) -> None:
        """Put our adaptor on top of a device's resource, unless it is there."""
        below = self.get(device)
        if type(below) is self.kind:
            return
        adaptor = self.kind(below)
        adaptor.push_counters()
        self.set(device, adaptor)
        self.peaks.setdefault(device, 0)
        self.adaptors.setdefault(device, weakref.WeakSet()).add(adaptor)

    def detach(self, device: int) -> None:
        """Restore the notebook's resource."""
        top = self.get(device)
        if type(top) is self.kind:
            self.set(device, top.get_upstream())

    def fold(self, device: int) -> tuple[int, int]:
        """Update the interval's peak with allocations since the last call; return current bytes and count.

        Memory allocated before the notebook changed its resource is counted by the earlier adaptor, which
        lives as long as that memory.
        """
        peak = now = count = 0
        for adaptor in list(self.adaptors.get(device, ())):
            recent = adaptor.pop_counters()
            counts = adaptor.allocation_counts
            adaptor.push_counters()
            peak += counts.current_bytes - recent.current_bytes + max(0, recent.peak_bytes)
            now += counts.current_bytes
            count += counts.total_count
        self.peaks[device] = max(self.peaks.get(device, 0), peak)
        return now, count

    def read(self) -> dict[int, dict[str, Any]]:
        """Return a row for each device with allocations or a pool of rmm, and start a new interval."""
        rows = {}
        for device in sorted(self.adaptors):
            self.attach(device)
            now, count = self.fold(device)
            peak, self.peaks[device] = self.peaks[device], now
            described = self._describe(device)
            if count or peak or described["pool"]:  # an empty pool holds device memory too
                rows[device] = {"peak": peak, "now": now, **described}
        return rows

    def _describe(self, device: int) -> dict[str, Any]:
        """Return the size of the pool and its stack of resources, from top to bottom."""
        names: list[str] = []
        pool = None
        resource = self.get(device)
        while resource is not None and len(names) < 20:
            if type(resource) is not self.kind:
                names.append(type(resource).__name__)
            if pool is None and hasattr(resource, "pool_size"):
                pool = resource.pool_size()
            resource = resource.get_upstream() if hasattr(resource, "get_upstream") else None
        hoards = pool is None and any(name.startswith(HOARDERS) for name in names)
        managed = any(name.startswith(("Managed", "System", "Sam")) for name in names)
        return {"pool": pool, "resource": " > ".join(names), "managed": managed, "hoards": hoards}

    def free(self) -> tuple[int, int, int]:
        """Return the current device's number, free and total bytes."""
        free, total = self.mr.available_device_memory()
        return self.get_device(), free, total

    def _own(self, resource: Any) -> Any:
        own = self._quietly(resource.get_upstream) if type(resource) is self.kind else None
        return resource if own is None else own

    def _quietly(self, action: Any, *args: Any) -> Any:
        """Run our code within a call of the notebook, which must not fail because of it."""
        if self.left:
            return None
        try:
            return action(*args)
        except Exception as error:  # noqa: BLE001  (other versions may raise anything)
            self.broken(f"rmm can no longer be measured: {error!r}")
            return None

    def _reading(self, original: Any) -> Any:
        return lambda *args, **kwargs: self._own(original(*args, **kwargs))

    def _reading_type(self, original: Any) -> Any:
        reader = vars(self.mr)[original.__name__[: -len("_type")]]
        return lambda *args, **kwargs: type(reader(*args, **kwargs))

    def _setting(self, original: Any) -> Any:
        def set_resource(*args: Any, **kwargs: Any) -> Any:
            device = args[0] if args and isinstance(args[0], int) else kwargs.get("device")
            device = self._quietly(self.get_device) if device is None else device
            self._quietly(self.fold, device)
            try:
                return original(*args, **kwargs)
            finally:
                self._quietly(self.attach, device)

        return set_resource

    def _logging(self, original: Any) -> Any:
        def log(*args: Any, **kwargs: Any) -> Any:
            for device in list(self.adaptors):
                self._quietly(self.fold, device)
                self._quietly(self.detach, device)
            try:
                return original(*args, **kwargs)
            finally:
                for device in list(self.adaptors):
                    self._quietly(self.attach, device)

        return log

    def _reinitializing(self, original: Any) -> Any:
        def reinitialize(*args: Any, **kwargs: Any) -> Any:
            for device in list(self.adaptors):
                self._quietly(self.fold, device)
            given = kwargs.get("devices", args[4] if len(args) > 4 else None)
            given = [given] if isinstance(given, int) else given or []
            try:
                return original(*args, **kwargs)
            finally:
                # The table of resources was cleared for all devices: attach again to each.
                for device in {*self.adaptors, *given}:
                    self._quietly(self.attach, device)

        return reinitialize

    def leave(self) -> None:
        """Undo all changes."""
        self.left = True
        for module, name, wrapper, original in self.wrapped:
            if vars(module).get(name) is wrapper:
                setattr(module, name, original)
        for device in list(self.adaptors):
            self.detach(device)


class CupyMeter:
    """Bytes of cupy's own pools; with ``exact``, counted at each allocation in the kernel's main thread."""

    def __init__(self, exact: bool) -> None:
        self.cupy = sys.modules["cupy"]
        self.seen: set[int] = set()
        self.hook = self._make_hook() if exact else None

    def _make_hook(self) -> Any:
        class Hook(self.cupy.cuda.MemoryHook):  # type: ignore[misc, name-defined]
            """Counts allocations; an error here never fails the notebook's allocation."""

            name = "AllocatorProbe"

            def __init__(self) -> None:
                self.now: dict[int, int] = {}
                self.peak: dict[int, int] = {}
                self.calls = 0

            def malloc_postprocess(self, **call: Any) -> None:
                self.calls += 1
                with contextlib.suppress(Exception):
                    if call["mem_ptr"]:
                        device = call["device_id"]
                        now = self.now[device] = self.now.get(device, 0) + call["mem_size"]
                        if now > self.peak.get(device, 0):
                            self.peak[device] = now

            def free_postprocess(self, **call: Any) -> None:
                self.calls += 1
                with contextlib.suppress(Exception):
                    device = call["device_id"]
                    self.now[device] = self.now.get(device, 0) - call["mem_size"]

        hook = Hook()
        started = time.perf_counter()
        for _ in range(1000):
            hook.malloc_postprocess(device_id=-1, size=1, mem_size=1, mem_ptr=1, pmem_id=1)
        self.seconds_a_call = (time.perf_counter() - started) / 1000
        hook = Hook()
        hook.__enter__()
        return hook

    def used(self) -> bool:
        """Return True if cupy has a context in this thread, without creating one."""
        get_context = getattr(self.cupy.cuda.driver, "ctxGetCurrent", None)
        try:
            return get_context is None or bool(get_context())
        except Exception:  # noqa: BLE001  (CUDA is not initialised yet)
            return False

    def _pools(self) -> list[Any]:
        pools = [self.cupy.get_default_memory_pool()]
        allocator = getattr(self.cupy.cuda.get_allocator(), "__self__", None)
        if hasattr(allocator, "total_bytes") and all(allocator is not pool for pool in pools):
            pools.append(allocator)
        return pools

    def read(self) -> dict[int, dict[str, Any]]:
        """Return a row for each device whose pools hold or held memory; start a new interval."""
        if not self.used():
            return {}
        runtime = self.cupy.cuda.runtime
        current = runtime.getDevice()
        self.seen.add(current)
        self.seen.update(self.hook.peak if self.hook else ())
        rows = {}
        for device in sorted(self.seen):
            with contextlib.nullcontext() if device == current else self.cupy.cuda.Device(device):
                pools = self._pools()
                row = {
                    "total": sum(pool.total_bytes() for pool in pools),
                    "used": sum(pool.used_bytes() for pool in pools),
                }
            if self.hook:
                row["peak"] = max(self.hook.peak.get(device, 0), row["used"])
                self.hook.now[device] = self.hook.peak[device] = row["used"]
            if any(row.values()):
                rows[device] = row
        return rows

    def free(self) -> tuple[int, int, int]:
        """Return the current device's number, free and total bytes."""
        free, total = self.cupy.cuda.runtime.memGetInfo()
        return self.cupy.cuda.runtime.getDevice(), free, total

    def cost(self) -> dict[str, float]:
        """Return the number of calls of the hook and their total time."""
        return {"calls": self.hook.calls, "seconds": self.hook.calls * self.seconds_a_call} if self.hook else {}

    def leave(self) -> None:
        """Remove the hook."""
        if self.hook:
            self.hook.__exit__()
