# SPDX-License-Identifier: Apache-2.0
"""Derive cause and hint of a failure from known signatures.

Signatures are tried in order; the first match determines the cause. To add one, add a row and a
line to its table test. Texts come from notebooks: they are bounded before matching, and no pattern
may take more than linear time, because matching holds the GIL and so blocks the heartbeat and the
signal handlers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner.core.records import Cause, Status

if TYPE_CHECKING:
    from runner.machine.host import Place


@dataclass(frozen=True, slots=True)
class Evidence:
    """Texts and facts about a failure."""

    status: Status
    error_name: str = ""
    message: str = ""
    traceback: str = ""
    """Traceback of the cell, without ANSI colours."""
    crash_output: str = ""
    """Output of faulthandler and the kernel's raw stderr."""
    signal: str | None = None
    oom_kills: int = 0
    guard_acted: bool = False
    shm_free_bytes: int | None = None
    gpu_peak_fraction: float | None = None
    """Largest share of a device's memory in use near the end."""
    lfs_pointers: tuple[str, ...] = ()
    """Files read by the cell that are git-lfs pointers instead of data."""
    ucx_tls: str | None = None
    """The kernel's ``UCX_TLS``."""
    place: Place | None = None
    """Where the notebook ran, for hints that apply there."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause and a hint."""

    cause: Cause
    hint: str


@dataclass(frozen=True, slots=True)
class _Signature:
    patterns: tuple[re.Pattern[str], ...]
    cause: Cause
    hint: str

    def matches(self, text: str) -> bool:
        """Return True if a line of the text matches all patterns, in any order."""
        if len(self.patterns) == 1:
            return self.patterns[0].search(text) is not None
        if not all(pattern.search(text) for pattern in self.patterns):
            return False
        return any(all(pattern.search(line) for pattern in self.patterns) for line in text.splitlines())


def _row(pattern: str | tuple[str, ...], cause: Cause, hint: str) -> _Signature:
    patterns = (pattern,) if isinstance(pattern, str) else pattern
    return _Signature(tuple(re.compile(each, re.IGNORECASE) for each in patterns), cause, hint)


