# SPDX-License-Identifier: Apache-2.0
"""The simulated driver behaves like a driver, so that tests against it mean something."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from simdriver import Device, Slice, hold_source

GPU = "GPU-00000000-0000-4000-8000-00000000000a"
OTHER = "GPU-00000000-0000-4000-8000-00000000000b"
READ = """
import pynvml as n
n.nvmlInit()
handle = n.nvmlDeviceGetHandleByIndex(0)
def answer(function, *arguments):
    try:
        return getattr(n, function)(*arguments)
    except n.NVMLError as error:
        return f"error {error.value}"
"""
USED = READ + "print(n.nvmlDeviceGetMemoryInfo(handle, n.nvmlMemory_v2).used)"


def test_memory_follows_its_steps(simulated_driver):
    """Memory in use is the value of the last step that has begun."""
    steps = [(0, 1000), (100, 5000), (9000, 7000)]
    simulated_driver.write(Device(uuid=GPU, used_bytes=steps))
    assert simulated_driver.python(USED) == 1000
    simulated_driver.write(Device(uuid=GPU, used_bytes=steps), seconds_ago=200)
    assert simulated_driver.python(USED) == 5000


def test_a_running_process_sees_what_is_written_later(simulated_driver):
    """The file is read again when it changes, so a test can free memory while something waits."""
    simulated_driver.write(Device(uuid=GPU, used_bytes=5000))
    code = READ + "import sys\nfor line in sys.stdin: print(n.nvmlDeviceGetMemoryInfo(handle).used, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=simulated_driver.environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:

        def used():
            reader.stdin.write("\n")
            reader.stdin.flush()
            return int(reader.stdout.readline())

        reserved = Device().reserved_bytes
        assert used() == 5000 + reserved
        simulated_driver.write(Device(uuid=GPU, used_bytes=70))
        assert used() == 70 + reserved
        simulated_driver.hold(GPU, 300)
        assert used() == 370 + reserved
        simulated_driver.hold(GPU, 0)
        assert used() == 70 + reserved


def test_memory_of_a_process_goes_with_the_process(simulated_driver):
    """What a process holds counts while it runs, not when it is a zombie or gone."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as holder:
        simulated_driver.write(Device(uuid=GPU, processes=[(holder.pid, 4000, "python")]))
        listed = READ + (
            "print([[p.pid, p.usedGpuMemory, n.nvmlSystemGetProcessName(p.pid)]"
            " for p in n.nvmlDeviceGetComputeRunningProcesses(handle)])"
        )
        assert simulated_driver.python(USED) == 4000
        assert simulated_driver.python(listed.replace("print(", "print(json.dumps(") + ")") == [
            [holder.pid, 4000, "python"]
        ]
        holder.kill()
        while ") Z" not in Path(f"/proc/{holder.pid}/stat").read_text():  # nobody has waited for it
            time.sleep(0.01)
        assert simulated_driver.python(USED) == 0
    assert simulated_driver.python(USED) == 0


def test_code_in_a_process_can_hold_and_leak(simulated_driver):
    """The source for notebook cells holds memory for its process, or for good with pid 0."""
    simulated_driver.write(Device(uuid=GPU))
    assert simulated_driver.python(hold_source(GPU, 900) + USED) == 900
    assert simulated_driver.python(USED) == 0
    assert simulated_driver.python(hold_source(GPU, 800, pid="0") + USED) == 800
    assert simulated_driver.python(USED) == 800


