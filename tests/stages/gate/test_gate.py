# SPDX-License-Identifier: Apache-2.0
"""A notebook starts only where the machine has what it asks for, on the GPUs that are best."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from simdriver import Device, Slice, hold_source
from support import cli

from runner.core.machine_records import GpuProcess
from runner.core.requirements import Requirements, gpus_wanted, requirements_of
from runner.machine.device import Memory
from runner.machine.host import HostLimits
from runner.machine.visible import Identity
from runner.plan.model import Requires, requirements
from runner.stages.gate.criteria import Seen, best, hopeless, host_checks, judge, refusal
from runner.stages.gate.gate import gate, visibility_env

MIB = 2**20
FIRST = "GPU-00000000-0000-4000-8000-00000000000a"
SECOND = "GPU-00000000-0000-4000-8000-00000000000b"
GATE = """
import dataclasses
from pathlib import Path
from runner.core import records
from runner.stages.gate import gate

asked, seconds, sleeps = ARGUMENTS
def sleep(seconds):
    sleeps[0] -= 1
    if sleeps[0] < 0:
        raise SystemExit("the gate waits")
    import time
    time.sleep(seconds)
with gate.gate(
    records.Requirements(**asked), environ=os.environ, wait_seconds=seconds, disk_path=Path("/"), owner="a notebook",
    sleep=sleep,
) as decision:
    print(json.dumps({
        **dataclasses.asdict(decision.record),
        "handed": [gpu.uuid for gpu in decision.gpus],
        "env": gate.visibility_env(decision.gpus, os.environ),
        "locked": decision.locks.uuids if decision.locks else [],
        "nvml": "pynvml" in sys.modules,
    }))