_NUMBA = (
    "drivers 580 and later crash when numba before 0.63 calls cuCtxGetDevice_v2 through ctypes: "
    "set NUMBA_CUDA_USE_NVIDIA_BINDING=1 before the kernel starts (plan: env), or use numba 0.63 or later"
)
_DEVICE = (
    "the GPU's memory was full: use managed memory (rmm.reinitialize(managed_memory=True)) or a smaller pool, "
    "fewer cells, or a larger GPU"
)
_UCX = "set UCX_TLS=tcp,cuda_copy,cuda_ipc and UCX_MEMTYPE_CACHE=n for this notebook (plan: env)"
_SHM_SIZE = "give the container at least 1 GiB (docker --shm-size=1g, Tekton: emptyDir with medium Memory)"
_SHM = f"/dev/shm is full: {_SHM_SIZE}"
_NO_DRIVER = (
    "the NVIDIA driver is not in the container: start it with GPUs (docker --gpus all; Kubernetes: "
    "a limit on nvidia.com/gpu) on a node that has the driver"
)
_CRASH = (
    _row(r"cuCtxGetDevice_v2|numba[./]cuda[./]cudadrv", Cause.SEGFAULT, _NUMBA),
    _row(
        r"libuc[spt]\b|\bucp_|[/\\]ucxx?[/\\]|[/\\]ucp[/\\]|UCX +(ERROR|FATAL)",
        Cause.UCX,
        f"frames of UCX may just be its signal handler; if UCX itself crashed, {_UCX}",
    ),
)
_RAISED = (
    _row(
        r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|OutOfMemoryError|CUDA (error: )?out of memory|"
        r"Maximum pool size exceeded|CU(BLAS|SOLVER|SPARSE|DNN)_STATUS_ALLOC_FAILED|CUFFT_ALLOC_FAILED",
        Cause.DEVICE_MEMORY,
        _DEVICE,
    ),
    _row((r"bad_alloc", r"\brmm\b|CUDA"), Cause.DEVICE_MEMORY, _DEVICE),
    _row((r"No space left on device", r"/dev/shm"), Cause.SHM, _SHM),
    _row(
        r"unable to (mmap|allocate shared memory)|shm_open|out of shared memory",
        Cause.SHM,
        f"/dev/shm is too small: {_SHM_SIZE}",
    ),
    _row((r"bus error", r"shared memory"), Cause.SHM, _SHM),
    _row(
        r"\bENOSPC\b|No space left on device|Disk quota exceeded|errno ?(= ?)?28\b",
        Cause.DISK_FULL,
        "the disk is full: free space or request a larger volume (plan: requires.disk_gb)",
    ),
    _row(
        r"cudaErrorInsufficientDriver|driver version is insufficient|NVIDIA driver on your system is too old|"
        r"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH|cudaErrorSystemDriverMismatch|forward compatibility was attempted|"
        r"COMPAT_?NOT_?SUPPORTED_?ON_?DEVICE|UNSUPPORTED_?PTX_?VERSION|compiled with an unsupported toolchain",
        Cause.DRIVER,
        "the NVIDIA driver is too old for the CUDA version of the image: use a node with a newer driver, or an image "
        "for an older CUDA; `runner validate` shows both versions",
    ),
    _row(
        r"no kernel image is available|cudaErrorNoKernelImageForDevice|CUDA_ERROR_NO_BINARY_FOR_GPU|"
        r"device kernel image is invalid|is not compatible with the current PyTorch installation",
        Cause.DRIVER,
        "a package of the image was not built for this GPU's architecture: use a GPU that it supports, or an image "
        "built for this one; `runner validate` shows the compute capability",
    ),
    _row(
        r"busy or unavailable|cudaErrorDevicesUnavailable|CUDA_ERROR_DEVICE_UNAVAILABLE|cudaErrorDeviceAlreadyInUse|"
        r"device already in use|in prohibited mode|compute mode (is )?(exclusive|prohibited)",
        Cause.GPU_BUSY,
        "the GPU accepts no further process: another one uses it in exclusive compute mode, or the mode is prohibited; "
        "see `nvidia-smi -q -d COMPUTE` and choose another GPU, or wait for this one (--wait)",
    ),
    _row(
        r"cudaErrorNoDevice|CUDA_ERROR_NO_DEVICE|no CUDA-capable device|No CUDA GPUs are available|"
        r"cudaErrorInvalidDevice\b|CUDA_ERROR_INVALID_DEVICE\b|invalid device ordinal|"
        r"no GPUs? (was |were )?(found|detected)",
        Cause.NO_DEVICE,
        "the kernel sees no GPU, or fewer than the cell uses: request them from the gate with --min-gpus 1 or more "
        "(plan: requires.gpus)",
    ),
    _row(
        r"libcuda\.so[.\d]*: cannot open|CUDA driver library cannot be found|Found no NVIDIA driver|"
        r"cudaErrorStubLibrary|CUDA driver is a stub library|libnvidia-ml\.so[.\d]*: cannot open",
        Cause.DRIVER,
        _NO_DRIVER,
    ),
    _row(
        (r"\bucx(x|py)?\b", r"error|unreachable|timed? ?out|reset|bad address|truncated"),
        Cause.UCX,
        _UCX,
    ),
    _row(r"\bUCXX?\w{0,40}Error", Cause.UCX, _UCX),
)
_WRAPPED = tuple(
    row for row in _RAISED if row.cause in {Cause.DEVICE_MEMORY, Cause.DRIVER, Cause.GPU_BUSY, Cause.NO_DEVICE}
)
"""Signatures also searched in chained errors, as libraries wrap CUDA's errors."""
_LIBRARY = re.compile(
    r"(?<![\w+.-])(?P<lib>[\w+.-]{1,80}?\.so[.\d]{0,20})(?!\w)|"
    r"(?P<other>NVVM library|libdevice|cuda_fp16\.h|CUDA headers)",
    re.IGNORECASE,
)
_NOT_LOADED = re.compile(
    r"cannot open shared object file|failed to load lib|could not load (dynamic )?library|"
    r"undefined symbol|version [`'][\w.]{1,40}' not found|cannot open source file|"
    r"(library|libdevice|headers)[\w ]{0,20} (cannot be|not|missing)|(cannot|failed to) find (libdevice|CUDA headers)|"
    r"cannot load library",
    re.IGNORECASE,
)
_UNREADABLE = re.compile(
    r"file signature not found|not an? (zip|gzip|gzipped|HDF5|valid \w{1,20}) ?file|invalid load key, 'v'|"
    r"magic (bytes|string|number)|bad magic|cannot identify image file|allow_pickle=False|Error tokenizing data|"
    r"Expecting value: line 1 column 1|file could not be opened|unsupported format|unable to determine the file format",
    re.IGNORECASE,
)
"""Errors of readers about a file with an unexpected format."""
_NETWORK = re.compile(
    r"Name or service not known|Temporary failure in name resolution|Network is unreachable|Connection refused|"
    r"Connection timed out|Max retries exceeded|getaddrinfo failed|No route to host|ProxyError|NameResolutionError|"
    r"<urlopen error (?!unknown url type)|unable to resolve host|ConnectTimeout|Read timed out|RemoteDisconnected",
    re.IGNORECASE,
)
_WGET = _row(
    (r"\bwget\b", r"returned non-zero exit status 4\b"),  # network failure
    Cause.NETWORK,
    "the network is unreachable: declare the file as a dataset in the plan, or allow egress to that host",
)
_MODULE = re.compile(r"No module named ['\"]?([\w.]{1,200})")
_FILE = re.compile(
    r"No such file or directory[^'\"]{0,80}['\"]([^'\"]{1,1000})['\"]|"
    r"unable to open file: name = ['\"]([^'\"]{1,1000})['\"], errno = 2\b"  # h5py
)
_ERROR_LINE = re.compile(r"^[A-Za-z_][\w.]*+: .*+$", re.MULTILINE)
"""Lines of a traceback with an error; lines of source code begin with blanks, numbers or arrows."""
_EXTENSIONS = re.compile(r"^Extension modules:.*$", re.MULTILINE)
"""faulthandler's list of all loaded modules, unrelated to the crash."""
_MAX_CHARACTERS = 100_000
_NO_TRACEBACK = "the kernel sent no traceback: see the cell's outputs and the log"
_HOST_MEMORY = "give the container more memory (plan: requires.memory_gb), or load less at once"
_PLACED: dict[Place, dict[str, str]] = {
    "machine": {
        _HOST_MEMORY: "load less at once, stop other programs, or use a machine with more memory",
        _SHM_SIZE: "remove leftovers of other programs from it, or enlarge it (mount -o remount,size=8g /dev/shm)",
        _NO_DRIVER: "the NVIDIA driver of this machine is missing or does not load: see `nvidia-smi`",
        "no OOM kill was counted in this container, so check the node's log": "see `journalctl -k` for the cause",
        "of the image": "of the environment",
        "from the image": "from the environment",
        "the image's CUDA version": "the driver's CUDA version",
        "a node with a newer driver, or an image for": "a newer driver, or packages for",
        "or an image built for this one": "or packages built for this one",
    },
    "container": {
        _HOST_MEMORY: "give the container more memory (docker --memory), or load less at once",
        _SHM_SIZE: "give the container at least 1 GiB (docker --shm-size=1g)",
        _NO_DRIVER: "the NVIDIA driver is not in the container: start it with GPUs (docker --gpus all)",
    },
    "cluster": {
        _HOST_MEMORY: "give the Pod more memory (plan: requires.memory_gb), or load less at once",
        _SHM_SIZE: "give the Pod at least 1 GiB (an emptyDir with medium Memory, mounted there)",
        _NO_DRIVER: "the NVIDIA driver is not in the Pod: set a limit on nvidia.com/gpu, on a node that has the driver",
    },
}
"""Replacements in hints, by the place of the run."""


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """Return cause and hint of a failure, None for other ends."""
    evidence = replace(
        evidence,
        message=bounded(evidence.message),
        traceback=bounded(evidence.traceback),
        crash_output=bounded(evidence.crash_output),
    )
    if evidence.status not in {Status.KERNEL_DIED, Status.FAILED}:
        return None
    found = _death(evidence) if evidence.status is Status.KERNEL_DIED else _raised(evidence)
    hint = found.hint
    for general, specific in _PLACED[evidence.place].items() if evidence.place else ():
        hint = hint.replace(general, specific)
    return replace(found, hint=hint)


