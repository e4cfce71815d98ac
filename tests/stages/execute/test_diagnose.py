# SPDX-License-Identifier: Apache-2.0
"""Known signatures of failure name their cause; words that merely look alike do not."""

from __future__ import annotations

from typing import Any

import pytest

from runner.core.records import Cause, Status
from runner.stages.execute.diagnose import Evidence, diagnose

CUPY = (
    "Out of memory allocating 8,589,934,592 bytes (allocated so far: 38,654,705,664 bytes, limit set to: 42,949,672,960"
)
RMM = (
    "std::bad_alloc: out_of_memory: CUDA error (failed to allocate 8589934592 bytes) at: "
    "/__w/rmm/cpp/include/rmm/mr/device/cuda_memory_resource.hpp:62: cudaErrorMemoryAllocation out of memory"
)
RMM_POOL = (
    "std::bad_alloc: out_of_memory: RMM failure at:/__w/rmm/mr/device/pool_memory_resource.hpp:257: "
    "Maximum pool size exceeded (failed to allocate 16.000000 GiB)"
)
TORCH = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.65 GiB of which 1.2 GiB is free."
)
H5PY = (
    "[Errno 2] Unable to synchronously open file (unable to open file: name = 'h5/dli_census.h5ad', errno = 2, "
    "error message = 'No such file or directory', flags = 0, o_flags = 0)"
)
H5PY_LOCKED = (
    "[Errno 11] Unable to synchronously open file (unable to lock file, errno = 11, "
    "error message = 'Resource temporarily unavailable')"
)
REQUESTS = (
    "HTTPSConnectionPool(host='datasets.example.org', port=443): Max retries exceeded with url: /census.h5ad (Caused by "
    "NameResolutionError(\"<urllib3.connection.HTTPSConnection object at 0x7f>: Failed to resolve 'datasets.example.org' "
    '([Errno -3] Temporary failure in name resolution)"))'
)