"""


def ask(driver, wait=0.0, sleeps=10_000, environ=None, **asked):
    """Return the record of a gate in a process of its own; it may wait ``sleeps`` times."""
    return driver.python(GATE, asked, wait, [sleeps], **(environ or {}))


def seen(uuid="GPU-a", total=80_000, free=None, **more):
    """Return a GPU of so many MiB."""
    memory = Memory(
        source="nvml",
        total_bytes=total * MIB,
        free_bytes=(total if free is None else free) * MIB,
        used_bytes=0,
        reserved_bytes=more.pop("reserved", 0) * MIB,
    )
    identity = Identity(uuid=uuid, name="NVIDIA", index=0, parent_uuid="GPU-p" if uuid.startswith("MIG") else None)
    return Seen(identity=identity, memory=memory, **more)


@pytest.mark.parametrize(
    ("asked_gb", "total_mib", "free_mib", "good", "ever"),
    [
        (24, 23_028, 22_600, True, True),
        (24, 24_564, 24_000, True, True),
        (80, 81_251, 80_600, True, True),
        (80, 81_920, 81_000, True, True),
        (48, 46_068, 45_500, True, True),
        (24, 23_028, 20_000, False, True),
        (24, 16_384, 16_384, False, False),
        (24, 21_000, 21_000, False, False),
        (80, 81_251, 10, False, True),
        (None, 16, 0, True, True),
    ],
)
def test_cards_count_as_the_size_they_are_sold_as(asked_gb, total_mib, free_mib, good, ever):
    """95 % of the decimal size must be free; a card that is too small never will do."""
    (candidate,) = judge(Requirements(gpus=1, gpu_memory_gb=asked_gb), [seen(total=total_mib, free=free_mib)])
    assert (candidate.gpu.good, candidate.ever) == (good, ever)


def test_what_the_driver_keeps_is_never_free():
    """A card whose memory without the reserve is too small is refused, not waited for."""
    asked = Requirements(gpus=1, gpu_memory_gb=80, gpu_free_fraction=1.0)
    (candidate,) = judge(asked, [seen(total=76_500, free=10, reserved=600)])
    assert not candidate.ever
    assert "too small" in candidate.gpu.reason


@pytest.mark.parametrize(("fraction", "good"), [(0.95, False), (0.5, True), (1.0, False)])
def test_the_fraction_decides_how_much_is_enough(fraction, good):
    """Half of 24 GB is free: enough at 50 %."""
    asked = Requirements(gpus=1, gpu_memory_gb=24, gpu_free_fraction=fraction)
    assert judge(asked, [seen(free=12_000)])[0].gpu.good is good


def test_the_gpus_with_most_free_memory_come_first():
    """The order is by free memory, and what is not good is not in it."""
    gpus = [seen("GPU-a", free=40_000), seen("GPU-b", free=100), seen("GPU-c", free=70_000)]
    assert best(judge(Requirements(gpus=2, gpu_memory_gb=24), gpus)) == ("GPU-c", "GPU-a")


def test_memory_alone_asks_for_one_gpu():
    """Who names the memory of a GPU wants a GPU."""
    assert gpus_wanted(Requirements(gpu_memory_gb=24)) == 1
    assert gpus_wanted(Requirements()) == 0
    assert gpus_wanted(Requirements(gpus=2, gpu_memory_gb=24)) == 2


@pytest.mark.parametrize(
    ("gpus", "memory_gb", "asked"), [(0, 24, (0, None)), (None, 24, (1, 24)), (2, 24, (2, 24)), (None, None, (0, None))]
)
def test_no_gpus_means_none_whatever_memory_is_given(gpus, memory_gb, asked):
    """Options and plans ask by the same rule."""
    plan = Requires(gpus=gpus, gpu_memory_gb=memory_gb)

    for found in (requirements_of(gpus, memory_gb, 0.95), requirements(plan)):
        assert (found.gpus, found.gpu_memory_gb) == asked
        assert gpus_wanted(found) == asked[0]


def test_two_slices_are_not_two_gpus():
    """CUDA gives a process one MIG slice, so two are never enough for two."""
    slices = [seen("MIG-a"), seen("MIG-b")]
    assert hopeless(Requirements(gpus=2), judge(Requirements(gpus=2), slices))
    assert len(best(judge(Requirements(gpus=1), slices))) == 2


def test_a_lost_gpu_and_one_without_figures_are_not_good():
    """Memory that cannot be read is not free memory."""
    lost = Seen(identity=Identity(uuid="GPU-a", name="A", index=0), memory=None, problem="it fell off")
    dumb = Seen(
        identity=Identity(uuid="GPU-b", name="B", index=1), memory=Memory(source="none", reason="no permission")
    )
    candidates = judge(Requirements(gpus=1, gpu_memory_gb=1), [lost, dumb])
    assert [candidate.gpu.good for candidate in candidates] == [False, False]
    assert "it fell off" in candidates[0].gpu.reason
    assert "no permission" in candidates[1].gpu.reason
    assert judge(Requirements(gpus=1), [dumb])[0].gpu.good, "without a demand on memory it need not be known"


def test_the_refusal_says_what_each_gpu_has_and_who_holds_it():
    """What is asked, what is there and by whom it is held, GPU by GPU."""
    asked = Requirements(gpus=1, gpu_memory_gb=80)
    held = seen("GPU-a", total=81_251, free=1000, holders=(GpuProcess(pid=7, used_bytes=5 * 10**9, name="python"),))
    text = refusal(asked, judge(asked, [held, seen("GPU-b", total=16_384), seen("GPU-c", free=9)]), "a note")
    for part in ("76.0 GB free", "95% of 80 GB", "GPU-a", "1.0 GB free of 85.2 GB", "python (pid 7, 5.0 GB)"):
        assert part in text
    for part in ("GPU-b", "too small", "17.2 GB", "GPU-c", "not visible from here", "a note"):
        assert part in text


LIMITS = HostLimits(
    cpus=4.0, memory_bytes=32 * 10**9, memory_source="cgroup-v2:/x", memory_used_bytes=10**9, hostname="h"
)


@pytest.mark.parametrize(
    ("asked", "status", "name"),
    [
        ({"cpus": 4}, "pass", "cpus"),
        ({"cpus": 4.5}, "fail", "cpus"),
        ({"memory_gb": 30}, "pass", "memory"),
        ({"memory_gb": 32}, "warn", "memory"),
        ({"memory_gb": 33}, "fail", "memory"),
        ({"shm_gb": 2}, "pass", "/dev/shm"),
        ({"shm_gb": 3}, "fail", "/dev/shm"),
        ({"disk_gb": 100}, "pass", "disk"),
        ({"disk_gb": 101}, "fail", "disk"),
    ],
)
def test_the_host_is_compared_with_what_is_asked(asked, status, name):
    """Limits decide; what others use of them just now is a warning."""
    (check,) = host_checks(Requirements(**asked), limits=LIMITS, shm_free_bytes=2 * 10**9, disk_free_bytes=100 * 10**9)
    assert (check.name, check.status) == (name, status)
    assert check.hint or status == "pass"


def test_what_the_host_cannot_tell_is_a_warning():
    """No figure is no reason to refuse, and no reason to be silent."""
    unknown = HostLimits(cpus=1, memory_bytes=None, memory_source="host", memory_used_bytes=None, hostname="h")
    asked = Requirements(memory_gb=1, disk_gb=1, shm_gb=1)
    checks = host_checks(asked, limits=unknown, shm_free_bytes=None, disk_free_bytes=None)
    assert [check.status for check in checks] == ["warn", "warn", "warn"]


def test_a_small_shm_warns_where_a_gpu_is_used():
    """Docker's 64 MB kill UCX and Dask workers; who asks for no GPU is not bothered."""
    facts = {"limits": None, "shm_free_bytes": 64 * MIB, "disk_free_bytes": None}
    assert [check.status for check in host_checks(Requirements(gpus=1), **facts)] == ["warn"]
    assert host_checks(Requirements(), **facts) == ()


