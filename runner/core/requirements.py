# SPDX-License-Identifier: Apache-2.0
"""Requirements of a notebook, with the defaults shared by options and plans."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """Resources that a notebook requires; GB are decimal, as GPUs are sold."""

    gpus: int = 0
    gpu_memory_gb: float | None = None
    gpu_free_fraction: float = 0.95
    cpu_fallback: bool = False
    """Run on the CPU if the GPUs are refused."""
    cpus: float | None = None
    memory_gb: float | None = None
    disk_gb: float | None = None
    shm_gb: float | None = None


def gpus_wanted(asked: Requirements) -> int:
    """Return the number of GPUs required: one if only a memory size is given."""
    return asked.gpus or int(asked.gpu_memory_gb is not None)


def requirements_of(gpus: int | None, gpu_memory_gb: float | None, free_fraction: float) -> Requirements:
    """Return the GPU requirements of options or a plan, None if not given; with 0 GPUs the memory is ignored."""
    memory = None if gpus == 0 else gpu_memory_gb or None
    asked = Requirements(gpus=gpus or 0, gpu_memory_gb=memory, gpu_free_fraction=free_fraction)
    return dataclasses.replace(asked, gpus=gpus_wanted(asked))
