# SPDX-License-Identifier: Apache-2.0
"""What is requested of GPUs, from options or a plan: the one rule for defaults."""

from __future__ import annotations

import dataclasses

from runner.core.records import Requirements


def gpus_wanted(asked: Requirements) -> int:
    """Return how many GPUs are asked for: one, when only their memory is given."""
    return asked.gpus or int(asked.gpu_memory_gb is not None)


def requirements_of(gpus: int | None, gpu_memory_gb: float | None, free_fraction: float) -> Requirements:
    """Return what options or a plan ask of GPUs, None for not given; with 0 GPUs, no memory of one."""
    memory = None if gpus == 0 else gpu_memory_gb or None
    asked = Requirements(gpus=gpus or 0, gpu_memory_gb=memory, gpu_free_fraction=free_fraction)
    return dataclasses.replace(asked, gpus=gpus_wanted(asked))
