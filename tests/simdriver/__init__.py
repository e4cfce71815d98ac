# SPDX-License-Identifier: Apache-2.0
"""The simulated driver from Python: build the library, write the file that says what it answers.

`nvml.c` beside this file is the library and documents the file. Numbers that change over time
are given as steps ``[(seconds, value), ...]`` from the moment of writing, or as one number.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("nvml.c")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
NO_COMPILER = "the simulated driver needs a C compiler (cc, gcc or clang), there is none on PATH"

Steps = float | Sequence[tuple[float, float]]
Errors = Mapping[str, str | tuple[str, float]]
"""Function or glob -> error, or (error, from that second on)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a whole GPU and a MIG slice have in common."""

    uuid: str
    name: str
    total_bytes: int
    reserved_bytes: int = 0
    used_bytes: Steps = 0
    processes: Sequence[tuple[int, int] | tuple[int, int, str]] = ()
    """(pid, bytes[, name]): held while the process lives; pid 0 is for ever and never listed."""
    foreign: Sequence[tuple[int, int] | tuple[int, int, str]] = ()
    """Likewise, by processes of another pid namespace: listed and held, though no such pid is here."""
    errors: Errors = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Slice(Part):
    """A MIG slice."""

    uuid: str = "MIG-5e11aa00-0000-4000-8000-000000000001"
    name: str = "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    total_bytes: int = 4_864 * 2**20


@dataclass(frozen=True, kw_only=True)
class Device(Part):
    """A GPU; by default an idle "80 GB" card."""

    uuid: str = "GPU-0a000000-0000-4000-8000-000000000001"
    name: str = "NVIDIA H100 80GB HBM3"
    total_bytes: int = 81_559 * 2**20
    reserved_bytes: int = 600 * 2**20
    pci: str = "0:3b:0"
    compute_mode: int = 0
    """0 default, 1 exclusive thread, 2 prohibited, 3 exclusive process."""
    capability: int = 90
    utilization_percent: Steps = 0
    power_watts: Steps = 60
    temperature_celsius: Steps = 35
    activity: Mapping[int, float] = field(default_factory=dict)
    """What GPM says, by the numbers in nvml.h; without any this GPU has no GPM."""
    slices: Sequence[Slice] | None = None
    """Not None: MIG mode is on."""
    health: Mapping[str, float] = field(default_factory=dict)
    """The names in `nvml.c`: ecc, uncorrected, retired, remapped, pending, failed, throttle, persistence, slowdown."""


def build(folder: Path, without: Sequence[str] = ()) -> Path:
    """Compile the library once into ``folder`` and return the folder for LD_LIBRARY_PATH.

    Parameters
    ----------
    folder
        A cache; one subfolder for each set of left out functions.
    without
        Functions that this driver is too old to have: they are absent from the symbol table.
    """
    assert COMPILER, NO_COMPILER
    target = folder / re.sub(r"\W+", "-", "nvml " + " ".join(sorted(without))).strip("-")
    library = target / "libnvidia-ml.so.1"
    if not library.exists():
        target.mkdir(parents=True, exist_ok=True)
        script = target / "symbols"
        script.write_text("{ global: nvml*; local: " + "".join(f"{name}; " for name in without) + "*; };\n")
        part = target / f"{os.getpid()}.part"
        command = [COMPILER, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        linking = [f"-Wl,--version-script={script}", "-Wl,-soname,libnvidia-ml.so.1", "-pthread"]
        subprocess.run([*command, *linking, "-o", str(part), str(SOURCE)], check=True)
        part.rename(library)
    return target


class SimulatedDriver:
    """A driver whose answers a test writes.

    Parameters
    ----------
    folder
        Where the file of answers and the locks of this test lie.
    cache
        Where built libraries are kept for the session.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.path = folder / "nvml.txt"
        self.calls_path = folder / "nvml-calls.txt"
        self._cache = cache
        self.env: dict[str, str] = {}
        self.write()

    def write(  # the keywords are the lines of the file
        self,
        *devices: Device,
        driver: str = "570.86.15",
        cuda: int = 12080,
        errors: Errors | None = None,
        without: Sequence[str] = (),
        hide_processes: bool = False,
        seconds_ago: float = 0.0,
    ) -> None:
        """Set what the driver answers from now on; running processes see it at their next call.

        ``without`` takes effect for processes that start later. Second 0 of all steps was
        ``seconds_ago``.
        """
        lines = [f"driver {driver}", f"cuda {cuda}", f"start {time.time() - seconds_ago:.6f}"]
        lines += ["hide-processes"] if hide_processes else []
        lines += _error_lines(errors or {})
        for device in devices:
            lines += _device_lines(device)
        part = self.path.with_suffix(".part")
        part.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
        part.replace(self.path)
        library = build(self._cache, without)
        self.env = {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(library), os.environ.get("LD_LIBRARY_PATH")])),
            "SIMULATED_NVML": str(self.path),
            "RUNNER_LOCK_DIR": str(self.folder / "locks"),
        }

    def environ(self, **extra: str) -> dict[str, str]:
        """Return a whole environment for a subprocess that sees this driver."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "NVIDIA_"))}
        return {**kept, **self.env, **extra}

    def hold(self, uuid: str, size: int, *, pid: int = 0) -> None:
        """Let a process hold memory while it lives; pid 0 holds it until told otherwise."""
        with self.path.with_name(self.path.name + ".allocations").open("a") as stream:
            stream.write(f"{uuid} {pid} {size}\n")

    def python(self, source: str, *arguments: Any, **extra: str) -> Any:
        """Run Python that sees this driver and return what it prints, read as JSON.

        ``arguments`` arrive as the JSON list ``ARGUMENTS``; ``calls`` lists what was asked.
        """
        prelude = "import json, os, sys\nARGUMENTS = json.loads(sys.argv[1])\n"
        environ = self.environ(SIMULATED_NVML_CALLS=str(self.calls_path), PYTHONPATH=str(ROOT)) | extra
        done = subprocess.run(
            [sys.executable, "-c", prelude + textwrap.dedent(source), json.dumps(arguments)],
            env=environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def calls(self) -> list[str]:
        """Return the functions that `python` asked for so far, in order."""
        return self.calls_path.read_text().split() if self.calls_path.exists() else []


HOLD_CELL = """\
import os
with open(os.environ["SIMULATED_NVML"] + ".allocations", "a") as stream:
    stream.write(f"{uuid} {pid} {size}\\n")