RAISED = {
    "cupy": ("OutOfMemoryError", CUPY, Cause.DEVICE_MEMORY, "larger GPU"),
    "cupy through its runtime": (
        "CUDARuntimeError",
        "cudaErrorMemoryAllocation: out of memory",
        Cause.DEVICE_MEMORY,
        "",
    ),
    "rmm": ("MemoryError", RMM, Cause.DEVICE_MEMORY, "managed_memory"),
    "rmm with a full pool": ("MemoryError", RMM_POOL, Cause.DEVICE_MEMORY, "pool"),
    "numba": (
        "CudaAPIError",
        "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY",
        Cause.DEVICE_MEMORY,
        "",
    ),
    "torch": ("OutOfMemoryError", TORCH, Cause.DEVICE_MEMORY, ""),
    "old torch": ("RuntimeError", "CUDA error: out of memory", Cause.DEVICE_MEMORY, ""),
    "cublas": ("CUBLASError", "CUBLAS_STATUS_ALLOC_FAILED", Cause.DEVICE_MEMORY, ""),
    "cusolver": ("CUSOLVERError", "CUSOLVER_STATUS_ALLOC_FAILED", Cause.DEVICE_MEMORY, ""),
    "python": ("MemoryError", "", Cause.HOST_MEMORY, "container"),
    "numpy": (
        "_ArrayMemoryError",
        "Unable to allocate 74.5 GiB for an array with shape (100000, 100000) and data type float64",
        Cause.HOST_MEMORY,
        "",
    ),
    "C++ on the host": ("MemoryError", "std::bad_alloc", Cause.HOST_MEMORY, ""),
    "module": (
        "ModuleNotFoundError",
        "No module named 'rapids_singlecell'",
        Cause.MISSING_MODULE,
        "'rapids_singlecell'",
    ),
    "module of a module": ("ImportError", "No module named 'cuml.accel'", Cause.MISSING_MODULE, "'cuml.accel'"),
    "file": (
        "FileNotFoundError",
        "[Errno 2] No such file or directory: 'h5/a.h5ad'",
        Cause.MISSING_FILE,
        "'h5/a.h5ad'",
    ),
    "h5py": ("FileNotFoundError", H5PY, Cause.MISSING_FILE, "'h5/dli_census.h5ad'"),
    "old h5py": ("OSError", H5PY.removeprefix("[Errno 2] "), Cause.MISSING_FILE, "'h5/dli_census.h5ad'"),
    "scanpy": ("FileNotFoundError", "Did not find file h5/a.h5ad.", Cause.MISSING_FILE, "plan: needs"),
    "disk": ("OSError", "[Errno 28] No space left on device: 'h5/out.h5ad'", Cause.DISK_FULL, "disk_gb"),
    "disk, written by h5py": (
        "OSError",
        "[Errno 28] Can't synchronously write data (file write failed: errno = 28, error message = 'No space left on device')",
        Cause.DISK_FULL,
        "",
    ),
    "quota": ("OSError", "[Errno 122] Disk quota exceeded: 'out'", Cause.DISK_FULL, ""),
    "shm": ("OSError", "[Errno 28] No space left on device: '/dev/shm/nccl-q1W2e3'", Cause.SHM, "--shm-size"),
    "shm, said by NCCL": (
        "RuntimeError",
        "Error while creating shared memory segment /dev/shm/nccl-abc (size 9637888), error: No space left on device (28)",
        Cause.SHM,
        "",
    ),
    "shm, said by torch": (
        "RuntimeError",
        "unable to allocate shared memory(shm) for file </torch_3203_15>: No space left on device (28)",
        Cause.SHM,
        "",
    ),
    "ucx": ("UCXError", "Input/output error", Cause.UCX, "UCX_TLS=tcp,cuda_copy,cuda_ipc"),
    "ucxx": ("RuntimeError", "ucxx: Endpoint timed out", Cause.UCX, ""),
    "an old driver, said by cupy": (
        "CUDARuntimeError",
        "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
        Cause.DRIVER,
        "newer driver",
    ),
    "an old driver, said by torch": (
        "RuntimeError",
        "The NVIDIA driver on your system is too old (found version 11040).",
        Cause.DRIVER,
        "newer driver",
    ),
    "PTX of a newer CUDA": (
        "LinkerError",
        "[222] Call to cuLinkAddData results in CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        Cause.DRIVER,
        "newer driver",
    ),
    "a GPU that the package was not built for": (
        "RuntimeError",
        "FAIL: call='cudaGetLastError()'. Reason:no kernel image is available for execution on the device",
        Cause.DRIVER,
        "architecture",
    ),
    "no driver in the container": (
        "ImportError",
        "libcuda.so.1: cannot open shared object file: No such file or directory",
        Cause.DRIVER,
        "--gpus all",
    ),
    "no driver, said by numba": (
        "CudaSupportError",
        "Error at driver init: \nCUDA driver library cannot be found.\nIf you are sure that a CUDA driver is installed,",
        Cause.DRIVER,
        "--gpus all",
    ),
    "a GPU in exclusive mode": (
        "RuntimeError",
        "CUDA error: all CUDA-capable devices are busy or unavailable",
        Cause.GPU_BUSY,
        "nvidia-smi -q -d COMPUTE",
    ),
    "a GPU in exclusive mode, said by cupy": (
        "CUDARuntimeError",
        "cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable",
        Cause.GPU_BUSY,
        "--wait",
    ),
    "no device": (
        "CUDARuntimeError",
        "cudaErrorNoDevice: no CUDA-capable device is detected",
        Cause.NO_DEVICE,
        "--min-gpus 1",
    ),
    "no device, said by torch": ("RuntimeError", "No CUDA GPUs are available", Cause.NO_DEVICE, "requires.gpus"),
    "a second device that is not there": (
        "CUDARuntimeError",
        "cudaErrorInvalidDevice: invalid device ordinal",
        Cause.NO_DEVICE,
        "fewer than the cell uses",
    ),
    "nvrtc": (
        "RuntimeError",
        "CuPy failed to load libnvrtc.so.13: OSError: libnvrtc.so.13: cannot open shared object file: "
        "No such file or directory",
        Cause.MISSING_LIBRARY,
        "libnvrtc.so.13",
    ),
    "cudart": (
        "ImportError",
        "libcudart.so.12: cannot open shared object file: No such file or directory",
        Cause.MISSING_LIBRARY,
        "libcudart.so.12",
    ),
    "a library of another version": (
        "ImportError",
        "/opt/conda/lib/python3.12/site-packages/cuml/internals.cpython-312.so: undefined symbol: _ZN3rmm2mr6detail",
        Cause.MISSING_LIBRARY,
        "internals.cpython-312.so",
    ),
    "an old C++ library": (
        "ImportError",
        "/lib/x86_64-linux-gnu/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by cudf.so)",
        Cause.MISSING_LIBRARY,
        "libstdc++.so.6",
    ),
    "nvvm": (
        "NvvmSupportError",
        "libNVVM cannot be found. Do `conda install cudatoolkit`:\nlibrary nvvm not found: "
        "libnvvm.so: cannot open shared object file: No such file or directory",
        Cause.MISSING_LIBRARY,
        "libnvvm.so",
    ),
    "urllib": ("URLError", "<urlopen error [Errno -2] Name or service not known>", Cause.NETWORK, "dataset"),
    "urllib, refused": ("URLError", "<urlopen error [Errno 111] Connection refused>", Cause.NETWORK, "egress"),
    "requests": ("ConnectionError", REQUESTS, Cause.NETWORK, ""),
    "requests, slow": (
        "ReadTimeout",
        "HTTPSConnectionPool(host='datasets.example.org', port=443): Read timed out. (read timeout=5)",
        Cause.NETWORK,
        "",
    ),
    "requests, cut": (
        "ConnectionError",
        "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
        Cause.NETWORK,
        "",
    ),
    "socket": ("gaierror", "[Errno -3] Temporary failure in name resolution", Cause.NETWORK, ""),
    "wget, the program": (
        "CalledProcessError",
        "Command '['wget', '-q', 'https://datasets.example.org/a.h5ad']' returned non-zero exit status 4.",
        Cause.NETWORK,
        "",
    ),
    "proxy": ("ProxyError", "('Unable to connect to proxy', OSError('Tunnel connection failed'))", Cause.NETWORK, ""),
    # What only looks like one of the above.
    "pca": ("ValueError", "pca: n_components=50 must be between 1 and min(n_obs, n_vars)=30", Cause.EXCEPTION, ""),
    "a network of genes": ("ValueError", "the gene regulatory network has no edges", Cause.EXCEPTION, ""),
    "memory of a model": ("ValueError", "memory must be 'low' or 'high'", Cause.EXCEPTION, ""),
    "a key that does not exist": (
        "KeyError",
        "\"the column does not exist in obs, did you mean 'leiden'?\"",
        Cause.EXCEPTION,
        "",
    ),
    "a locked file": ("BlockingIOError", H5PY_LOCKED, Cause.EXCEPTION, ""),
    "a broken file": ("OSError", "Unable to synchronously open file (file signature not found)", Cause.EXCEPTION, ""),
    "a name that cannot be imported": (
        "ImportError",
        "cannot import name 'Index' from 'pandas' (/opt/conda/lib/python3.12/site-packages/pandas/__init__.py)",
        Cause.EXCEPTION,
        "",
    ),
    "a URL that is none": ("URLError", "<urlopen error unknown url type: htps>", Cause.EXCEPTION, ""),
    "wget, the page is missing": (
        "CalledProcessError",
        "Command '['wget', 'https://datasets.example.org/a.h5ad']' returned non-zero exit status 8.",
        Cause.EXCEPTION,
        "",
    ),
    "a busy server": ("RuntimeError", "the server is busy, try again", Cause.EXCEPTION, ""),
    "a library of books": ("KeyError", "'the library was not found in obs'", Cause.EXCEPTION, ""),
    "a device of a scanner": ("ValueError", "no device named 'scanner' in the table", Cause.EXCEPTION, ""),
    "28 of something": ("ValueError", "errno 281 is no row of the table", Cause.EXCEPTION, ""),
    "shared memory of a GPU kernel": (
        "OutOfResources",
        "out of resource: shared memory, Required: 131072, Hardware limit: 101376",
        Cause.EXCEPTION,
        "",
    ),
}