def test_without_gpus_the_driver_is_not_loaded(simulated_driver):
    """A notebook that asks for no GPU starts without NVML, whatever its state."""
    simulated_driver.write(errors={"nvmlInit*": "unknown"})
    record = ask(simulated_driver)
    assert (record["passed"], record["chosen"], record["env"], record["nvml"]) == (
        True,
        [],
        {"CUDA_VISIBLE_DEVICES": ""},
        False,
    )
    assert simulated_driver.calls() == []


def test_a_full_first_gpu_leaves_the_second(simulated_driver):
    """Of two GPUs of which the first is full the kernel gets the second, by UUID."""
    simulated_driver.write(
        Device(uuid=FIRST, used_bytes=79 * 10**9), Device(uuid=SECOND, pci="0:5b:0"), driver="575.1", cuda=12090
    )
    record = ask(simulated_driver, gpu_memory_gb=24)
    assert (record["passed"], record["chosen"], record["handed"], record["locked"]) == (
        True, [SECOND], [SECOND], [SECOND],
    )  # fmt: skip
    assert record["env"] == {"CUDA_VISIBLE_DEVICES": SECOND, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert [gpu["good"] for gpu in record["gpus"]] == [False, True]
    assert (record["driver_version"], record["cuda_version"]) == ("575.1", "12.9")


def test_the_freest_gpus_are_chosen_as_many_as_asked(simulated_driver):
    """Two of three, the one with the most free memory first."""
    simulated_driver.write(
        Device(uuid="GPU-a", pci="0:1:0", used_bytes=9 * 10**9),
        Device(uuid="GPU-b", pci="0:2:0", used_bytes=10**9),
        Device(uuid="GPU-c", pci="0:3:0", used_bytes=5 * 10**9),
    )
    assert ask(simulated_driver, gpus=2, gpu_memory_gb=24)["chosen"] == ["GPU-b", "GPU-c"]


def test_the_choice_stays_within_what_is_visible(simulated_driver):
    """A GPU that CUDA_VISIBLE_DEVICES hides is neither judged nor taken, however free it is."""
    simulated_driver.write(Device(uuid=FIRST, used_bytes=10**9), Device(uuid=SECOND, pci="0:5b:0"))
    record = ask(simulated_driver, gpus=1, environ={"CUDA_VISIBLE_DEVICES": "0"})
    assert (record["chosen"], [gpu["uuid"] for gpu in record["gpus"]]) == ([FIRST], [FIRST])
    refused = ask(simulated_driver, gpus=1, environ={"CUDA_VISIBLE_DEVICES": ""})
    assert not refused["passed"]
    assert "CUDA_VISIBLE_DEVICES is empty" in refused["reason"]


def test_memory_of_others_is_waited_for(simulated_driver):
    """What is freed within the wait lets the notebook start."""
    simulated_driver.write(Device(uuid=FIRST))
    simulated_driver.hold(FIRST, 70 * 10**9)
    let_go = hold_source(FIRST, 0, pid="0")
    code = GATE.replace("    import time\n", textwrap.indent(let_go, "    ") + "    import time\n")
    record = simulated_driver.python(code, {"gpu_memory_gb": 80}, 120, [10_000])
    assert record["passed"]
    assert record["waited_seconds"] > 0


def test_the_wait_ends(simulated_driver):
    """Memory that is not freed in time is a refusal that says who holds it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as holder:
        simulated_driver.write(Device(uuid=FIRST, processes=[(holder.pid, 70 * 10**9, "python3")]))
        record = ask(simulated_driver, wait=0.2, gpu_memory_gb=80)
        holder.kill()
    assert not record["passed"]
    assert f"python3 (pid {holder.pid}, 70.0 GB)" in record["reason"]
    assert record["waited_seconds"] > 0


@pytest.mark.parametrize(
    ("devices", "asked"),
    [
        ([Device(uuid=FIRST, total_bytes=16 * 10**9, reserved_bytes=0)], {"gpu_memory_gb": 24}),
        ([Device(uuid=FIRST)], {"gpus": 2}),
        ([Device(uuid=FIRST, slices=[Slice(uuid="MIG-a"), Slice(uuid="MIG-b")])], {"gpus": 2}),
        ([Device(uuid=FIRST, used_bytes=79 * 10**9)], {"gpu_memory_gb": 24, "cpus": 10_000}),
        ([], {"gpus": 1}),
    ],
    ids=["too small", "too few", "two slices", "host fails", "no device"],
)
def test_what_waiting_cannot_help_is_refused_at_once(simulated_driver, devices, asked):
    """With an hour to wait the gate does not wait once."""
    simulated_driver.write(*devices)
    record = ask(simulated_driver, wait=3600, sleeps=0, **asked)
    assert (record["passed"], record["chosen"], record["handed"], record["locked"]) == (False, [], [], [])
    assert record["waited_seconds"] == 0


def test_a_failing_host_check_refuses_and_says_all(simulated_driver):
    """The refusal lists what the host lacks, and the GPUs were looked at all the same."""
    simulated_driver.write(Device(uuid=FIRST))
    record = ask(simulated_driver, gpus=1, cpus=10_000, disk_gb=10**9)
    assert not record["passed"]
    assert "cpus" in record["reason"]
    assert "disk" in record["reason"]
    assert [gpu["good"] for gpu in record["gpus"]] == [True]
    without_gpu = ask(simulated_driver, cpus=10_000)
    assert (without_gpu["passed"], without_gpu["nvml"]) == (False, False)


@pytest.mark.parametrize(
    ("error", "kind"),
    [("driver-not-loaded", "no-driver"), ("version-mismatch", "version-mismatch"), ("unknown", "unknown-error")],
)
def test_a_driver_problem_is_a_refusal_with_advice(simulated_driver, error, kind):
    """A driver that cannot be used refuses at once, and the reason says what to do."""
    simulated_driver.write(errors={"nvmlInit*": error})
    record = ask(simulated_driver, wait=3600, sleeps=0, gpus=1)
    assert (record["passed"], record["driver_problem"]) == (False, kind)
    assert "NVML:" in record["reason"]


def test_a_mig_slice_is_taken_by_its_uuid(simulated_driver):
    """The slice with the most free memory is chosen; its GPU is none."""
    slices = [Slice(uuid="MIG-full", used_bytes=5 * 10**9), Slice(uuid="MIG-free")]
    simulated_driver.write(Device(uuid=FIRST, slices=slices))
    record = ask(simulated_driver, gpu_memory_gb=5)
    assert record["chosen"] == ["MIG-free"]
    assert record["env"]["CUDA_VISIBLE_DEVICES"] == "MIG-free"


HOLD = """
import os, sys
from pathlib import Path
from runner.core import records
from runner.stages.gate import gate
asked = records.Requirements(gpus=int(sys.argv[1]))
decision = gate.gate(asked, environ=os.environ, wait_seconds=0, disk_path=Path("/"), owner="02 long")
print(",".join(gpu.uuid for gpu in decision.gpus), flush=True)
input()
"""


@pytest.fixture
def holder(simulated_driver):
    """Start another run that has passed the gate, and end it afterwards."""
    started = []

    def start(gpus=1):
        environ = simulated_driver.environ(PYTHONPATH=":".join(sys.path))
        command = [sys.executable, "-c", HOLD, str(gpus)]
        started.append(subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1], started[-1].stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_two_runs_do_not_get_the_same_gpu(simulated_driver, holder):
    """The memory is free still, but the first run has the GPU; the second gets the other or none."""
    simulated_driver.write(Device(uuid=FIRST), Device(uuid=SECOND, pci="0:5b:0", used_bytes=10**9))
    _, taken = holder()
    assert taken == FIRST
    assert ask(simulated_driver, gpus=1)["chosen"] == [SECOND]
    refused = ask(simulated_driver, gpus=2)
    assert not refused["passed"]
    assert "02 long" in refused["reason"]


def test_a_locked_gpu_is_waited_for(simulated_driver, holder):
    """A run that ends while the next one waits hands its GPU on."""
    simulated_driver.write(Device(uuid=FIRST))
    other, _ = holder()
    code = GATE.replace("    import time\n", f"    os.kill({other.pid}, 9)\n    import time\n")
    simulated_driver.write(Device(uuid=FIRST))
    record = simulated_driver.python(code, {"gpus": 1}, 120, [10_000])
    assert record["passed"]
    assert record["waited_seconds"] > 0


def test_who_waits_for_more_keeps_none(simulated_driver, holder):
    """A run that wants two GPUs and finds one holds none of them while it waits."""
    simulated_driver.write(Device(uuid=FIRST), Device(uuid=SECOND, pci="0:5b:0"))
    _, taken = holder()
    other = ({FIRST, SECOND} - {taken}).pop()
    look_meanwhile = (
        "    from runner.stages.gate.gpu_locks import Locks, folder\n"
        "    with Locks(folder(os.environ)) as locks:\n"
        f"        raise SystemExit(print(json.dumps(locks.take({other!r}, 'meanwhile'))))\n"
    )
    code = GATE.replace("    import time\n", look_meanwhile + "    import time\n")
    assert simulated_driver.python(code, {"gpus": 2}, 60, [10_000]) is None


def test_a_signal_while_waiting_frees_everything(simulated_driver):
    """Whatever ends the wait leaves no lock and no open driver."""
    simulated_driver.write(Device(uuid=FIRST, used_bytes=79 * 10**9), Device(uuid=SECOND, pci="0:5b:0"))
    code = """
from pathlib import Path
from runner.core import records
from runner.stages.gate import gate
from runner.stages.gate.gpu_locks import Locks, folder
def interrupted(seconds):
    raise KeyboardInterrupt
try:
    asked = records.Requirements(gpus=2, gpu_memory_gb=24)
    gate.gate(asked, environ=os.environ, wait_seconds=60, disk_path=Path("/"), owner="me", sleep=interrupted)
except KeyboardInterrupt:
    print(json.dumps(Locks(folder(os.environ)).take(ARGUMENTS[0], "next")))
"""
    assert simulated_driver.python(code, SECOND) is None
    assert simulated_driver.calls()[-1] == "nvmlShutdown"


def test_without_a_place_for_locks_it_runs_with_a_warning(simulated_driver):
    """A folder that cannot be written keeps nobody from running, but is told."""
    simulated_driver.write(Device(uuid=FIRST))
    record = ask(simulated_driver, gpus=1, environ={"RUNNER_LOCK_DIR": "/proc/no/such"})
    assert record["passed"]
    assert ("gpu lock", "warn") in [(check["name"], check["status"]) for check in record["checks"]]


def test_a_host_check_needs_no_driver(tmp_path):
    """The disk is looked at where the notebook will write, also before that folder exists."""
    decision = gate(
        Requirements(disk_gb=10**9),
        environ={},
        wait_seconds=0,
        disk_path=tmp_path / "not" / "yet",
        owner="me",
    )
    assert not decision.passed
    assert "1000000.0 TB needed" in decision.record.reason


def test_the_users_device_order_stands():
    """CUDA_DEVICE_ORDER is set for the kernel unless the user has; without GPUs nothing is hidden."""

    class Gpu:
        def __init__(self, uuid):
            self.uuid = uuid

    pair = [Gpu("GPU-b"), Gpu("GPU-a")]
    assert visibility_env(pair, {})["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-a"
    assert visibility_env(pair, {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}) == {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}
    assert visibility_env([], {"CUDA_VISIBLE_DEVICES": "0"}) == {"CUDA_VISIBLE_DEVICES": ""}


def test_a_gate_imports_only_what_it_needs():
    """It starts cold before every notebook: no models of plans, no notebook, no numbers."""
    script = (
        "import sys\nsys.argv = ['runner', 'gate']\nfrom runner.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('pydantic', 'yaml', 'nbformat', 'numpy', 'rich', 'asyncio') if name in sys.modules])"
    )
    ended = cli.python(script)
    assert ended.out.splitlines()[-1] == "[]", ended.err
