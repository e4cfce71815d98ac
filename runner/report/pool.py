# SPDX-License-Identifier: Apache-2.0
"""Recognises a memory pool in the samples.

`rmm.reinitialize(pool_allocator=True)` takes half of the free memory of a GPU at once, so that
NVML's peak shows the pool for nearly every RAPIDS notebook. Such a step has a shape of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.core.machine_records import GpuUse
    from runner.report.sample_series import Samples

SHARE = (0.46, 0.54)
"""Half, give or take what the context and the libraries take in the same instant."""
WITHIN_TICKS = 2
STAYS = 0.9
"""A pool is kept: hardly any sample after the step lies below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A step of about half of the free memory."""

    uuid: str
    at_seconds: float
    taken_bytes: int
    free_bytes: int

    @property
    def share(self) -> float:
        """The share of the free memory that was taken."""
        return self.taken_bytes / self.free_bytes


def find_pools(gpus: Iterable[GpuUse], samples: Samples) -> tuple[Pool, ...]:
    """Return for each GPU the largest step that looks like a pool, if there is one."""
    import numpy as np

    pools: list[Pool] = []
    for gpu in gpus:
        found: list[Pool] = []
        series = samples.gpus.get(gpu.uuid)
        if series is None or not gpu.total_bytes or len(series.memory_bytes) <= WITHIN_TICKS:
            continue
        known = np.isfinite(series.memory_bytes)
        memory, time = series.memory_bytes[known], series.time_seconds[known]
        for ticks in range(1, WITHIN_TICKS + 1):
            taken = memory[ticks:] - memory[:-ticks]
            free = np.maximum(gpu.total_bytes - memory[:-ticks], 1.0)
            fits = (taken / free >= SHARE[0]) & (taken / free <= SHARE[1]) & (taken > 1e9)
            for place in np.flatnonzero(fits)[:20]:
                after = memory[place + ticks :]
                if float((after >= memory[place] + STAYS * taken[place]).mean()) >= STAYS:
                    step = Pool(
                        uuid=gpu.uuid,
                        at_seconds=float(time[place + ticks]),
                        taken_bytes=int(taken[place]),
                        free_bytes=int(free[place]),
                    )
                    found.append(step)
        if found:
            pools.append(max(found, key=lambda pool: pool.taken_bytes))
    return tuple(pools)
