# SPDX-License-Identifier: Apache-2.0
"""A process that occupies GPU memory, so that a large card has only as much free as a smaller one.

It uses plain cuMemAlloc through libcuda, never managed memory, which would be evicted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn, Self

from runner.core.errors import RefusedError
from runner.core.units import format_bytes

if TYPE_CHECKING:
    from runner.machine.gpus import Gpu

TOLERANCE_BYTES = 64 * 2**20

# It exits when its stdin is closed, and so with its parent process.
_PROGRAM = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"{name} failed with CUDA error {code}")
context, address, device = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_int()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
print("ready", flush=True)
for line in sys.stdin:
    call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(int(line)))
    print("held", flush=True)
"""


class Ballast:
    """Context manager that occupies all memory of a GPU but a given amount.

    Parameters
    ----------
    gpu
        The GPU, which must not be in MIG mode.
    leave_bytes
        Memory that stays free according to NVML, to within `TOLERANCE_BYTES`.

    Raises
    ------
    RefusedError
        Less than that is free, or CUDA cannot allocate memory in this process.
    """

    def __init__(self, gpu: Gpu, leave_bytes: int) -> None:
        self._gpu, self._leave_bytes = gpu, leave_bytes
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": self._gpu.uuid},
        )
        try:
            self._read_answer()
            # The driver rounds sizes: measure what it allocated, and allocate the rest.
            for _ in range(3):
                excess = self._free_bytes() - self._leave_bytes
                if excess <= TOLERANCE_BYTES // 2:
                    break
                self._process.stdin.write(f"{excess}\n")  # type: ignore[union-attr]
                self._process.stdin.flush()  # type: ignore[union-attr]
                self._read_answer()
            free = self._free_bytes()
            if abs(free - self._leave_bytes) > TOLERANCE_BYTES:
                self._refuse(
                    f"{format_bytes(free)} are free instead of {format_bytes(self._leave_bytes)}",
                    hint="another process uses this GPU: wait for it, or omit smaller cards",
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.communicate()

    def _free_bytes(self) -> int:
        return self._gpu.memory().free_bytes or 0

    def _read_answer(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            errors = self._process.communicate()[1].strip().splitlines()
            self._refuse(
                f"no memory can be allocated: {errors[-1] if errors else 'the process ended'}",
                hint="CUDA must work here and allow several processes; see `runner validate`",
            )

    def _refuse(self, what: str, hint: str) -> NoReturn:
        raise RefusedError(f"GPU {self._gpu.index}: {what}", hint=hint)
