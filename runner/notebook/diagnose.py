# SPDX-License-Identifier: Apache-2.0
"""Known signatures of failure, turned into a cause and a hint.

A table of signatures, tried in order; the first that fits names the cause. To teach it a new
one, add a row and a line to its table test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from runner.records import Cause, Status


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a failure, as text and facts."""

    status: Status
    error_name: str = ""
    message: str = ""
    traceback: str = ""
    """Traceback of the cell, without colours."""
    last_words: str = ""
    """What faulthandler and the kernel's raw stderr hold."""
    signal: str | None = None
    oom_kills: int = 0
    guard_acted: bool = False
    shm_free_bytes: int | None = None
    gpu_peak_fraction: float | None = None
    """Largest share of a device's memory that was in use near the end."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause and what to do about it."""

    cause: Cause
    hint: str


@dataclass(frozen=True, slots=True)
class _Signature:
    pattern: re.Pattern[str]
    cause: Cause
    hint: str


def _row(pattern: str, cause: Cause, hint: str) -> _Signature:
    return _Signature(re.compile(pattern, re.IGNORECASE), cause, hint)


_NUMBA = (
    "driver 580 and later crash when numba older than 0.63 calls cuCtxGetDevice_v2 through ctypes: "
    "set NUMBA_CUDA_USE_NVIDIA_BINDING=1 before the kernel starts (plan: env), or use numba 0.63 or later"
)
_DEVICE = (
    "the GPU's memory was full: use managed memory (rmm.reinitialize(managed_memory=True)) or a smaller pool, "
    "fewer cells, or a larger card"
)
_CRASH = (
    _row(r"cuCtxGetDevice_v2|numba[\w./]*cuda[\w./]*cudadrv", Cause.SEGFAULT, _NUMBA),
    _row(
        r"libuc[spt]\b|\bucp_|[/\\]ucxx?[/\\]|[/\\]ucp[/\\]|UCX +(ERROR|FATAL)",
        Cause.UCX,
        "frames of UCX may only be its signal handler; if it is UCX itself, set UCX_TLS=tcp and "
        "UCX_MEMTYPE_CACHE=n (plan: env)",
    ),
)
_RAISED = (
    _row(
        r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|rmm[\w.: ]*bad_alloc|std::bad_alloc: .*(rmm|CUDA)|"
        r"OutOfMemoryError|CUDA (error: )?out of memory|Maximum pool size exceeded|"
        r"CU(BLAS|SOLVER|SPARSE|DNN)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED",
        Cause.DEVICE_MEMORY,
        _DEVICE,
    ),
    _row(
        r"No space left on device.*?/dev/shm|/dev/shm.*?No space left",
        Cause.SHM,
        "/dev/shm is full: give the container more (docker --shm-size=1g, Tekton: emptyDir with medium Memory)",
    ),
    _row(
        r"unable to (mmap|allocate shared memory)|shm_open|bus error.*shared memory|out of shared memory",
        Cause.SHM,
        "/dev/shm is too small: give the container at least 1 GiB",
    ),
    _row(
        r"\bENOSPC\b|No space left on device|Disk quota exceeded|errno ?(= ?)?28\b",
        Cause.DISK_FULL,
        "the disk is full: free space or ask for a larger volume (plan: requires.disk_gb)",
    ),
    _row(
        r"\bucx(x|py)?\b.*(error|unreachable|timed? ?out|reset)|UCXX?\w*Error",
        Cause.UCX,
        "set UCX_TLS=tcp and UCX_MEMTYPE_CACHE=n for this notebook (plan: env)",
    ),
)
_NETWORK = re.compile(
    r"Name or service not known|Temporary failure in name resolution|Network is unreachable|Connection refused|"
    r"Connection timed out|Max retries exceeded|getaddrinfo failed|No route to host|ProxyError|NameResolutionError|"
    r"<urlopen error (?!unknown url type)|unable to resolve host|ConnectTimeout|Read timed out|RemoteDisconnected|"
    r"\bwget\b.* returned non-zero exit status 4\b",  # 4 is its code for a failure of the network
    re.IGNORECASE,
)
_MODULE = re.compile(r"No module named ['\"]?([\w.]+)")
_FILE = re.compile(
    r"No such file or directory[^'\"]*['\"]([^'\"]+)['\"]|"
    r"unable to open file: name = ['\"]([^'\"]+)['\"], errno = 2\b"  # h5py
)
_ERROR_LINE = re.compile(r"^[A-Za-z_][\w.]*: .*$", re.MULTILINE)
"""Lines of a traceback that show an error; those with source code begin with blanks, numbers or arrows."""
_EXTENSIONS = re.compile(r"^Extension modules:.*$", re.MULTILINE)
"""faulthandler's list of all that is loaded, which says nothing about what crashed."""
_HOST_MEMORY = "give the container more memory (plan: requires.memory_gb), or load less at once"


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """Return the cause of a failure and what to do, or None for an end that needs no cause."""
    if evidence.status in {Status.SUCCEEDED, Status.SKIPPED, Status.REFUSED, Status.TERMINATED}:
        return None
    if evidence.status is Status.KERNEL_DIED:
        return _death(evidence)
    if evidence.status is Status.FAILED:
        return _raised(evidence)
    return None


