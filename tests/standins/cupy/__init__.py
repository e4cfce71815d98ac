# SPDX-License-Identifier: Apache-2.0
"""A stand-in for cupy: its pool, hooks and errors, as far as the allocator probe and its tests use them."""

from __future__ import annotations

import math

from cupy import cuda
from cupy.cuda import get_default_memory_pool

__all__ = ["cuda", "empty", "get_default_memory_pool", "get_default_pinned_memory_pool"]
__version__ = "0.0.standin"


class ndarray:  # noqa: N801  (its name in cupy)
    """Bytes on the device."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.data = cuda.get_allocator()(nbytes)


def empty(shape: int | tuple[int, ...], dtype: str = "u1") -> ndarray:
    """Allocate."""
    count = math.prod(shape) if isinstance(shape, tuple) else shape
    return ndarray(count * int(dtype[1:]))


class _Pinned:
    def free_all_blocks(self) -> None:
        """Do nothing."""


def get_default_pinned_memory_pool() -> _Pinned:
    """Return a pool of nothing."""
    return _Pinned()
