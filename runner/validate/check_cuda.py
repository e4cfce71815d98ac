# SPDX-License-Identifier: Apache-2.0
"""Checks of driver and CUDA: compatible versions, and a test computation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from runner.core.records import Check
from runner.validate import probes

if TYPE_CHECKING:
    from runner.validate.check_gpus import Gpus
    from runner.validate.probes import Findings
    from runner.validate.result import Level

COMPAT = Path("/usr/local/cuda/compat")
_COMPUTE_SECONDS = 50.0
# https://docs.nvidia.com/deploy/cuda-compatibility/: the oldest driver for any CUDA of this major version
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
_RUNTIMES = ("cuda-version", "nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")
_CUPY = re.compile(r"cupy-cuda(\d+)x")
_TRAP_DRIVER, _TRAP_NUMBA = 580, Version("0.63")
_TRAP_VARIABLE = "NUMBA_CUDA_USE_NVIDIA_BINDING"


def checks(gpus: Gpus, python: str, versions: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Check, ...]:
    """Return the checks of driver and runtime, and with a GPU of a test computation."""
    runtime = runtime_version(versions, environ)
    found = [_runtime(gpus, runtime)]
    trap = numba_trap(gpus.driver_major, versions, environ)
    if trap is not None:
        found.append(trap)
    if gpus.seen:
        findings = probes.run(python, "probe_cuda.py", ["--compute"], seconds=_COMPUTE_SECONDS)
        found += [driver_library(findings), computation(findings, versions)]
    return tuple(found)


def runtime_version(versions: Mapping[str, str], environ: Mapping[str, str]) -> str | None:
    """Return the CUDA version of the installed packages, None if unknown."""
    for name in _RUNTIMES:
        if name in versions:
            return ".".join(versions[name].split(".")[:2])
    for name in versions:
        if match := _CUPY.fullmatch(name):
            return match[1]
    return ".".join(environ.get("CUDA_VERSION", "").split(".")[:2]) or None


def _runtime(gpus: Gpus, runtime: str | None) -> Check:
    """Compare the runtime's version with the driver's."""
    if gpus.driver_version is None:
        return Check(name="driver", status="pass", seen="no driver", needed="only for GPUs")
    seen = f"driver {gpus.driver_version}, CUDA {gpus.cuda_version or 'unknown'}"
    if runtime is None:
        return Check(name="driver", status="pass", seen=f"{seen}; no CUDA packages are installed")
    needed = f"for CUDA {runtime}"
    try:
        ours, theirs = Version(runtime), Version(gpus.cuda_version or "")
    except InvalidVersion:
        return Check(name="driver", status="warn", seen=seen, needed=needed, hint="the versions cannot be compared")
    oldest = _OLDEST_DRIVER.get(ours.major)
    if theirs.major < ours.major:
        compat = f"{COMPAT} exists" if COMPAT.is_dir() else f"there are none in {COMPAT}"
        hint = (
            f"update the driver{f' to {oldest} or newer' if oldest else ''}, or use an image for CUDA {theirs.major}; "
            f"data-center GPUs may use compat libraries, {compat}"
        )
        status: Level = "warn" if COMPAT.is_dir() else "fail"
        return Check(name="driver", status=status, seen=seen, needed=needed, hint=hint)
    if theirs < ours and theirs.major == ours.major and "." in runtime:
        hint = "works through minor-version compatibility, except for code compiled to PTX; update the driver"
        return Check(name="driver", status="warn", seen=seen, needed=needed, hint=hint)
    return Check(name="driver", status="pass", seen=seen, needed=needed)


def numba_trap(driver_major: int | None, versions: Mapping[str, str], environ: Mapping[str, str]) -> Check | None:
    """Return the check for numba below 0.63 on driver 580 and newer, which can crash with a segmentation fault.

    numba then calls ``cuCtxGetDevice_v2`` through ctypes. rapids-singlecell's ``leiden`` crashed this way; frames of
    UCX in the trace belong to its signal handler only.
    """
    if "numba" not in versions:
        return None
    name, needed = "numba and driver 580", f"numba 0.63, or {_TRAP_VARIABLE}=1"
    seen = f"numba {versions['numba']}, driver {driver_major or 'none'}"
    try:
        old = Version(versions["numba"]) < _TRAP_NUMBA
    except InvalidVersion:
        old = False
    if not old or driver_major is None or driver_major < _TRAP_DRIVER:
        return Check(name=name, status="pass", seen=seen)
    if environ.get(_TRAP_VARIABLE) == "1":
        return Check(name=name, status="pass", seen=f"{seen}, {_TRAP_VARIABLE}=1", needed=needed)
    hint = f"kernels can crash with SIGSEGV: set {_TRAP_VARIABLE}=1 before they start (in the plan's env or the image)"
    return Check(name=name, status="warn", seen=seen, needed=needed, hint=hint)


def driver_library(findings: Findings) -> Check:
    """Check that libcuda was loaded and initialized, and finds a device."""
    seen = findings.merged
    if "libcuda" not in seen:
        hint = "run nvidia-smi on the host, and check its kernel log"
        return Check(name="libcuda", status="fail", seen=findings.ended or "no answer", hint=hint)
    if seen["libcuda"] is None:
        hint = "the container has NVML without CUDA: NVIDIA_DRIVER_CAPABILITIES must include `compute`"
        return Check(name="libcuda", status="fail", seen=str(seen.get("reason", "cannot be loaded")), hint=hint)
    text = f"{_cuda(seen['libcuda'])} from {seen.get('path')}, {seen.get('devices', 0)} devices"
    if seen.get("init") or not seen.get("devices"):
        hint = "NVML finds GPUs but CUDA does not: recreate the container; check MIG and CUDA_VISIBLE_DEVICES"
        return Check(name="libcuda", status="fail", seen=f"{text}, error {seen.get('init')}", hint=hint)
    return Check(name="libcuda", status="pass", seen=text)


def computation(findings: Findings, versions: Mapping[str, str]) -> Check:
    """Check the result of cupy's test computation."""
    seen: dict[str, Any] = findings.merged
    name, needed = "cupy kernel", "the correct sum"
    if seen.get("missing") and not any(package.startswith("cupy") for package in versions):
        return Check(name=name, status="pass", seen="cupy is not installed", needed="only with cupy")
    if seen.get("right") is True:
        return Check(name=name, status="pass", seen=f"cupy {seen['cupy']}, runtime {_cuda(seen['runtime'])}: correct")
    if seen.get("right") is False:
        hint = "the GPU computes wrong results: take it out of service"
        return Check(name=name, status="fail", seen=f"cupy {seen['cupy']}: wrong sum", needed=needed, hint=hint)
    reason = seen.get("reason") or findings.last_words
    text = "; ".join(filter(None, [str(reason or ""), findings.ended])) or "no answer"
    hint = "notebooks will fail too: compare driver and CUDA above, and check that only one cupy is installed"
    return Check(name=name, status="fail", seen=text[:300], needed=needed, hint=hint)


def _cuda(number: Any) -> str:
    return f"CUDA {number // 1000}.{number % 1000 // 10}" if isinstance(number, int) else "CUDA unknown"