@pytest.mark.parametrize("name", RAISED)
def test_what_a_cell_raised_has_its_cause(name: str) -> None:
    """Error name and message give the cause, and the hint says what to do."""
    error_name, message, cause, hint = RAISED[name]

    found = diagnose(Evidence(status=Status.FAILED, error_name=error_name, message=message))

    assert found is not None
    assert found.cause is cause
    assert hint in found.hint
    assert found.hint


TRACEBACK = """\
---------------------------------------------------------------------------
{first}                              Traceback (most recent call last)
Cell In[7], line 4
      2     adata = load()
      3     # CUDA out of memory was what happened here last week: OutOfMemoryError
----> 4     run(adata)  # except cupy.cuda.memory.OutOfMemoryError: pass

File cupy/cuda/memory.pyx:1255, in cupy.cuda.memory.SingleDeviceMemoryPool._try_malloc()

{first}: {message}

The above exception was the direct cause of the following exception:

RuntimeError                              Traceback (most recent call last)
RuntimeError: the step failed
"""


def test_the_error_behind_the_error_counts() -> None:
    """A library wraps cupy's error: the traceback still has its line."""
    traceback = TRACEBACK.format(first="OutOfMemoryError", message=CUPY)

    found = diagnose(
        Evidence(status=Status.FAILED, error_name="RuntimeError", message="the step failed", traceback=traceback)
    )

    assert found is not None
    assert found.cause is Cause.DEVICE_MEMORY


