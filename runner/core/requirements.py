# SPDX-License-Identifier: Apache-2.0
"""What a notebook asks of the machine, from options or a plan: the one rule for defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a notebook asks of the machine; GB are decimal, as GPUs are sold."""

    gpus: int = 0
    gpu_memory_gb: float | None = None
    gpu_free_fraction: float = 0.95
    cpu_fallback: bool = False
    """Run on the CPU where the GPUs are refused."""
    cpus: float | None = None
    memory_gb: float | None = None
    disk_gb: float | None = None
    shm_gb: float | None = None


def gpus_wanted(asked: Requirements) -> int:
    """Return how many GPUs are asked for: one, when only their memory is given."""
    return asked.gpus or int(asked.gpu_memory_gb is not None)


def requirements_of(gpus: int | None, gpu_memory_gb: float | None, free_fraction: float) -> Requirements:
    """Return what options or a plan ask of GPUs, None for not given; with 0 GPUs, no memory of one."""
    memory = None if gpus == 0 else gpu_memory_gb or None
    asked = Requirements(gpus=gpus or 0, gpu_memory_gb=memory, gpu_free_fraction=free_fraction)
    return dataclasses.replace(asked, gpus=gpus_wanted(asked))
