# SPDX-License-Identifier: Apache-2.0
"""What a GPU says is told as it is, and what it does not say is null with the reason."""

from __future__ import annotations

import subprocess
import sys

import pytest
from simdriver import Device, Slice
from support.cli import PATIENCE

GPU = "GPU-00000000-0000-4000-8000-00000000000a"
OTHER = "GPU-00000000-0000-4000-8000-00000000000b"

READ = """
import dataclasses
from runner.machine import gpus
with gpus.open_driver() as driver:
    visible = driver.visible(os.environ)
    print(json.dumps({
        "readings": [dataclasses.asdict(gpu.read()) for gpu in visible],
        "names": [gpu.name for gpu in visible],
        "mig": [gpu.mig for gpu in visible],
        "driver": [driver.driver_version, driver.cuda_version, driver.memory_api],
        "notes": driver.notes,
    }))
"""
PROBLEM = """
from runner.machine import gpus
try:
    with gpus.open_driver() as driver:
        print(json.dumps(None))
except gpus.DriverProblem as problem:
    told = {name: getattr(problem, name) for name in ("kind", "message", "hint", "exit_code")}
    print(json.dumps(told))
"""
VALUES = ("utilization_percent", "power_watts", "temperature_celsius", "energy_joules")


def test_a_reading_holds_everything_the_gpu_says(simulated_driver):
    """Memory with the reserve apart, utilisation, power, temperature and energy, with units."""
    simulated_driver.write(
        Device(
            uuid=GPU,
            name="NVIDIA H200",
            total_bytes=150_000,
            reserved_bytes=1000,
            used_bytes=50_000,
            utilization_percent=73,
            power_watts=412.5,
            temperature_celsius=61,
        ),
        driver="575.57.08",
        cuda=12090,
        seconds_ago=100,
    )
    seen = simulated_driver.python(READ)
    reading = seen["readings"][0]
    assert seen["driver"] == ["575.57.08", "12.9", "v2"]
    assert seen["names"] == ["NVIDIA H200"]
    assert reading.pop("energy_joules") >= 41_250
    assert reading == {
        "uuid": GPU,
        "total_bytes": 150_000,
        "free_bytes": 99_000,
        "used_bytes": 50_000,
        "reserved_bytes": 1000,
        "memory_api": "v2",
        "memory_source": "nvml",
        "utilization_percent": 73.0,
        "power_watts": 412.5,
        "temperature_celsius": 61.0,
        "unavailable": {},
    }


@pytest.mark.parametrize(
    "driver",
    [
        {"without": ["nvmlDeviceGetMemoryInfo_v2"]},
        {"errors": {"nvmlDeviceGetMemoryInfo_v2": "unknown"}},
    ],
    ids=["old driver", "WSL"],
)
def test_the_first_memory_function_stands_in_for_the_second(simulated_driver, driver):
    """Where version 2 is missing or fails, version 1 answers, and the reading says so."""
    simulated_driver.write(Device(uuid=GPU, used_bytes=5000, reserved_bytes=700), **driver)
    reading = simulated_driver.python(READ)["readings"][0]
    assert (reading["memory_api"], reading["used_bytes"], reading["reserved_bytes"]) == ("v1", 5700, None)
    assert "version 1" in reading["unavailable"]["reserved_bytes"]


def test_a_gpu_that_says_nothing_does_not_decide_the_memory_function(simulated_driver):
    """One in MIG mode answers neither version; the next one decides for all."""
    simulated_driver.write(
        Device(uuid=GPU, slices=[]),
        Device(uuid=OTHER, pci="0:5b:0", errors={"nvmlDeviceGetMemoryInfo*": "no-permission"}),
        Device(uuid="GPU-third", pci="0:7b:0"),
    )
    seen = simulated_driver.python(READ)
    assert seen["driver"][2] == "v2"
    assert "permission" in seen["readings"][0]["unavailable"]["used_bytes"]
    assert "without a slice" in seen["notes"][0]


def test_the_devices_are_what_cuda_could_use(simulated_driver):
    """GPUs and slices; a GPU in MIG mode is none by itself."""
    simulated_driver.write(Device(uuid=GPU, slices=[Slice(uuid="MIG-one")]), Device(uuid=OTHER, pci="0:5b:0"))
    code = """
from runner.machine import gpus
with gpus.open_driver() as driver:
    print(json.dumps([gpu.uuid for gpu in driver.devices()]))
"""
    assert simulated_driver.python(code) == ["MIG-one", OTHER]


