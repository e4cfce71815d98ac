# SPDX-License-Identifier: Apache-2.0
"""Ends what the kernel left behind, then proves that the GPUs are free."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from runner.core import procfs
from runner.core.machine_records import Process, Release
from runner.machine import processes
from runner.stages.release.proof import prove

if TYPE_CHECKING:
    from runner.machine.run_monitor import Watch

RELEASE_SECONDS = 30.0


def release(monitor: Watch, *, cleanup: bool, seconds_left: Callable[[], float]) -> Release:
    """End what the kernel left behind and prove that the GPUs are free.

    Parameters
    ----------
    monitor
        What watched the run: its processes, its GPUs and their memory before the kernel started.
    cleanup
        False leaves the processes alone and only lists them.
    seconds_left
        How much time there is; `RELEASE_SECONDS` are taken at most.
    """
    if monitor.gpus:
        monitor.users.look(at_once=True)  # a short run has not come to a regular look
    family = monitor.family
    if cleanup:
        swept = family.sweep(processes.TERM_SECONDS, processes.KILL_SECONDS)
    else:
        left = filter(None, (procfs.read_stat(identity.pid) for identity in family.survivors()))
        swept = tuple(Process(pid=stat.pid, name=stat.name, ended_by="survived") for stat in left)
    return prove(
        monitor.gpus,
        monitor.baseline,
        users=monitor.users,
        deadline_seconds=RELEASE_SECONDS,
        seconds_left=seconds_left,
        swept=swept,
    )
