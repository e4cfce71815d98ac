# SPDX-License-Identifier: Apache-2.0
"""Processes of a run that use CUDA are found by what they hold open, and the kernel is not among them."""

from __future__ import annotations

import types

import pytest

from runner.machine.cuda_processes import CudaProcesses


@pytest.fixture
def proc(tmp_path):
    """Give a function that makes a process with open files in a folder that looks like /proc."""

    def add(pid, *targets, name="python"):
        folder = tmp_path / str(pid) / "fd"
        folder.mkdir(parents=True)
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
        for number, target in enumerate(targets):
            (folder / str(number)).symlink_to(target)

    add.root = tmp_path
    return add


def family(*pids):
    """Return processes of a run beside the kernel."""
    return types.SimpleNamespace(others=lambda: pids)


def test_a_process_that_holds_the_drivers_memory_device_uses_cuda(proc):
    """One that only asks NVML does not, and neither does one that has no GPU open."""
    proc(11, "/dev/null", "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm", name="dask worker")
    proc(12, "/dev/nvidiactl", "/dev/nvidia0")
    proc(13, "/dev/null")
    found = CudaProcesses(family(11, 12, 13, 99), proc.root)
    found.look()
    assert found.names == {11: "dask worker"}


def test_a_process_that_has_ended_is_remembered(proc):
    """Its memory was in the device's figure while it lived."""
    proc(11, "/dev/nvidia-uvm")
    members = [11]
    found = CudaProcesses(types.SimpleNamespace(others=lambda: tuple(members)), proc.root)
    found.look()
    members.clear()
    found.look()
    assert found.names == {11: "python"}