def bounded(text: str, characters: int = _MAX_CHARACTERS) -> str:
    """Return a text, or its head and tail if it is too long."""
    if len(text) <= characters:
        return text
    return f"{text[: characters // 2]}\n{text[-characters // 2 :]}"


def lacks_cuda(ucx_tls: str | None) -> bool:
    """Return True if this value of ``UCX_TLS`` lists transports of which none carries GPU arrays.

    >>> lacks_cuda("tcp"), lacks_cuda("tcp,cuda_copy"), lacks_cuda("all"), lacks_cuda("^ib"), lacks_cuda(None)
    (True, False, False, False, False)
    """
    names = [name.strip().lower() for name in (ucx_tls or "").split(",") if name.strip()]
    return bool(names) and not names[0].startswith("^") and not any(n == "all" or n.startswith("cuda") for n in names)


def _ucx_hint(evidence: Evidence, diagnosis: Diagnosis) -> Diagnosis:
    """Replace the hint if the kernel's ``UCX_TLS`` is the known problem."""
    if diagnosis.cause is Cause.UCX and lacks_cuda(evidence.ucx_tls):
        hint = f"UCX_TLS={(evidence.ucx_tls or '')[:80]} has no cuda_copy, so GPU arrays cannot be sent: {_UCX}"
        return replace(diagnosis, hint=hint)
    return diagnosis