@pytest.mark.parametrize(
    ("error", "reason"),
    [("not-supported", "not supported"), ("no-permission", "permission"), ("function-not-found", "old driver")],
)
def test_what_can_never_be_answered_is_asked_once(simulated_driver, error, reason):
    """Four questions without an answer are four nulls with a reason, and are not asked again."""
    functions = [
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetTotalEnergyConsumption",
    ]
    simulated_driver.write(Device(uuid=GPU, errors=dict.fromkeys(functions, error)))
    twice = READ.replace("print(", "visible[0].read()\n    print(")
    reading = simulated_driver.python(twice)["readings"][0]
    assert all(reading[name] is None and reason in reading["unavailable"][name] for name in VALUES)
    assert reading["used_bytes"] == 0
    assert [simulated_driver.calls().count(name) for name in functions] == [1, 1, 1, 1]


def test_a_passing_fault_is_asked_again(simulated_driver):
    """A timeout is null with a reason this time and says nothing about the next time."""
    simulated_driver.write(Device(uuid=GPU, errors={"nvmlDeviceGetPowerUsage": "timeout"}))
    reading = simulated_driver.python(READ.replace("print(", "visible[0].read()\n    print("))["readings"][0]
    assert reading["power_watts"] is None
    assert reading["unavailable"]["power_watts"]
    assert simulated_driver.calls().count("nvmlDeviceGetPowerUsage") == 2


def test_functions_missing_from_an_old_driver_are_nulls(simulated_driver):
    """A library without the newer functions is used for what it has."""
    missing = [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetMigMode",
        "nvmlSystemGetCudaDriverVersion_v2",
        "nvmlDeviceGetComputeRunningProcesses_v3",
    ]
    simulated_driver.write(Device(uuid=GPU, used_bytes=5, reserved_bytes=0), without=missing, driver="410.104")
    seen = simulated_driver.python(READ)
    assert seen["driver"] == ["410.104", None, "v1"]
    assert seen["readings"][0]["used_bytes"] == 5
    assert "old driver" in seen["readings"][0]["unavailable"]["energy_joules"]


@pytest.mark.parametrize(
    "device",
    [Device(uuid=GPU, total_bytes=0), Device(uuid=GPU, errors={"nvmlDeviceGetMemoryInfo*": "not-supported"})],
    ids=["total of 0", "not supported"],
)
def test_a_gpu_without_memory_of_its_own_has_the_hosts(simulated_driver, device):
    """On a machine with unified memory free is what the host has available, and it is labelled."""
    simulated_driver.write(device)
    reading = simulated_driver.python(READ)["readings"][0]
    assert reading["memory_source"] == "host"
    assert 0 < reading["free_bytes"] < reading["total_bytes"]


def test_a_mig_slice_has_its_own_memory_and_no_utilisation(simulated_driver):
    """The slice is the device: its UUID and memory; what belongs to the whole GPU is null."""
    slices = [Slice(uuid="MIG-one", used_bytes=11), Slice(uuid="MIG-two", used_bytes=22)]
    simulated_driver.write(Device(uuid=GPU, slices=slices))
    seen = simulated_driver.python(READ)
    assert [one["uuid"] for one in seen["readings"]] == ["MIG-one", "MIG-two"]
    assert [one["used_bytes"] for one in seen["readings"]] == [11, 22]
    assert seen["mig"] == [True, True]
    for name in VALUES:
        assert seen["readings"][0][name] is None
        assert seen["readings"][0]["unavailable"][name]


def test_a_mig_slice_without_figures_never_gets_the_hosts(simulated_driver):
    """A slice whose memory is not supported has none we know of; the host's would be a lie."""
    hidden = Slice(uuid="MIG-one", errors={"nvmlDeviceGetMemoryInfo*": "not-supported"})
    simulated_driver.write(Device(uuid=GPU, slices=[hidden]))
    reading = simulated_driver.python(READ)["readings"][0]
    assert (reading["memory_source"], reading["free_bytes"]) == ("none", None)
    assert reading["unavailable"]["free_bytes"]


