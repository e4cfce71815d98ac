# SPDX-License-Identifier: Apache-2.0
"""Run by the kernel's Python in a separate process: loads the CUDA driver and runs a test computation with cupy.

It imports nothing from `runner`, which that Python may not have, and prints one JSON line per
finding, so that earlier findings survive a crash.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

COUNT = 1 << 20
EXPECTED = (COUNT - 1) * COUNT * (2 * COUNT - 1) // 6  # the sum of the first squares


def emit(**finding: object) -> None:
    """Print a finding immediately."""
    print(json.dumps(finding), flush=True)


def driver() -> None:
    """Load libcuda and query its CUDA version; this uses no GPU memory."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        emit(libcuda=None, reason=str(error))
        return
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    code = library.cuDriverGetVersion(ctypes.byref(version))
    started = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count))
    with Path("/proc/self/maps").open() as maps:  # the path shows whether it is a compat library
        paths = {line.split()[-1] for line in maps if "libcuda.so" in line}
    emit(libcuda=version.value if code == 0 else None, init=started, devices=count.value, path=min(paths, default=None))


def compute() -> None:
    """Compile and run a kernel with a known result."""
    try:
        import cupy  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        emit(cupy=None, missing=getattr(error, "name", None) == "cupy", reason=f"{type(error).__name__}: {error}")
        return
    try:
        square = cupy.ElementwiseKernel("int64 x", "int64 y", "y = x * x", "runner_validate_square")
        result = int(square(cupy.arange(COUNT, dtype=cupy.int64)).sum())
        runtime = cupy.cuda.runtime.runtimeGetVersion()
        emit(cupy=cupy.__version__, right=result == EXPECTED, runtime=runtime)
    except Exception as error:  # noqa: BLE001  (any error of driver, compiler or library is a finding)
        emit(cupy=cupy.__version__, right=None, reason=f"{type(error).__name__}: {error}"[:500])


if __name__ == "__main__":
    driver()
    if "--compute" in sys.argv:
        compute()