def _death(evidence: Evidence) -> Diagnosis:
    if evidence.guard_acted:
        return Diagnosis(Cause.HOST_MEMORY, f"the memory guard acted before the host's OOM killer: {_HOST_MEMORY}")
    if evidence.oom_kills and evidence.signal in {None, "SIGKILL"}:
        return Diagnosis(Cause.HOST_MEMORY, f"the host's OOM killer acted: {_HOST_MEMORY}")
    text = _EXTENSIONS.sub("", f"{evidence.last_words}\n{evidence.traceback}")
    if evidence.signal in {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"}:
        return _crash(evidence, text)
    if evidence.signal == "SIGKILL":
        return Diagnosis(
            Cause.KILLED, "somebody sent SIGKILL; no OOM kill was counted in this container, so look at the node's log"
        )
    module = _MODULE.search(text)
    if module:
        return _missing_module(module[1])
    return Diagnosis(Cause.KILLED, "the log has the kernel's last lines")


def _crash(evidence: Evidence, text: str) -> Diagnosis:
    for signature in (*_CRASH, *_RAISED):
        if signature.pattern.search(text):
            return Diagnosis(signature.cause, signature.hint)
    if "std::bad_alloc" in text:
        return Diagnosis(Cause.HOST_MEMORY, f"native code could not get memory: {_HOST_MEMORY}")
    if evidence.signal == "SIGBUS":
        return Diagnosis(Cause.SHM, "a bus error is most often a full /dev/shm: give the container at least 1 GiB")
    if evidence.signal == "SIGSEGV":
        return Diagnosis(
            Cause.SEGFAULT,
            "native code crashed: the frames are in the log; check that driver, CUDA and packages belong together",
        )
    if evidence.gpu_peak_fraction is not None and evidence.gpu_peak_fraction > 0.98:
        return Diagnosis(
            Cause.DEVICE_MEMORY, f"the device was {evidence.gpu_peak_fraction:.0%} full at the end; {_DEVICE}"
        )
    return Diagnosis(Cause.KILLED, f"native code ended the kernel by {evidence.signal}: the log has its last lines")


def _raised(evidence: Evidence) -> Diagnosis:
    text = f"{evidence.error_name}: {evidence.message}"
    module = _MODULE.search(text)
    if evidence.error_name in {"ModuleNotFoundError", "ImportError"} and module:
        return _missing_module(module[1])
    for signature in _RAISED:
        if signature.pattern.search(text):
            return Diagnosis(signature.cause, signature.hint)
    if evidence.error_name in {"MemoryError", "_ArrayMemoryError"}:
        return Diagnosis(Cause.HOST_MEMORY, f"Python could not get memory: {_HOST_MEMORY}")
    if _NETWORK.search(text):
        return Diagnosis(
            Cause.NETWORK,
            "the network was not reached: declare the file as a dataset of the plan, or allow egress to that host",
        )
    if evidence.error_name == "FileNotFoundError" or _FILE.search(text):
        found = _FILE.search(text)
        name = f" {(found[1] or found[2])!r}" if found else ""
        return Diagnosis(
            Cause.MISSING_FILE,
            f"the input{name} is not there: check the working directory (plan: cwd) and which notebook writes it "
            "(plan: needs)",
        )
    behind = "\n".join(_ERROR_LINE.findall(evidence.traceback))
    for signature in _RAISED:
        if signature.cause is Cause.DEVICE_MEMORY and signature.pattern.search(behind):
            return Diagnosis(signature.cause, signature.hint)
    if evidence.oom_kills:
        return Diagnosis(Cause.HOST_MEMORY, f"the host's OOM killer ended a process of this run: {_HOST_MEMORY}")
    return Diagnosis(Cause.EXCEPTION, "the traceback's last lines say where")


def _missing_module(name: str) -> Diagnosis:
    return Diagnosis(
        Cause.MISSING_MODULE,
        f"the image lacks the Python module {name!r}: build it in, nothing is installed at run time",
    )
