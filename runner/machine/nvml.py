# SPDX-License-Identifier: Apache-2.0
"""Calls to NVML, the NVIDIA driver's management library, with errors classified.

If the driver is unusable or lost, a call raises `DriverProblem` with a hint. If a single value is not
available on a device, it raises `Unavailable`, and the value becomes null with a reason. All other modules
call NVML through `ask`, so this mapping exists only here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

from runner.core.errors import RefusedError

Kind = Literal["no-library", "no-driver", "version-mismatch", "unknown-error", "driver-lost", "no-device"]

_ADVICE: dict[Kind, tuple[str, str]] = {
    "no-library": (
        "the NVIDIA management library libnvidia-ml.so.1 is missing",
        (
            "start the container with GPUs (docker run --gpus all, or a nvidia.com/gpu limit on Kubernetes) "
            "on a machine with the NVIDIA driver"
        ),
    ),
    "no-driver": (
        "the NVIDIA driver is not loaded",
        "load it on the host (nvidia-smi must work there), or use a node with a GPU",
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
            "if nvidia-smi fails on the host too, check its kernel log (dmesg)"
        ),
    ),
    "driver-lost": (
        "the connection to a GPU was lost",
        "check the host's kernel log for Xid messages; the GPU needs a reset or the host a reboot",
    ),
    "no-device": (
        "the NVIDIA driver is loaded but finds no GPU",
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
    _NO_PERMISSION: "no permission",
    _FUNCTION_NOT_FOUND: "not supported by this old driver",
}


class DriverProblem(RefusedError):  # noqa: N818  (a message for users, not a programming error)
    """The driver is unusable, see ``kind`` and ``hint``."""

    def __init__(self, kind: Kind, detail: str = "") -> None:
        message, hint = _ADVICE[kind]
        super().__init__(f"{message}: {detail}" if detail else message, hint=hint)
        self.kind = kind


class Unavailable(Exception):  # noqa: N818  (a result, not an error)
    """A value is not available; ``code`` is NVML's, None if the binding failed."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code

    @property
    def lasting(self) -> bool:
        """Whether a retry is pointless."""
        return self.code in _NEVER

    @property
    def unsupported(self) -> bool:
        """Whether the device lacks the feature, such as a GPU without its own memory."""
        return self.code == _NOT_SUPPORTED


def initialise() -> ModuleType:
    """Load NVML and return the initialised `pynvml` module.

    Raises
    ------
    DriverProblem
        The library or driver is missing, their versions do not match, or another error of NVML.
    """
    try:
        import pynvml
    except ImportError as error:
        raise DriverProblem("no-library", f"the Python package nvidia-ml-py is missing ({error})") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        kind = _AT_START.get(error.value, "unknown-error")
        raise DriverProblem(kind, f"NVML: {_text(error)!r}") from error
    except Exception as error:  # another library under this name
        raise DriverProblem("unknown-error", f"{type(error).__name__}: {_text(error)}") from error
    module: ModuleType = pynvml
    return module


def ask(nvml: ModuleType, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of an NVML function.

    Raises
    ------
    Unavailable
        Not available on this device, driver or container, or an exception of the binding.
    DriverProblem
        The GPU or the driver is lost.
    """
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        if error.value in _LOST:
            raise DriverProblem("driver-lost", f"NVML: {_text(error)!r}") from error
        never = _NEVER.get(error.value)
        reason = f"NVML: {_text(error)!r}"
        raise Unavailable(f"{never} ({reason})" if never else reason, error.value) from error
    except Exception as error:  # the binding fails, for example on a name that is not UTF-8
        raise Unavailable(f"{type(error).__name__}: {_text(error)}") from error


def _text(error: Exception) -> str:
    try:
        return " ".join(str(error).split())
    except Exception:  # noqa: BLE001  (pynvml gets the text from the library, which may fail too)
        return f"code {getattr(error, 'value', '?')}"
