# SPDX-License-Identifier: Apache-2.0
"""Device memory for the stand-ins of cupy and rmm: what is taken shows in the simulated driver.

STANDIN_GPU is the UUID of the one device, STANDIN_TOTAL_BYTES its size, STANDIN_BEFORE_BYTES what others
hold. The first allocation makes a context of CONTEXT_BYTES, as CUDA does.
"""

from __future__ import annotations

import os
from pathlib import Path

CONTEXT_BYTES = 512 * 10**6
TOTAL_BYTES = int(os.environ.get("STANDIN_TOTAL_BYTES") or 80 * 10**9)
BEFORE_BYTES = int(os.environ.get("STANDIN_BEFORE_BYTES") or 0)
UUID = os.environ.get("STANDIN_GPU", "GPU-00000000-0000-4000-8000-00000000000a")

taken_bytes = 0
has_context = False


class NoMemoryError(Exception):
    """The device is full."""


def free_bytes() -> int:
    """Return what is free."""
    return TOTAL_BYTES - BEFORE_BYTES - taken_bytes - CONTEXT_BYTES * has_context


def take(size: int) -> None:
    """Take memory of the device; negative sizes give it back."""
    global taken_bytes, has_context  # noqa: PLW0603  (the one device of this process)
    if size > free_bytes() - CONTEXT_BYTES * (not has_context):
        raise NoMemoryError
    has_context = True
    taken_bytes += size
    scene = os.environ.get("SIMULATED_NVML")
    if scene:
        with Path(scene + ".allocations").open("a") as stream:
            stream.write(f"{UUID} {os.getpid()} {taken_bytes + CONTEXT_BYTES}\n")