@pytest.mark.parametrize(
    ("tls", "says"), [("tcp", "UCX_TLS=tcp has no cuda_copy"), ("tcp,cuda_copy", "set UCX_TLS"), (None, "set UCX_TLS")]
)
def test_transports_without_gpu_memory_are_named(tls: str | None, says: str) -> None:
    """Where the kernel's own UCX_TLS cannot send GPU arrays, that is what the hint says first."""
    found = diagnose(Evidence(status=Status.FAILED, error_name="UCXError", message="Input/output error", ucx_tls=tls))

    assert found is not None
    assert found.hint.startswith(says)
    assert "UCX_TLS=tcp,cuda_copy,cuda_ipc" in found.hint


def test_a_pointer_beside_an_error_of_its_reader_is_the_cause() -> None:
    """The reader speaks of a signature; the file that it read says more."""
    message = "Unable to synchronously open file (file signature not found)"

    found = diagnose(Evidence(status=Status.FAILED, error_name="OSError", message=message, lfs_pointers=("pbmc.h5ad",)))

    assert found is not None
    assert found.cause is Cause.LFS_POINTER
    assert "pbmc.h5ad is a git-lfs pointer" in found.hint
    assert "git lfs pull" in found.hint


def test_source_code_in_a_traceback_is_no_evidence() -> None:
    """A comment about memory, or a handler for it, beside the failing line says nothing."""
    traceback = TRACEBACK.format(first="ValueError", message="no such gene")

    found = diagnose(
        Evidence(status=Status.FAILED, error_name="RuntimeError", message="the step failed", traceback=traceback)
    )

    assert found is not None
    assert found.cause is Cause.EXCEPTION


def test_a_worker_that_the_host_killed_is_told_from_a_worker_that_failed() -> None:
    """A pool breaks because its process was killed: only the count of OOM kills says by whom."""
    message = "A process in the process pool was terminated abruptly while the future was running or pending."
    evidence = {"status": Status.FAILED, "error_name": "BrokenProcessPool", "message": message}

    alone, counted = diagnose(Evidence(**evidence)), diagnose(Evidence(**evidence, oom_kills=1))

    assert (alone.cause, counted.cause) == (Cause.EXCEPTION, Cause.HOST_MEMORY)


NUMBA = """\
Fatal Python error: Segmentation fault

Thread 0x00007f2c8bfff640 (most recent call first):
  File "/opt/conda/lib/python3.12/threading.py", line 359 in wait

Current thread 0x00007f2d1e4b5740 (most recent call first):
  File "/opt/conda/lib/python3.12/site-packages/numba/cuda/cudadrv/driver.py", line 326 in safe_cuda_api_call
  File "/opt/conda/lib/python3.12/site-packages/numba/cuda/cudadrv/driver.py", line 1410 in get_context
"""
PLAIN = """\
Fatal Python error: Segmentation fault

Current thread 0x00007f2d1e4b5740 (most recent call first):
  File "/opt/conda/lib/python3.12/ctypes/__init__.py", line 519 in string_at

"""
EXTENSIONS = (
    "Extension modules: zmq.backend.cython._zmq, numpy._core._multiarray_umath, numba.cuda.cudadrv._extras, "
    "ucxx._lib.libucxx, ucp._libs.ucx_api (total: 5)\n"
)
UCX_WARNING = (
    "[1763629200.123456] [node-1:4711 :0]  parser.c:2036 UCX  WARN  unused environment variable: UCX_MEMTYPE_CACHE\n"
)
UCX_CRASH = """\
[node-1:4711 :0:4711] Caught signal 11 (Segmentation fault: address not mapped to object at address 0x8)
==== backtrace (tid:   4711) ====
 0  /opt/conda/lib/libucs.so.0(ucs_handle_error+0x2fd) [0x7f2c91]
 1  /opt/conda/lib/libucp.so.0(ucp_mem_map+0x1a) [0x7f2c92]
"""
RMM_ABORT = f"terminate called after throwing an instance of 'rmm::out_of_memory'\n  what():  {RMM}\n"
HOST_ABORT = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"

