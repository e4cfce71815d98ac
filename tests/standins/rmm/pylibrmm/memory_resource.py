# SPDX-License-Identifier: Apache-2.0
"""The stand-in's resources. Underscored functions are what Cython calls without asking the module."""

from __future__ import annotations

from dataclasses import dataclass

import standin_device


@dataclass
class Statistics:
    """Counters as rmm gives them."""

    current_bytes: int = 0
    current_count: int = 0
    peak_bytes: int = 0
    peak_count: int = 0
    total_bytes: int = 0
    total_count: int = 0


class DeviceMemoryResource:
    """A resource."""

    __slots__ = ()


class CudaMemoryResource(DeviceMemoryResource):
    """Straight from the device."""

    __slots__ = ()

    def allocate(self, size):
        """Take it."""
        try:
            standin_device.take(size)
        except standin_device.NoMemoryError:
            text = f"std::bad_alloc: out_of_memory: CUDA error (failed to allocate {size} bytes) at: x.hpp:62: "
            raise MemoryError(text + "cudaErrorMemoryAllocation out of memory") from None

    def deallocate(self, size):
        """Give it back."""
        standin_device.take(-size)


class ManagedMemoryResource(CudaMemoryResource):
    """Pages that move."""

    __slots__ = ()


class CudaAsyncMemoryResource(CudaMemoryResource):
    """Keeps what it has and does not say how much."""

    __slots__ = ()


class UpstreamResourceAdaptor(DeviceMemoryResource):
    """A resource over another."""

    __slots__ = ("upstream",)

    def __init__(self, upstream_mr, *_args, **_kwargs):
        self.upstream = upstream_mr

    def get_upstream(self):
        """Return the one below."""
        return self.upstream

    def allocate(self, size):
        """Pass on."""
        self.upstream.allocate(size)

    def deallocate(self, size):
        """Pass on."""
        self.upstream.deallocate(size)


class LoggingResourceAdaptor(UpstreamResourceAdaptor):
    """Logs nothing."""

    __slots__ = ()


class PoolMemoryResource(UpstreamResourceAdaptor):
    """Takes half of what is free at once."""

    __slots__ = ("limit", "size", "used")

    def __init__(self, upstream_mr, initial_pool_size=None, maximum_pool_size=None):
        super().__init__(upstream_mr)
        self.size = self.used = 0
        self.limit = maximum_pool_size
        self._grow(standin_device.free_bytes() // 2 if initial_pool_size is None else initial_pool_size)

    def _grow(self, size):
        if self.limit is not None and self.size + size > self.limit:
            gib = f"{size / 2**30:.6f} GiB"
            raise MemoryError(f"std::bad_alloc: out_of_memory: Maximum pool size exceeded (failed to allocate {gib})")
        self.upstream.allocate(size)
        self.size += size

    def allocate(self, size):
        """Take it from the pool, which grows where it must."""
        if self.used + size > self.size:
            self._grow(self.used + size - self.size)
        self.used += size

    def deallocate(self, size):
        """Keep it."""
        self.used -= size

    def pool_size(self):
        """Return what was taken from below."""
        return self.size

    def __del__(self):
        self.upstream.deallocate(self.size)


class StatisticsResourceAdaptor(UpstreamResourceAdaptor):
    """Counts, on a stack of counters."""

    __slots__ = ("stack",)

    def __init__(self, upstream_mr):
        super().__init__(upstream_mr)
        self.stack = [Statistics()]

    def allocate(self, size):
        """Count what succeeded."""
        self.upstream.allocate(size)
        top = self.stack[-1]
        top.current_bytes += size
        top.total_bytes += size
        top.current_count += 1
        top.total_count += 1
        top.peak_bytes = max(top.peak_bytes, top.current_bytes)

    def deallocate(self, size):
        """Count it down."""
        self.upstream.deallocate(size)
        self.stack[-1].current_bytes -= size
        self.stack[-1].current_count -= 1

    @property
    def allocation_counts(self):
        """The top of the stack."""
        return Statistics(**vars(self.stack[-1]))

    def push_counters(self):
        """Begin new counters at zero."""
        self.stack.append(Statistics())
        return Statistics(**vars(self.stack[-2]))

    def pop_counters(self):
        """End them and add them to those below."""
        if len(self.stack) == 1:
            raise IndexError("cannot pop the last counter pair")
        top, below = self.stack.pop(), self.stack[-1]
        below.peak_bytes = max(below.peak_bytes, below.current_bytes + top.peak_bytes)
        below.current_bytes += top.current_bytes
        below.current_count += top.current_count
        below.total_bytes += top.total_bytes
        below.total_count += top.total_count
        return top


_per_device: dict[int, DeviceMemoryResource] = {}


def _get(device):
    return _per_device.setdefault(device, CudaMemoryResource())


def _initialize(*, pool_allocator, managed_memory, initial_pool_size, maximum_pool_size, devices, logging):
    _per_device.clear()
    for device in [devices] if isinstance(devices, int) else devices:
        made = (ManagedMemoryResource if managed_memory else CudaMemoryResource)()
        if pool_allocator:
            made = PoolMemoryResource(made, initial_pool_size, maximum_pool_size)
        _per_device[device] = LoggingResourceAdaptor(made) if logging else made


def get_per_device_resource(device):
    """Return a device's resource."""
    return _get(device)


def get_current_device_resource():
    """Return the current device's resource."""
    return _get(0)


def get_current_device_resource_type():
    """Return its class; older versions of rmm have this."""
    return type(_get(0))


def set_per_device_resource(device, mr):
    """Set a device's resource."""
    _per_device[device] = mr


def set_current_device_resource(mr):
    """Set the current device's resource."""
    _per_device[0] = mr


def enable_logging(_log_file_name=None):
    """Put a logging adaptor on top of each device's resource."""
    for device, top in list(_per_device.items()):
        if not isinstance(top, LoggingResourceAdaptor):
            _per_device[device] = LoggingResourceAdaptor(top)


def disable_logging():
    """Take them off."""
    for device, top in list(_per_device.items()):
        if isinstance(top, LoggingResourceAdaptor):
            _per_device[device] = top.get_upstream()


def get_log_filenames():
    """Return the log of each device, None where nothing is logged."""
    return {d: "rmm.log" if isinstance(top, LoggingResourceAdaptor) else None for d, top in _per_device.items()}


def available_device_memory():
    """Return free and total bytes."""
    standin_device.take(0)
    return standin_device.free_bytes(), standin_device.TOTAL_BYTES


class DeviceBuffer:
    """Memory that is freed with its last reference."""

    def __init__(self, *, size=0):
        self.mr = None
        self.size = size
        resource = _get(0)
        resource.allocate(size)
        self.mr = resource

    def __del__(self):
        if self.mr is not None:
            self.mr.deallocate(self.size)
