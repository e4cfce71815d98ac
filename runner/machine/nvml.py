# SPDX-License-Identifier: Apache-2.0
"""The NVIDIA driver's answers, with each way to get none told apart.

NVML fails in four kinds. The driver cannot be talked to at all, or is lost while in use: a
`DriverProblem`, which names what to do. One question has no answer on this device, now or ever:
`Unavailable`, which becomes a null with its reason. Everything else in the package asks through
`ask`, so that the mapping stands here alone.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

from runner.core.errors import RefusedError

Kind = Literal["no-library", "no-driver", "version-mismatch", "unknown-error", "driver-lost", "no-device"]

_ADVICE: dict[Kind, tuple[str, str]] = {
    "no-library": (
        "the NVIDIA management library libnvidia-ml.so.1 is not here",
        (
            "start the container with GPUs (docker run --gpus all, or a nvidia.com/gpu limit on Kubernetes) "
            "on a machine with the NVIDIA driver"
        ),
    ),
    "no-driver": (
        "the NVIDIA driver is not loaded",
        "load it on the host (nvidia-smi there must work), or move to a node with a GPU",
    ),
    "version-mismatch": (
        "the NVIDIA driver's library and its kernel module have different versions",
        (
            "the driver was updated under a running system: reboot the host, or reload the kernel module, "
            "then restart the container"
        ),
    ),
    "unknown-error": (
        "the NVIDIA driver cannot be initialised",
        (
            "a container loses its GPUs when the host reloads systemd: recreate the container; "
            "if nvidia-smi fails on the host as well, look at its kernel log (dmesg)"
        ),
    ),
    "driver-lost": (
        "the connection to a GPU was lost",
        "look for Xid messages in the host's kernel log; the GPU needs a reset or the host a reboot",
    ),
    "no-device": (
        "the NVIDIA driver is there but shows no GPU",
        "give the container a GPU (docker run --gpus all, or a nvidia.com/gpu limit on Kubernetes)",
    ),
}

# The codes of nvml.h; the classes of `pynvml` exist only once it is imported.
_UNINITIALIZED, _INVALID_ARGUMENT, _NOT_SUPPORTED, _NO_PERMISSION, _NOT_FOUND = 1, 2, 3, 4, 6
_DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND, _FUNCTION_NOT_FOUND = 9, 12, 13
_GPU_IS_LOST, _RESET_REQUIRED, _VERSION_MISMATCH = 15, 16, 18

_AT_START: dict[int, Kind] = {
    _LIBRARY_NOT_FOUND: "no-library",
    _DRIVER_NOT_LOADED: "no-driver",
    _VERSION_MISMATCH: "version-mismatch",
    _GPU_IS_LOST: "driver-lost",
    _RESET_REQUIRED: "driver-lost",
}
_LOST = {_UNINITIALIZED, _DRIVER_NOT_LOADED, _GPU_IS_LOST, _RESET_REQUIRED, _VERSION_MISMATCH}
_NEVER = {
    _INVALID_ARGUMENT: "not valid for this kind of device",
    _NOT_SUPPORTED: "not supported by this device",
    _NO_PERMISSION: "no permission to ask",
    _FUNCTION_NOT_FOUND: "this driver is too old to have it",
}


class DriverProblem(RefusedError):  # noqa: N818  (it is what the user reads, not a programming error)
    """The driver cannot be used: ``kind`` tells how, ``hint`` what to do."""

    def __init__(self, kind: Kind, detail: str = "") -> None:
        message, hint = _ADVICE[kind]
        super().__init__(f"{message}: {detail}" if detail else message, hint=hint)
        self.kind = kind


class Unavailable(Exception):  # noqa: N818  (an answer, not an error)
    """One question has no answer; ``code`` is NVML's, None where the binding itself failed."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code

    @property
    def lasting(self) -> bool:
        """Whether asking again makes no sense."""
        return self.code in _NEVER

    @property
    def unsupported(self) -> bool:
        """Whether the device has no such thing, as a GPU without memory of its own."""
        return self.code == _NOT_SUPPORTED


def initialise() -> ModuleType:
    """Load NVML and return the `pynvml` module, ready to be asked.

    Raises
    ------
    DriverProblem
        No library, no driver, versions that do not match, or whatever else NVML says.
    """
    try:
        import pynvml
    except ImportError as error:
        raise DriverProblem("no-library", f"the Python package nvidia-ml-py is missing ({error})") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        kind = _AT_START.get(error.value, "unknown-error")
        raise DriverProblem(kind, f"NVML says {_text(error)!r}") from error
    except Exception as error:  # a library of another vendor or machine under this name
        raise DriverProblem("unknown-error", f"{type(error).__name__}: {_text(error)}") from error
    module: ModuleType = pynvml
    return module


def ask(nvml: ModuleType, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer of one NVML function.

    Raises
    ------
    Unavailable
        This device, driver or container does not answer it; any exception of the binding counts.
    DriverProblem
        The GPU or the driver is gone.
    """
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        if error.value in _LOST:
            raise DriverProblem("driver-lost", f"NVML says {_text(error)!r}") from error
        never = _NEVER.get(error.value)
        reason = f"NVML says {_text(error)!r}"
        raise Unavailable(f"{never} ({reason})" if never else reason, error.value) from error
    except Exception as error:  # the binding itself trips, for example over a name that is no UTF-8
        raise Unavailable(f"{type(error).__name__}: {_text(error)}") from error


def _text(error: Exception) -> str:
    try:
        return " ".join(str(error).split())
    except Exception:  # noqa: BLE001  (pynvml asks the library for the text, which may fail as well)
        return f"code {getattr(error, 'value', '?')}"