def _death(evidence: Evidence) -> Diagnosis:
    if evidence.guard_acted:
        return Diagnosis(Cause.HOST_MEMORY, f"the memory guard acted before the host's OOM killer did: {_HOST_MEMORY}")
    if evidence.oom_kills and evidence.signal in {None, "SIGKILL"}:
        return Diagnosis(Cause.HOST_MEMORY, f"the host's OOM killer acted: {_HOST_MEMORY}")
    text = _EXTENSIONS.sub("", f"{evidence.crash_output}\n{evidence.traceback}")
    if evidence.signal in {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"}:
        return _crash(evidence, text)
    if evidence.signal == "SIGKILL":
        return Diagnosis(
            Cause.KILLED,
            "the kernel was killed (SIGKILL); no OOM kill was counted in this container, so check the node's log",
        )
    module = _MODULE.search(text)
    if module:
        return _missing_module(module[1])
    return Diagnosis(Cause.KILLED, "the log has the kernel's last lines")


def _crash(evidence: Evidence, text: str) -> Diagnosis:
    known = _first((*_CRASH, *_RAISED), text)
    if known:
        return _ucx_hint(evidence, known)
    if "std::bad_alloc" in text:
        return Diagnosis(Cause.HOST_MEMORY, f"native code could not allocate memory: {_HOST_MEMORY}")
    if evidence.signal == "SIGBUS":
        return Diagnosis(Cause.SHM, f"the usual cause of a bus error is a full /dev/shm: {_SHM_SIZE}")
    if evidence.signal == "SIGSEGV":
        return Diagnosis(
            Cause.SEGFAULT,
            "native code crashed: the frames are in the log; check that driver, CUDA and packages are compatible",
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
    found = _first(_RAISED, text) or _missing_library(text) or _input(evidence, text)
    if found:
        return _ucx_hint(evidence, found)
    chained = "\n".join(_ERROR_LINE.findall(evidence.traceback))
    found = _first(_WRAPPED, chained) or _missing_library(chained)
    if found:
        return found
    if evidence.oom_kills:
        return Diagnosis(Cause.HOST_MEMORY, f"the host's OOM killer ended a process of this run: {_HOST_MEMORY}")
    where = "see the last lines of the traceback" if evidence.traceback else _NO_TRACEBACK
    return Diagnosis(Cause.EXCEPTION, where)


def _input(evidence: Evidence, text: str) -> Diagnosis | None:
    """Return the diagnosis of a problem with the host's memory, network or files."""
    if evidence.error_name in {"MemoryError", "_ArrayMemoryError"}:
        return Diagnosis(Cause.HOST_MEMORY, f"Python could not allocate memory: {_HOST_MEMORY}")
    if _NETWORK.search(text) or _WGET.matches(text):
        return Diagnosis(Cause.NETWORK, _WGET.hint)
    if evidence.lfs_pointers:
        names = ", ".join(evidence.lfs_pointers[:5])
        return Diagnosis(
            Cause.LFS_POINTER,
            f"{names} is a git-lfs pointer instead of data: install git-lfs and run `git lfs pull` in the checkout, "
            "or clone again with git-lfs installed",
        )
    if evidence.error_name == "FileNotFoundError" or _FILE.search(text):
        found = _FILE.search(text)
        name = f" {(found[1] or found[2])!r}" if found else ""
        return Diagnosis(
            Cause.MISSING_FILE,
            f"the input{name} is missing: check the working directory (plan: cwd) and which notebook writes it "
            "(plan: needs)",
        )
    return None


def is_unreadable(message: str) -> bool:
    """Return True if a reader reports a file with an unexpected format."""
    return _UNREADABLE.search(bounded(message)) is not None


def _first(signatures: Iterable[_Signature], text: str) -> Diagnosis | None:
    return next((Diagnosis(each.cause, each.hint) for each in signatures if each.matches(text)), None)


def _missing_library(text: str) -> Diagnosis | None:
    """Return the diagnosis for a native library that could not be loaded."""
    for line in text.splitlines():
        if _NOT_LOADED.search(line):
            found = _LIBRARY.search(line)
            if found:
                return Diagnosis(
                    Cause.MISSING_LIBRARY,
                    f"the native library {found['lib'] or found['other']} is missing from the image or has another "
                    "version than the package was built for: install the package for the image's CUDA version; "
                    "`runner validate` loads the GPU packages without a notebook",
                )
    return None


def _missing_module(name: str) -> Diagnosis:
    return Diagnosis(
        Cause.MISSING_MODULE,
        f"the Python module {name!r} is missing from the image: build it in, nothing is installed at run time",
    )
