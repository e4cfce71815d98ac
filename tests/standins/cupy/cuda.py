# SPDX-License-Identifier: Apache-2.0
"""The stand-in's `cupy.cuda`."""

from __future__ import annotations

import types
import uuid

import standin_device

BLOCK = 512
_hooks: dict[str, MemoryHook] = {}


class OutOfMemoryError(MemoryError):
    """Says what cupy's says."""

    def __init__(self, size: int, total: int) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class CUDADriverError(RuntimeError):
    """Error of the driver."""


class MemoryHook:
    """Registered by name while it is entered, as in cupy."""

    name = "MemoryHook"

    def __enter__(self):
        if self.name in _hooks:
            raise KeyError(self.name)
        _hooks[self.name] = self
        return self

    def __exit__(self, *_):
        del _hooks[self.name]

    def malloc_preprocess(self, **_):
        """Before."""

    def malloc_postprocess(self, **_):
        """After."""

    def free_preprocess(self, **_):
        """Before."""

    def free_postprocess(self, **_):
        """After."""


class _Block:
    """Goes back to the pool with its last reference."""

    __slots__ = ("pool", "size")

    def __init__(self, pool, size):
        self.pool, self.size = pool, size

    def __del__(self):
        for hook in _hooks.values():
            hook.free_postprocess(device_id=0, mem_size=self.size, mem_ptr=1, pmem_id=id(self))
        self.pool._free.append(self.size)


class MemoryPool:
    """Keeps what was freed, for requests of the same size."""

    def __init__(self):
        self._free: list[int] = []
        self._total = 0

    def malloc(self, size):
        """Return memory of the pool, or of the device."""
        rounded = -(-size // BLOCK) * BLOCK
        block = None
        try:
            block = self._malloc(rounded)
        finally:
            for hook in _hooks.values():
                mem_ptr = int(block is not None)
                hook.malloc_postprocess(device_id=0, size=size, mem_size=rounded, mem_ptr=mem_ptr, pmem_id=id(block))
        return block

    def _malloc(self, size):
        if size in self._free:
            self._free.remove(size)
        else:
            try:
                standin_device.take(size)
            except standin_device.NoMemoryError:
                raise OutOfMemoryError(size, self._total) from None
            self._total += size
        return _Block(self, size)

    def free_all_blocks(self):
        """Give back what is not used."""
        standin_device.take(-sum(self._free))
        self._total -= sum(self._free)
        self._free.clear()

    def total_bytes(self):
        """Taken from the device."""
        return self._total

    def used_bytes(self):
        """In use."""
        return self._total - sum(self._free)


class Device:
    """The one device."""

    def __init__(self, number):
        self.id = number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


_pool = MemoryPool()
_allocator = _pool.malloc


def get_default_memory_pool():
    """Return the pool."""
    return _pool


def get_allocator():
    """Return what allocates now."""
    return _allocator


def set_allocator(allocator=None):
    """Allocate otherwise."""
    global _allocator  # noqa: PLW0603  (as in cupy)
    _allocator = allocator or _pool.malloc


def _current_context():
    if not standin_device.has_context:
        raise CUDADriverError("CUDA_ERROR_NOT_INITIALIZED: initialization error")
    return 1


def _touch(answer):
    """Make a context, as every call of the runtime may."""
    standin_device.take(0)
    return answer


memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
driver = types.SimpleNamespace(ctxGetCurrent=_current_context)
runtime = types.SimpleNamespace(
    getDevice=lambda: _touch(0),
    memGetInfo=lambda: _touch((standin_device.free_bytes(), standin_device.TOTAL_BYTES)),
    getDeviceProperties=lambda _number: {"uuid": uuid.UUID(standin_device.UUID.partition("-")[2]).bytes},
)