def test_process_lists_can_be_hidden(simulated_driver):
    """As inside a container: the memory is in use, by nobody one can see."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as holder:
        simulated_driver.write(Device(uuid=GPU, processes=[(holder.pid, 4000)]), hide_processes=True)
        assert simulated_driver.python(USED) == 4000
        assert simulated_driver.python(READ + "print(len(n.nvmlDeviceGetComputeRunningProcesses(handle)))") == 0
        holder.kill()


def test_the_first_memory_function_counts_the_reserve_as_used(simulated_driver):
    """Version 1 and 2 differ in `used` by what the driver reserves, as on real cards."""
    simulated_driver.write(Device(uuid=GPU, used_bytes=5000, reserved_bytes=700))
    both = READ + (
        "a, b = n.nvmlDeviceGetMemoryInfo(handle), n.nvmlDeviceGetMemoryInfo(handle, n.nvmlMemory_v2)\n"
        "print(json.dumps([a.used, b.used, b.reserved, a.free == b.free, a.total == b.total]))"
    )
    assert simulated_driver.python(both) == [5700, 5000, 700, True, True]


def test_energy_is_the_integral_of_power(simulated_driver):
    """100 W for ten seconds and 300 W for another ten are 4 kJ."""
    simulated_driver.write(Device(uuid=GPU, power_watts=[(0, 100), (10, 300), (20, 0)]), seconds_ago=50)
    assert simulated_driver.python(READ + "print(n.nvmlDeviceGetTotalEnergyConsumption(handle))") == 4_000_000


@pytest.mark.parametrize(
    ("errors", "answer"),
    [
        ({"nvmlDeviceGetPowerUsage": "not-supported"}, "error 3"),
        ({"nvmlDeviceGet*Usage": "no-permission"}, "error 4"),
        ({"*": ("gpu-is-lost", 100)}, 60000),
        ({"nvmlDeviceGetTemperature": "unknown"}, 60000),
    ],
)
def test_errors_hold_for_their_function_and_time(simulated_driver, errors, answer):
    """An error hits the functions that its glob names, on its device, from its second on."""
    simulated_driver.write(Device(uuid=GPU, errors=errors), Device(uuid=OTHER))
    ask = READ + (
        "other = n.nvmlDeviceGetHandleByIndex(1)\n"
        "print(json.dumps([answer('nvmlDeviceGetPowerUsage', one) for one in (handle, other)]))"
    )
    assert simulated_driver.python(ask) == [answer, 60000]


def test_a_gpu_is_lost_from_its_second_on(simulated_driver):
    """Everything fails once the second has come."""
    simulated_driver.write(Device(uuid=GPU, errors={"nvmlDeviceGetPower*": ("gpu-is-lost", 100)}), seconds_ago=200)
    assert simulated_driver.python(READ + "print(json.dumps(answer('nvmlDeviceGetPowerUsage', handle)))") == "error 15"


def test_an_old_driver_lacks_functions(simulated_driver):
    """A function that is left out is not in the symbol table, which the binding sees."""
    simulated_driver.write(Device(uuid=GPU), without=["nvmlDeviceGetMemoryInfo_v2"])
    ask = READ + "print(json.dumps(answer('nvmlDeviceGetMemoryInfo', handle, n.nvmlMemory_v2)))"
    assert simulated_driver.python(ask) == "error 13"
    assert "nvmlDeviceGetMemoryInfo_v2" not in simulated_driver.calls()


def test_mig_slices_answer_and_their_gpu_does_not(simulated_driver):
    """The GPU's memory is forbidden, a slice has memory of its own but no utilisation."""
    slices = [Slice(uuid="MIG-one", used_bytes=11), Slice(uuid="MIG-two", used_bytes=22)]
    simulated_driver.write(Device(uuid=GPU, slices=slices), Device(uuid=OTHER))
    ask = READ + (
        "parts = [n.nvmlDeviceGetMigDeviceHandleByIndex(handle, i) for i in range(2)]\n"
        "print(json.dumps([n.nvmlDeviceGetCount(), n.nvmlDeviceGetMigMode(handle),"
        " answer('nvmlDeviceGetMemoryInfo', handle), [n.nvmlDeviceGetUUID(p) for p in parts],"
        " [n.nvmlDeviceGetMemoryInfo(p).used for p in parts], answer('nvmlDeviceGetUtilizationRates', parts[0]),"
        " answer('nvmlDeviceGetMigDeviceHandleByIndex', handle, 2)]))"
    )
    expected = [2, [1, 1], "error 4", ["MIG-one", "MIG-two"], [11, 22], "error 3", "error 6"]
    assert simulated_driver.python(ask) == expected


def test_a_file_it_cannot_read_is_an_error(simulated_driver):
    """A typing error in a test's file stops the process instead of meaning nothing."""
    simulated_driver.path.write_text("device GPU-a\nutilisation 0 5\n")
    done = subprocess.run(
        [sys.executable, "-c", READ], env=simulated_driver.environ(), check=False, capture_output=True, text=True
    )
    assert done.returncode < 0
    assert "utilisation 0 5" in done.stderr
