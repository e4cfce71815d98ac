# SPDX-License-Identifier: Apache-2.0
"""On a real GPU: our figures are the driver's own, and the gate and the proof hold.

`pytest -m gpu`; needs the NVIDIA driver with `nvidia-smi`, and libcuda for the memory that the
last tests really allocate. Nothing here needs cupy or a network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time

import pytest

from runner.core.requirements import Requirements
from runner.machine import device, gpus
from runner.stages.gate.gate import gate, visibility_env
from runner.stages.release import release

pytestmark = pytest.mark.gpu

MIB = 2**20
ALLOCATE = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, f"{name} failed with {code}"
context, address, device = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_int()
call("cuInit", 0)
count = ctypes.c_int()
call("cuDeviceGetCount", ctypes.byref(count))
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(int(sys.argv[1])))
call("cuMemsetD8_v2", address, ctypes.c_ubyte(1), ctypes.c_size_t(int(sys.argv[1])))
call("cuCtxSynchronize")
print(count.value, flush=True)
input()
"""


def smi(*fields):
    """Return what nvidia-smi says, one row of texts a GPU."""
    program = shutil.which("nvidia-smi")
    if not program:
        pytest.skip("nvidia-smi is not on PATH")
    query = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    text = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    return [[part.strip() for part in line.split(",")] for line in text.splitlines() if line.strip()]


@pytest.fixture
def driver(request):
    """Give the real driver; who asks for these tests by name must have one."""
    try:
        opened = gpus.open_driver()
    except gpus.DriverProblem as problem:
        asked = request.config.option.markexpr == "gpu"
        (pytest.fail if asked else pytest.skip)(f"needs a GPU: {problem}")
    with opened:
        yield opened


@pytest.fixture
def whole(driver):
    """Give the first GPU that is not in MIG mode."""
    found = [gpu for gpu in driver.visible(os.environ) if not gpu.mig]
    if not found:
        pytest.skip("every GPU here is in MIG mode")
    return found[0]


@pytest.fixture
def allocate(whole):
    """Start processes that really hold device memory on the GPU."""
    started = []

    def start(size):
        environ = {**os.environ, **visibility_env([whole], os.environ)}
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(ALLOCATE), str(size)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_figures_are_those_of_nvidia_smi(driver, whole):
    """Name, UUID, driver version and total memory agree; memory in use nearly so."""
    rows = {row[0]: row[1:] for row in smi("uuid", "name", "driver_version", "memory.total", "memory.used")}
    name, version, total, used = rows[whole.uuid]
    reading = whole.read()
    assert (whole.name, driver.driver_version) == (name, version)
    assert abs(reading.total_bytes - int(total) * MIB) <= MIB
    assert abs(reading.used_bytes - int(used) * MIB) <= 1024 * MIB  # v1 counts the reserve, others may work
    parts = reading.free_bytes + reading.used_bytes + (reading.reserved_bytes or 0)
    assert abs(parts - reading.total_bytes) <= MIB
    print(f"{name}: {reading}")


def test_every_gpu_of_nvidia_smi_is_found(driver):
    """The UUIDs are the same set; a GPU in MIG mode is there by its slices."""
    ours = {gpu.identity.parent_uuid or gpu.uuid for gpu in driver.devices()}
    assert ours == {row[0] for row in smi("uuid")}


def test_energy_is_above_zero_and_grows(whole):
    """The counter that energy per cell is taken from really counts."""
    before = whole.read()
    if before.energy_joules is None:
        pytest.skip(f"no energy counter: {before.unavailable['energy_joules']}")
    deadline = time.monotonic() + 30
    while (after := whole.energy_joules()) <= before.energy_joules and time.monotonic() < deadline:
        time.sleep(0.1)
    assert 0 < before.energy_joules < after
    assert before.power_watts > 0
    assert before.temperature_celsius > 0
    assert 0 <= before.utilization_percent <= 100


def test_visible_devices_are_resolved_as_cuda_does(driver, whole, allocate):
    """Full UUID, short UUID and number name the GPU; CUDA itself sees exactly one."""
    assert driver.visible({"CUDA_VISIBLE_DEVICES": whole.uuid}) == (whole,)
    assert driver.visible({"CUDA_VISIBLE_DEVICES": whole.uuid[:-4]}) == (whole,)
    order = [row[1] for row in sorted(smi("pci.bus_id", "uuid"))]
    (first,) = driver.visible({"CUDA_VISIBLE_DEVICES": "0"})
    assert (first.identity.parent_uuid or first.uuid) == order[0]
    assert driver.visible({"CUDA_VISIBLE_DEVICES": ""}) == ()
    _, count = allocate(MIB)
    assert count == "1"


def test_the_gate_judges_the_real_device(tmp_path, whole):
    """Passes for a little memory, refuses at once for more than there is, and hands out the UUID."""
    environ = {"RUNNER_LOCK_DIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": whole.uuid}

    def never(_seconds):
        pytest.fail("the gate waits")

    where = {"environ": environ, "disk_path": tmp_path, "owner": "test", "sleep": never}
    with gate(Requirements(gpu_memory_gb=0.5), wait_seconds=3600, **where) as decision:
        assert decision.passed, decision.record.reason
        assert visibility_env(decision.gpus, {})["CUDA_VISIBLE_DEVICES"] == whole.uuid
    with gate(Requirements(gpu_memory_gb=10_000), wait_seconds=3600, **where) as decision:
        assert not decision.passed
        assert "too small" in decision.record.reason


def test_release_is_proved_by_the_end_of_the_process(whole, allocate):
    """Two GB held by another process are seen, not called released, and released once it is gone."""
    before = device.read_baseline([whole])
    process, _ = allocate(2 * 10**9)
    held = whole.memory().used_bytes - before[whole.uuid]
    assert held >= 2 * 10**9
    assert release.prove([whole], before, deadline_seconds=0.5).released is False
    process.kill()
    proof = release.prove([whole], before, deadline_seconds=60)
    assert proof.released is True, proof.reason
    print(f"held {held} bytes, {proof.reason}")


def test_a_context_alone_exceeds_the_tolerance(whole, allocate):
    """The smallest thing a process can leave behind is larger than what the proof tolerates."""
    before = device.read_baseline([whole])
    allocate(1)
    context = whole.memory().used_bytes - before[whole.uuid]
    assert context > release.TOLERANCE_BYTES
    print(f"one context takes {context / MIB:.0f} MiB")


def test_reading_is_cheap(whole):
    """What one reading costs is printed, for the figures of the sampler."""
    whole.read()
    started, wall = time.process_time(), time.monotonic()
    for _ in range(100):
        whole.read()
    cpu, wall = time.process_time() - started, time.monotonic() - wall
    print(f"one reading: {cpu * 10:.3f} ms of CPU, {wall * 10:.3f} ms in all")
    assert whole.read().used_bytes is not None
