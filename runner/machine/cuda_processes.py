# SPDX-License-Identifier: Apache-2.0
"""Which processes of a run use CUDA beside the kernel, told without NVML.

NVML's list of processes is empty or foreign inside a container. A process that has begun with CUDA
holds the driver's memory device open, and that shows in /proc; asking NVML, as monitors do, does not
open it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.machine.processes import Family

_DEVICE = "/dev/nvidia-uvm"


class CudaProcesses:
    """Remembers the processes of a run, without the kernel, that were seen to use CUDA.

    Parameters
    ----------
    family
        The run's processes.
    """

    def __init__(self, family: Family, proc: Path = Path("/proc")) -> None:
        self._family = family
        self._proc = proc
        self.names: dict[int, str] = {}
        """Names by pid."""

    def look(self) -> None:
        """Look at those that are not known yet; costs nothing while the kernel is alone."""
        for pid in self._family.others():
            if pid not in self.names and self._uses_cuda(pid):
                self.names[pid] = self._name(pid)

    def _uses_cuda(self, pid: int) -> bool:
        try:
            with os.scandir(self._proc / str(pid) / "fd") as entries:
                return any(os.readlink(entry.path) == _DEVICE for entry in entries)  # noqa: PTH115  (a Path each costs)
        except OSError:
            return False

    def _name(self, pid: int) -> str:
        try:
            return (self._proc / str(pid) / "comm").read_text(errors="replace").strip()
        except OSError:
            return "a process"
