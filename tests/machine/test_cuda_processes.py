# SPDX-License-Identifier: Apache-2.0
"""Processes of a run that use CUDA are found by what they hold open, and the kernel is not among them."""

from __future__ import annotations

import types

import pytest

from runner.core.machine_records import GpuProcess
from runner.machine.cuda_processes import CudaProcesses

GB = 10**9


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


def family(others, kernel=10):
    """Return a run's processes: a list of those beside the kernel, which a test may change."""
    return types.SimpleNamespace(
        others=lambda: tuple(others), members=lambda: frozenset([kernel, *others]), observe=lambda: None
    )


class Gpu:
    """A GPU whose list of processes a test writes."""

    uuid = "GPU-a"

    def __init__(self):
        self.listed = {}

    def processes(self):
        """Return what NVML would list."""
        return tuple(GpuProcess(pid=pid, used_bytes=size, name="x") for pid, size in self.listed.items())


def test_a_process_that_holds_the_drivers_memory_device_uses_cuda(proc):
    """One that only asks NVML does not, and neither does one that has no GPU open."""
    proc(11, "/dev/null", "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia-uvm", name="dask worker")
    proc(12, "/dev/nvidiactl", "/dev/nvidia0")
    proc(13, "/dev/null")
    found = CudaProcesses(family([11, 12, 13, 99]), proc=proc.root)
    found.look()
    assert found.names == {11: "dask worker"}


def test_a_process_that_has_ended_is_remembered(proc):
    """Its memory was in the device's figure while it lived."""
    proc(11, "/dev/nvidia-uvm")
    members = [11]
    found = CudaProcesses(family(members), proc=proc.root)
    found.look()
    members.clear()
    found.look()
    assert found.names == {11: "python"}


def test_a_fork_of_the_kernel_uses_cuda_only_if_nvml_lists_it_beside_the_kernel(proc):
    """It inherits the open device; where NVML lists the kernel, its list decides."""
    proc(11, "/dev/nvidia-uvm")
    gpu = Gpu()
    found = CudaProcesses(family([11]), [gpu], proc=proc.root)
    gpu.listed = {10: 5 * GB}
    found.look()
    assert found.names == {}
    gpu.listed[11] = GB
    found.look()
    assert found.names == {11: "python"}


def look(found, times=10):
    """Look until NVML has been asked once more."""
    for _ in range(times):
        found.look()


def test_a_neighbour_is_who_was_there_before_or_has_a_pid_here_that_is_not_ours(proc):
    """The kernel under a pid of the host is nobody's neighbour; one from before the run is, whatever its pid."""
    proc(70)
    gpu = Gpu()
    found = CudaProcesses(family([]), [gpu], proc=proc.root)
    gpu.listed = {4711: GB}
    found.look()
    gpu.listed = {4711: GB, 70: GB, 10: 2 * GB, 54321: 2 * GB}
    look(found)
    assert {one.pid for one in found.neighbours("GPU-a")} == {4711, 70}
    assert [one.pid for one in found.before("GPU-a")] == [4711]


@pytest.mark.parametrize(("later", "moved"), [(GB, False), (GB + 60 * 2**20, False), (2 * GB, True), (None, True)])
def test_a_neighbour_whose_memory_stays_does_not_blur_the_need(proc, later, moved):
    """Only what moved, or has no figure, may be in what seems to lie outside the notebook's pools."""
    gpu = Gpu()
    found = CudaProcesses(family([]), [gpu], proc=proc.root)
    gpu.listed = {4711: GB}
    found.look()
    gpu.listed = {4711: later}
    look(found)
    assert (found.moved("GPU-a") is not None) is moved


def test_each_process_of_the_run_has_its_largest_memory(proc):
    """Kernel and Dask workers, by NVML's list; asked more often while there are workers."""
    proc(11, "/dev/nvidia-uvm")
    gpu, members = Gpu(), [11]
    found = CudaProcesses(family(members), [gpu], proc=proc.root)
    gpu.listed = {10: GB, 11: 2 * GB, 4711: GB}
    found.look()
    for size in (5, 3):
        gpu.listed = {10: GB, 11: size * GB, 4711: 9 * GB}
        look(found, 2)
    gpu.listed = {}
    look(found, 2)
    assert {one.pid: one.used_bytes for one in found.ours("GPU-a")} == {10: GB, 11: 5 * GB}


def test_a_process_of_the_run_that_is_ending_is_nobodys_neighbour(proc):
    """It is not a member any more, while /proc and NVML list it for a moment longer."""
    proc(11, "/dev/nvidia-uvm")
    gpu, members = Gpu(), [11]
    found = CudaProcesses(family(members), [gpu], proc=proc.root)
    found.look()
    gpu.listed = {11: GB}
    look(found)
    members.clear()
    look(found)
    assert found.neighbours("GPU-a") == ()
    assert found.strangers("GPU-a", gpu.processes()) == ()