DEATHS = {
    "numba's crash": ({"signal": "SIGSEGV", "crash_output": NUMBA}, Cause.SEGFAULT, "NUMBA_CUDA_USE_NVIDIA_BINDING=1"),
    "its symbol in a backtrace": (
        {"signal": "SIGSEGV", "crash_output": " 3 libcuda.so.1(cuCtxGetDevice_v2+0x30)"},
        Cause.SEGFAULT,
        "numba 0.63",
    ),
    "a plain crash": ({"signal": "SIGSEGV", "crash_output": PLAIN}, Cause.SEGFAULT, "native code crashed"),
    "a plain crash with everything loaded": (
        {"signal": "SIGSEGV", "crash_output": PLAIN + EXTENSIONS},
        Cause.SEGFAULT,
        "native code crashed",
    ),
    "a plain crash after a warning of UCX": (
        {"signal": "SIGSEGV", "crash_output": PLAIN + UCX_WARNING},
        Cause.SEGFAULT,
        "native code crashed",
    ),
    "UCX": ({"signal": "SIGSEGV", "crash_output": UCX_CRASH}, Cause.UCX, "UCX_TLS=tcp,cuda_copy,cuda_ipc"),
    "a bus error": ({"signal": "SIGBUS", "crash_output": "Fatal Python error: Bus error\n"}, Cause.SHM, "/dev/shm"),
    "an abort by rmm": ({"signal": "SIGABRT", "crash_output": RMM_ABORT}, Cause.DEVICE_MEMORY, "managed_memory"),
    "an abort on the host": ({"signal": "SIGABRT", "crash_output": HOST_ABORT}, Cause.HOST_MEMORY, "container"),
    "an abort with a full device": ({"signal": "SIGABRT", "gpu_peak_fraction": 0.991}, Cause.DEVICE_MEMORY, "99% full"),
    "the host's OOM killer": ({"signal": "SIGKILL", "oom_kills": 1}, Cause.HOST_MEMORY, "the host's OOM killer acted"),
    "the memory guard": (
        {"signal": "SIGKILL", "guard_acted": True},
        Cause.HOST_MEMORY,
        "the memory guard acted before",
    ),
    "a crash beside an OOM kill": (
        {"signal": "SIGSEGV", "oom_kills": 1, "crash_output": PLAIN},
        Cause.SEGFAULT,
        "native code crashed",
    ),
    "somebody's SIGKILL": ({"signal": "SIGKILL"}, Cause.KILLED, "no OOM kill was counted"),
    "somebody's SIGKILL while a pool holds the device": (
        {"signal": "SIGKILL", "gpu_peak_fraction": 0.995},
        Cause.KILLED,
        "no OOM kill was counted",
    ),
    "a kernel without its packages": (
        {"crash_output": "/usr/bin/python3: No module named ipykernel_launcher\n"},
        Cause.MISSING_MODULE,
        "'ipykernel_launcher'",
    ),
    "nothing known": ({}, Cause.KILLED, "last lines"),
}


@pytest.mark.parametrize("name", DEATHS)
def test_a_death_has_its_cause(name: str) -> None:
    """Signal, counters and last words of a kernel give the cause, and the hint says what to do."""
    known, cause, hint = DEATHS[name]

    found = diagnose(Evidence(status=Status.KERNEL_DIED, **known))

    assert found is not None
    assert found.cause is cause
    assert hint in found.hint


@pytest.mark.parametrize(
    "status", [Status.SUCCEEDED, Status.SKIPPED, Status.REFUSED, Status.TERMINATED, Status.TIMED_OUT, Status.INCOMPLETE]
)
def test_an_end_that_explains_itself_needs_no_cause(status: Status) -> None:
    """A deadline or a refusal is its own explanation."""
    assert diagnose(Evidence(status=status, message=CUPY, error_name="OutOfMemoryError")) is None


@pytest.mark.parametrize(
    ("place", "says", "never"),
    [
        ("machine", ["stop other programs", "mount -o remount", "see `nvidia-smi`"], ["container", "Tekton", "image"]),
        ("container", ["docker --memory", "docker --shm-size", "docker --gpus"], ["Tekton", "Kubernetes", "plan:"]),
        ("cluster", ["requires.memory_gb", "emptyDir", "nvidia.com/gpu"], ["docker"]),
    ],
)
def test_a_hint_can_be_followed_where_it_is_read(place: Any, says: list[str], never: list[str]) -> None:
    """It speaks of docker, of Pods or of neither, as far as these are there."""
    errors = [
        ("MemoryError", "Unable to allocate 2 GiB"),
        ("OSError", "[Errno 28] No space left on device: '/dev/shm/x'"),
        ("RuntimeError", "Found no NVIDIA driver on your system"),
        ("RuntimeError", "no kernel image is available for execution on the device"),
        ("ImportError", "libcudart.so.12: cannot open shared object file"),
    ]
    given = [Evidence(status=Status.FAILED, error_name=n, message=m, place=place) for n, m in errors]
    hints = [found.hint for evidence in given if (found := diagnose(evidence))]
    assert len(hints) == len(errors)
    assert all(word in hint for word, hint in zip(says, hints, strict=False))
    assert not [word for word in never for hint in hints if word in hint]