"""


def hold_source(uuid: str, size: int, *, pid: str = "os.getpid()") -> str:
    """Return Python that makes the process which runs it hold device memory, for a notebook cell.

    ``pid="0"`` leaves the memory held after that process has ended: a leak.
    """
    return f"uuid, size = {uuid!r}, {size}\n" + HOLD_CELL.replace("{pid}", f"{{{pid}}}")


def _device_lines(device: Device) -> list[str]:
    lines = [f"device {device.uuid}", *_part_lines(device), "pci " + " ".join(device.pci.split(":"))]
    lines.append(f"compute-mode {device.compute_mode}")
    lines.append(f"capability {device.capability}")
    lines += _step_lines("utilization", device.utilization_percent)
    lines += _step_lines("power", device.power_watts, 1000)
    lines += _step_lines("temperature", device.temperature_celsius)
    lines += [f"activity {metric} {value:g}" for metric, value in device.activity.items()]
    lines += [f"health {name} {value:g}" for name, value in device.health.items()]
    lines += _error_lines(device.errors)
    if device.slices is not None:
        lines.append("mig")
        for part in device.slices:
            lines += [f"slice {part.uuid}", *_part_lines(part), *_error_lines(part.errors)]
    return lines


def _part_lines(part: Part) -> list[str]:
    return [
        f"name {part.name}",
        f"total {part.total_bytes}",
        f"reserved {part.reserved_bytes}",
        *_step_lines("used", part.used_bytes),
        *(f"process {' '.join(map(str, process))}" for process in part.processes),
        *(f"foreign {' '.join(map(str, process))}" for process in part.foreign),
    ]


def _step_lines(key: str, steps: Steps, scale: int = 1) -> list[str]:
    pairs = [(0, steps)] if isinstance(steps, int | float) else steps
    return [f"{key} {seconds} {value * scale:.0f}" for seconds, value in pairs]


def _error_lines(errors: Errors) -> list[str]:
    return [f"error {name} {_fault(error)}" for name, error in errors.items()]


def _fault(error: str | tuple[str, float]) -> str:
    return error if isinstance(error, str) else f"{error[0]} {error[1]}"