def test_an_exception_of_the_binding_is_no_end(simulated_driver):
    """A name that is no UTF-8 makes the binding raise; the GPU is still there."""
    simulated_driver.write(Device(uuid=GPU, name="NVIDIA \udcff"))
    seen = simulated_driver.python(READ)
    assert seen["readings"][0]["uuid"] == GPU
    assert seen["names"] == ["unknown GPU"]


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        ("driver-not-loaded", "no-driver", "nvidia-smi"),
        ("version-mismatch", "version-mismatch", "reboot"),
        ("unknown", "unknown-error", "recreate the container"),
        ("gpu-is-lost", "driver-lost", "Xid"),
    ],
)
def test_a_driver_that_cannot_be_used_says_why(simulated_driver, error, kind, hint):
    """Each way to fail has its own name, message and advice."""
    simulated_driver.write(Device(uuid=GPU), errors={"nvmlInit*": error})
    problem = simulated_driver.python(PROBLEM)
    assert (problem["kind"], problem["exit_code"]) == (kind, 3)
    assert hint in problem["hint"]


def test_the_messages_of_the_problems_differ(simulated_driver):
    """No two problems read the same."""
    texts = []
    for error in ("driver-not-loaded", "version-mismatch", "unknown", "gpu-is-lost", None):
        simulated_driver.write(errors={"nvmlInit*": error} if error else {})
        texts.append(simulated_driver.python(PROBLEM)["message"].partition(":")[0])
    assert len(set(texts)) == 5


def test_no_device_is_no_missing_driver(simulated_driver):
    """A driver without a GPU is told apart from no driver."""
    simulated_driver.write()
    assert simulated_driver.python(PROBLEM)["kind"] == "no-device"


def test_a_missing_library_is_told_apart(simulated_driver, tmp_path):
    """Without a library that can be loaded the advice is to start the container with GPUs."""
    (tmp_path / "libnvidia-ml.so.1").write_text("this is no library")
    problem = simulated_driver.python(PROBLEM, LD_LIBRARY_PATH=str(tmp_path))
    assert problem["kind"] == "no-library"
    assert "--gpus" in problem["hint"]


def test_one_lost_gpu_leaves_the_others(simulated_driver):
    """A GPU that fell off the bus before the start is left out with a note."""
    simulated_driver.write(Device(uuid=GPU, errors={"*": "gpu-is-lost"}), Device(uuid=OTHER, pci="0:5b:0"))
    seen = simulated_driver.python(READ)
    assert [one["uuid"] for one in seen["readings"]] == [OTHER]
    assert "GPU 0" in seen["notes"][0]
    simulated_driver.write(Device(uuid=GPU, errors={"*": "gpu-is-lost"}))
    assert simulated_driver.python(PROBLEM)["kind"] == "driver-lost"


def test_a_gpu_lost_while_in_use_is_a_driver_problem(simulated_driver):
    """A reading of a GPU that is gone raises, so that whoever samples can stop with a note."""
    simulated_driver.write(Device(uuid=GPU))
    code = """
import sys
from runner.machine import gpus
gpu = gpus.open_driver().devices()[0]
print(gpu.read().used_bytes, flush=True)
input()
try:
    gpu.read()
except gpus.DriverProblem as problem:
    print(problem.kind, gpu.total_bytes)
"""
    environ = simulated_driver.environ(PYTHONPATH=":".join(sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout.readline() == "0\n"
        simulated_driver.write(Device(uuid=GPU, errors={"*": "gpu-is-lost"}))
        assert reader.communicate("\n", timeout=PATIENCE)[0] == f"driver-lost {Device().total_bytes}\n"


def test_the_visible_gpus_are_those_of_the_environment(simulated_driver):
    """CUDA_VISIBLE_DEVICES in the order of the PCI bus, with short UUIDs."""
    simulated_driver.write(Device(uuid=GPU, pci="0:5b:0"), Device(uuid=OTHER, pci="0:3b:0"))
    for value, uuids in (("0", [OTHER]), (GPU[:40], [GPU]), ("", []), ("1,0", [GPU, OTHER])):
        seen = simulated_driver.python(READ, CUDA_VISIBLE_DEVICES=value)
        assert [one["uuid"] for one in seen["readings"]] == uuids


@pytest.mark.parametrize("without", [[], ["nvmlDeviceGetComputeRunningProcesses_v3"]], ids=["v3", "v2"])
def test_processes_are_shown_where_the_driver_shows_them(simulated_driver, without):
    """Pid, memory and name; also from a driver that has only the second version of the function."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as holder:
        simulated_driver.write(Device(uuid=GPU, processes=[(holder.pid, 4000, "python")]), without=without)
        ask = """
import dataclasses
from runner.machine import gpus
with gpus.open_driver() as driver:
    print(json.dumps([dataclasses.asdict(one) for one in driver.devices()[0].processes()]))
"""
        assert simulated_driver.python(ask) == [{"pid": holder.pid, "used_bytes": 4000, "name": "python"}]
        holder.kill()
