# SPDX-License-Identifier: Apache-2.0
"""The real command line on simulated GPUs: what it takes, what it measures, what it proves."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from simdriver import Device, Slice, hold_source
from support import cli, notebooks

from runner.core.units import format_seconds

FIRST = "GPU-00000000-0000-4000-8000-00000000000a"
SECOND = "GPU-00000000-0000-4000-8000-00000000000b"
GB = 10**9
SHOW = "import os\nprint('sees', os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ.get('CUDA_DEVICE_ORDER'))"
PAUSE = "import time\ntime.sleep(1.5)"


@pytest.fixture
def run(tmp_path, simulated_driver):
    """Give a function that runs cells on the simulated driver and returns exit code and metrics."""

    def start(*cells, options=("--min-gpus", "1"), env=None):
        source = notebooks.write(tmp_path / "n.ipynb", *cells)
        out = tmp_path / "out"
        ended = cli.runner(
            "run", source, "--output-dir", out, "--no-html", *options, env={**simulated_driver.env, **(env or {})}
        )
        return ended.code, cli.metrics(out, "n"), out

    return start


def gate(driver, *options, **env):
    """Return the exit code and the record of `runner gate`."""
    ended = cli.runner("gate", "--json", *options, env={**driver.env, **env})
    return ended.code, json.loads(ended.out)


def test_the_gate_passes_and_names_the_gpu(simulated_driver):
    """Exit 0, the chosen GPU by UUID, and what every visible one has."""
    simulated_driver.write(Device(uuid=FIRST, used_bytes=79 * GB), Device(uuid=SECOND, pci="0:5b:0"))
    code, record = gate(simulated_driver, "--min-gpu-memory-gb", "24")
    assert (code, record["chosen"]) == (0, [SECOND])
    assert [gpu["good"] for gpu in record["gpus"]] == [False, True]
    words = cli.runner("gate", "--min-gpu-memory-gb", "24", env=simulated_driver.env)
    assert (words.code, FIRST in words.out, SECOND in words.out) == (0, True, True)


@pytest.mark.parametrize(
    ("devices", "errors", "problem"),
    [
        ([], {}, "no-device"),
        ([Device()], {"nvmlInit*": "driver-not-loaded"}, "no-driver"),
        ([Device()], {"nvmlInit*": "version-mismatch"}, "version-mismatch"),
        ([Device()], {"nvmlInit*": "unknown"}, "unknown-error"),
        ([Device(errors={"*": "gpu-is-lost"})], {}, "driver-lost"),
        ([Device(total_bytes=16 * GB)], {}, None),
    ],
)
def test_the_gate_refuses_with_exit_3(simulated_driver, devices, errors, problem):
    """Each trouble of the driver has its name, at once and in spite of --wait."""
    simulated_driver.write(*devices, errors=errors)
    code, record = gate(simulated_driver, "--min-gpu-memory-gb", "24", "--wait", "10m")
    assert (code, record["passed"], record["driver_problem"]) == (3, False, problem)
    assert record["reason"]


def test_a_gpu_in_prohibited_mode_is_busy_for_ever(simulated_driver):
    """CUDA would find it busy: it is refused at once, with the mode and the command that changes it."""
    simulated_driver.write(Device(uuid=FIRST, compute_mode=2))
    code, record = gate(simulated_driver, "--min-gpus", "1", "--wait", "10m")
    assert (code, record["waited_seconds"]) == (3, 0)
    assert "busy: its compute mode is prohibited" in record["reason"]
    assert "nvidia-smi --compute-mode=DEFAULT" in record["reason"]
    simulated_driver.write(Device(uuid=FIRST, compute_mode=2), Device(uuid=SECOND, pci="0:5b:0"))
    assert gate(simulated_driver, "--min-gpus", "1")[1]["chosen"] == [SECOND]


def test_an_exclusive_gpu_is_waited_for_while_another_process_has_it(simulated_driver):
    """Free memory does not help there: refused with the holder, passed once that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        taken = Device(uuid=FIRST, compute_mode=3, processes=[(other.pid, GB, "trainer")])
        simulated_driver.write(taken)
        code, record = gate(simulated_driver, "--min-gpu-memory-gb", "24")
        assert (code, record["gpus"][0]["good"]) == (3, False)
        assert (
            f"busy: it allows one process at a time (exclusive compute mode); used by trainer (pid {other.pid}"
            in (record["reason"])
        )
        waiting = cli.start("gate", "--json", "--min-gpus", "1", "--wait", "10m", env=simulated_driver.env)
        try:
            assert waiting.poll() is None
            other.kill()
            out, err = waiting.communicate(timeout=cli.PATIENCE)
        finally:
            waiting.kill()
        assert waiting.returncode == 0, err
        assert json.loads(out)["chosen"] == [FIRST]


def test_an_exclusive_gpu_that_is_free_or_shared_by_mps_is_good(simulated_driver):
    """The MPS server has it on behalf of everybody; a holder that cannot be seen is a warning and no refusal."""
    simulated_driver.write(Device(uuid=FIRST, compute_mode=3))
    code, record = gate(simulated_driver, "--min-gpus", "1")
    assert (code, [check["name"] for check in record["checks"] if check["name"] == "compute mode"]) == (0, [])
    server = (os.getpid(), 30 * 10**6, "nvidia-cuda-mps-server")
    simulated_driver.write(Device(uuid=FIRST, compute_mode=3, processes=[server]))
    assert gate(simulated_driver, "--min-gpus", "1")[0] == 0
    simulated_driver.write(Device(uuid=FIRST, compute_mode=3, used_bytes=GB))
    code, record = gate(simulated_driver, "--min-gpus", "1")
    (warning,) = (check for check in record["checks"] if check["name"] == "compute mode")
    assert (code, warning["status"]) == (0, "warn")
    assert "1.0 GB in use" in warning["seen"]


def test_a_refused_notebook_does_not_start(run, simulated_driver):
    """Exit 3, no cell ran, and the record says what each GPU has."""
    simulated_driver.write(Device(uuid=FIRST, used_bytes=70 * GB))
    code, record, _ = run("print('never')", options=("--min-gpu-memory-gb", "40"))
    assert (code, record["status"]) == (3, "refused")
    assert "15.0 GB free" in record["reason"] or "14.9 GB free" in record["reason"]
    assert all(cell["status"] == "not-run" for cell in record["cells"])


def test_a_refused_optional_notebook_is_skipped(run, simulated_driver):
    """Exit 0 and the same reason."""
    simulated_driver.write(Device(uuid=FIRST, total_bytes=16 * GB))
    code, record, _ = run("1", options=("--min-gpu-memory-gb", "40", "--optional"))
    assert (code, record["status"]) == (0, "skipped")
    assert "too small" in record["reason"]


def test_a_run_waits_for_memory_that_others_free(tmp_path, simulated_driver):
    """With --wait the notebook starts when there is room, and the record says how long that took."""
    simulated_driver.write(Device(uuid=FIRST, used_bytes=79 * GB))
    source, out = notebooks.write(tmp_path / "n.ipynb", "print('at last')"), tmp_path / "out"
    options = ["--output-dir", out, "--no-html", "--min-gpu-memory-gb", "40", "--wait", "10m"]
    process = cli.start("run", source, *options, env=simulated_driver.env)
    cli.until(lambda: (out / "n.log").exists() and "gate-waits" in (out / "n.log").read_text(), "the wait")
    simulated_driver.write(Device(uuid=FIRST))
    _, err = process.communicate(timeout=cli.PATIENCE)
    assert process.returncode == 0, err
    record = cli.metrics(out, "n")
    assert record["status"] == "succeeded"
    assert record["gate"]["waited_seconds"] > 0
    assert record["gate"]["chosen"] == [FIRST]


def test_a_run_does_not_wait_for_a_gpu_that_is_too_small(run, simulated_driver):
    """No waiting makes it larger."""
    simulated_driver.write(Device(uuid=FIRST, total_bytes=16 * GB))
    code, record, _ = run("1", options=("--min-gpu-memory-gb", "40", "--wait", "10m"))
    assert (code, record["status"]) == (3, "refused")
    assert record["gate"]["waited_seconds"] == 0
    assert "too small" in record["reason"]


def test_the_kernel_sees_exactly_the_chosen_gpu(run, simulated_driver):
    """The first GPU is full, so the notebook gets the second, by UUID and in the order of the bus."""
    simulated_driver.write(Device(uuid=FIRST, used_bytes=79 * GB), Device(uuid=SECOND, pci="0:5b:0"))
    code, record, out = run(SHOW, options=("--min-gpu-memory-gb", "24"))
    assert (code, record["status"]) == (0, "succeeded")
    assert f"sees {SECOND} PCI_BUS_ID" in cli.text_of(cli.executed(out, "n"))
    assert [gpu["uuid"] for gpu in record["gpus"]] == [SECOND]


def test_visibility_all_leaves_the_variable_alone(run, simulated_driver):
    """With --gpu-visibility all the notebook sees what we see."""
    simulated_driver.write(Device(uuid=FIRST), Device(uuid=SECOND, pci="0:5b:0"))
    options = ("--min-gpus", "1", "--gpu-visibility", "all")
    code, _, out = run(SHOW, options=options, env={"CUDA_VISIBLE_DEVICES": "1,0"})
    assert code == 0
    assert "sees 1,0" in cli.text_of(cli.executed(out, "n"))


def write_plan(folder, **requires):
    """Write a plan of the notebook n.ipynb and return the options that use it."""
    plan = {"version": 1, "name": "p", "notebooks": [{"name": "n", "path": "n.ipynb", "requires": requires}]}
    (folder / "plan.yaml").write_text(json.dumps(plan))
    return ("--plan", folder / "plan.yaml")


@pytest.fixture
def planned(tmp_path, simulated_driver):
    """Give a function that runs cells as the notebook of a plan that asks for this."""

    def start(*cells, options=(), **requires):
        notebooks.write(tmp_path / "n.ipynb", *cells)
        out = tmp_path / "out"
        plan = write_plan(tmp_path, **requires)
        ended = cli.runner("run", "n", *plan, "--output-dir", out, "--no-html", *options, env=simulated_driver.env)
        return ended, cli.metrics(out, "n"), out

    return start


def test_a_kernel_that_was_given_no_gpu_sees_none(run, simulated_driver):
    """It may be another run's: the list is empty, which the log says with the reason."""
    simulated_driver.write(Device(uuid=FIRST))
    code, record, out = run(SHOW, options=(), env={"CUDA_VISIBLE_DEVICES": "0"})
    assert (code, record["gpus"]) == (0, [])
    assert "sees  None" in cli.text_of(cli.executed(out, "n"))
    (line,) = (line for line in (out / "n.log").read_text().splitlines() if "gpu-visibility" in line)
    assert 'CUDA_VISIBLE_DEVICES=""' in line
    assert "no GPU requested" in line


def test_visibility_all_shows_a_kernel_without_a_gpu_what_we_see(run, simulated_driver):
    """The way out for those who know: nothing is hidden, and the record says that nothing was measured."""
    simulated_driver.write(Device(uuid=FIRST))
    code, record, out = run(SHOW, options=("--gpu-visibility", "all"), env={"CUDA_VISIBLE_DEVICES": "0"})
    assert (code, record["gpus"], record["environment"]["gpu_visibility"]) == (0, [], "all")
    assert "sees 0 None" in cli.text_of(cli.executed(out, "n"))
    report = cli.runner("report", out)
    assert report.code == 0, report.err
    page = next((out / "reports").glob("*.html")).read_text()
    assert "none used" not in page
    assert "not measured: with --gpu-visibility all" in page


def test_a_gpu_that_the_plan_or_an_option_shows_by_itself_is_a_warning(run, simulated_driver):
    """The gate's choice stands, and the user reads what became of theirs."""
    simulated_driver.write(Device(uuid=FIRST))
    code, record, out = run(SHOW, options=("--env", "CUDA_VISIBLE_DEVICES=0"))
    assert code == 0
    assert "sees  None" in cli.text_of(cli.executed(out, "n"))
    assert any("CUDA_VISIBLE_DEVICES='0' was replaced" in warning for warning in record["warnings"])


def test_no_device_in_a_kernel_that_was_given_none_names_the_option(run, simulated_driver):
    """The commonest reason for that error is ours, so the hint says which option ends it."""
    simulated_driver.write(Device(uuid=FIRST))
    error = "raise RuntimeError('cudaErrorNoDevice: no CUDA-capable device is detected')"
    code, record, _ = run(error, options=())
    assert code == 1
    assert "--min-gpus 1" in record["failure"]["hint"]
    assert "was given no GPU" in record["failure"]["hint"]


def test_a_gpu_if_there_is_one_is_chosen_locked_and_measured(planned, simulated_driver):
    """`cpu_fallback` changes nothing where a GPU is good."""
    simulated_driver.write(Device(uuid=FIRST))
    ended, record, out = planned(SHOW, hold_source(FIRST, GB) + PAUSE, gpus=1, cpu_fallback=True)
    assert (ended.code, record["gate"]["chosen"]) == (0, [FIRST])
    assert f"sees {FIRST}" in cli.text_of(cli.executed(out, "n"))
    assert record["gpus"][0]["peak_gpu_memory_bytes"] == GB
    assert record["release"]["released"] is True


@pytest.mark.parametrize(
    ("devices", "errors", "word"),
    [
        ([], {}, "finds no GPU"),
        ([], {"nvmlInit*": "driver-not-loaded"}, "not loaded"),
        ([Device(uuid=FIRST, total_bytes=8 * GB)], {}, "too small"),
        ([Device(uuid=FIRST, compute_mode=2)], {}, "prohibited"),
    ],
)
def test_without_a_good_gpu_a_notebook_that_can_runs_on_the_cpu(planned, simulated_driver, devices, errors, word):
    """The gate passes with no GPU chosen and says why; the kernel sees none."""
    simulated_driver.write(*devices, errors=errors)
    ended, record, out = planned(SHOW, gpus=1, gpu_memory_gb=24, cpu_fallback=True)
    gate = record["gate"]
    assert (ended.code, record["status"], gate["passed"], gate["chosen"]) == (0, "succeeded", True, [])
    assert gate["reason"].startswith("runs on the CPU (cpu_fallback): ")
    assert word in gate["reason"]
    assert "sees  None" in cli.text_of(cli.executed(out, "n"))
    assert (record["gpus"], record["release"]["reason"]) == ([], "the run was given no GPU")


def test_the_fallback_is_of_gpus_alone_and_not_of_those_demanded(planned, simulated_driver):
    """Too little memory of the host is a refusal still; so is a GPU that the command line asks for."""
    simulated_driver.write()
    ended, record, _ = planned("1", gpus=1, cpu_fallback=True, memory_gb=10**6)
    assert (ended.code, record["status"]) == (3, "refused")
    ended, record, _ = planned("1", gpus=1, cpu_fallback=True, options=("--min-gpus", "1"))
    assert (ended.code, record["status"]) == (3, "refused")


def test_the_papermill_engine_never_changes_visibility(tmp_path, simulated_driver):
    """There nobody gated anything: the kernel sees what papermill saw."""
    simulated_driver.write(Device(uuid=FIRST))
    source = notebooks.write(tmp_path / "n.ipynb", SHOW)
    for given in ({}, {"CUDA_VISIBLE_DEVICES": "3"}):
        command = [sys.executable, "-m", "papermill", "--engine", "runner", str(source), str(tmp_path / "o.ipynb")]
        environ = {key: value for key, value in cli.environment().items() if key != "CUDA_VISIBLE_DEVICES"}
        subprocess.run(command, env=environ | given, check=True, capture_output=True, timeout=cli.PATIENCE)
        assert f"sees {given.get('CUDA_VISIBLE_DEVICES')} None" in (tmp_path / "o.ipynb").read_text()


GROW = """
import os, subprocess, time
with open(os.environ["SIMULATED_NVML"] + ".allocations", "a") as stream:
    stream.write("{uuid} {pid} {size}\\n")
time.sleep(1)
"""


@pytest.fixture
def neighbour():
    """Give the pid of a process that is none of a run's."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def grow(pid, size):
    """Return a cell during which another process takes so much of the first GPU."""
    return GROW.format(uuid=FIRST, pid=pid, size=size)


def test_what_nvml_attributes_to_a_neighbour_is_not_charged_to_the_notebook(run, simulated_driver, neighbour):
    """It grew by 5 GB while the notebook ran and stays: the run is released all the same."""
    simulated_driver.write(Device(uuid=FIRST, processes=[(neighbour, GB, "trainer")]))
    code, record, _ = run(
        hold_source(FIRST, 3 * GB) + grow(neighbour, 6 * GB), PAUSE, options=("--min-gpus", "1", "--strict-release")
    )
    assert (code, record["status"], record["release"]["released"]) == (0, "succeeded", True)
    assert f"trainer (pid {neighbour}, 6.0 GB)" in record["release"]["reason"]
    assert record["release"]["after_bytes"] == {FIRST: 6 * GB}
    assert [one["pid"] for one in record["gpus"][0]["neighbours"]] == [neighbour]
    assert any(f"others also used {FIRST}" in warning for warning in record["warnings"])


@pytest.mark.parametrize("seen", ["memory before the run", "a pid of the host", "it is busy"])
def test_what_cannot_be_attributed_is_no_failure_where_others_were_seen(run, simulated_driver, neighbour, seen):
    """In a container the list is empty or foreign: whose the memory is, cannot be attributed."""
    devices = {
        "memory before the run": Device(uuid=FIRST, used_bytes=GB),
        "a pid of the host": Device(uuid=FIRST, foreign=[(4_190_000, GB, "trainer")]),
        "it is busy": Device(uuid=FIRST, utilization_percent=70),
    }
    simulated_driver.write(devices[seen], hide_processes=seen != "a pid of the host")
    code, record, _ = run(grow(neighbour, 6 * GB), options=("--min-gpus", "1", "--strict-release"))
    if seen == "a pid of the host":  # one of this namespace joins them, and is named
        assert (code, record["release"]["released"]) == (0, True)
        return
    assert (code, record["status"], record["release"]["released"]) == (0, "succeeded", None)
    assert record["release"]["reason"].startswith("cannot be attributed")
    assert any("whether GPU memory was released is unknown" in warning for warning in record["warnings"])


def test_what_the_units_of_a_gpu_did_is_told_per_run_cell_and_over_time(run, simulated_driver):
    """By the counters of GPM: in the record, the samples, the table of cells and the chart."""
    simulated_driver.write(Device(uuid=FIRST, utilization_percent=80, activity={3: 42.5, 5: 7, 10: 61, 20: 2}))
    code, record, out = run("import time\ntime.sleep(3)", "print('done')")
    assert code == 0, record["reason"]
    told = {"sm_occupancy_percent": 42.5, "tensor_percent": 7, "dram_bandwidth_percent": 61}
    told["pcie_sent_bytes_per_second"] = 2 * 2**20
    assert record["gpus"][0]["activity"] == told
    assert record["cells"][0]["gpu_activity"] == told
    rows = list(csv.DictReader((out / "n.samples.csv").open()))
    read = [row for row in rows if row["gpu_sm_occupancy_percent"]]
    assert 1 <= len(read) < len(rows)
    assert {(row["gpu_tensor_percent"], row["gpu_pcie_sent_bytes_per_second"]) for row in read} == {("7", "2.0972e+06")}
    assert {row["gpu_fp64_percent"] for row in rows} == {""}
    page = Path(cli.runner("report", out).out.strip()).read_text()
    assert "42 % · 7.0 % · 61 %" in page
    assert 'data-series="GPU units, mean, SM occupancy"' in page


def test_a_gpu_without_such_counters_is_shown_as_before(run, simulated_driver):
    """Its utilisation alone, and the record says why."""
    simulated_driver.write(Device(uuid=FIRST, utilization_percent=80))
    _, record, out = run("1")
    assert record["gpus"][0]["activity"] == {}
    assert "before Hopper" in record["gpus"][0]["unavailable"]["activity"]
    page = Path(cli.runner("report", out).out.strip()).read_text()
    assert "SM, tensor, DRAM" not in page
    assert "GPU units" not in page


@pytest.mark.slow  # waits for the whole deadline of the release
def test_a_leak_beside_a_neighbour_that_did_not_grow_is_charged(run, simulated_driver, neighbour):
    """NVML attributes to the neighbour what it had before; the rest came with this run."""
    simulated_driver.write(Device(uuid=FIRST, processes=[(neighbour, GB, "trainer")]))
    code, record, _ = run(hold_source(FIRST, 5 * GB, pid="0"), options=("--min-gpus", "1", "--strict-release"))
    assert (code, record["release"]["released"]) == (8, False)


def test_memory_that_a_cell_takes_is_measured_and_proved_free(run, simulated_driver):
    """Peak per cell and run, energy above zero, and the end of the kernel frees the device."""
    simulated_driver.write(Device(uuid=FIRST, used_bytes=GB, utilization_percent=80, power_watts=300))
    code, record, out = run(PAUSE, hold_source(FIRST, 9 * GB) + PAUSE, "print('done')")
    assert (code, record["status"]) == (0, "succeeded")
    gpu = record["gpus"][0]
    assert (gpu["baseline_bytes"], gpu["peak_gpu_memory_bytes"]) == (GB, 10 * GB)
    assert (gpu["memory_api"], gpu["memory_source"]) == ("v2", "nvml")
    assert gpu["energy_joules"] > 0
    assert gpu["utilization_max_percent"] == 80
    assert record["cells"][0]["peak_gpu_memory_bytes"] == {FIRST: GB}
    assert record["cells"][1]["peak_gpu_memory_bytes"] == {FIRST: 10 * GB}
    assert record["release"]["released"] is True
    assert record["release"]["after_bytes"] == {FIRST: GB}
    rows = list(csv.DictReader((out / "n.samples.csv").open()))
    assert {row["gpu_uuid"] for row in rows} == {FIRST}
    assert str(10 * GB) in {row["gpu_memory_used_bytes"] for row in rows}


@pytest.mark.slow  # waits for the whole deadline of the release
@pytest.mark.parametrize(
    ("options", "code", "status"), [((), 0, "succeeded"), (("--strict-release",), 8, "not-released")]
)
def test_memory_that_stays_is_told(run, simulated_driver, options, code, status):
    """A warning with the figures, and exit 8 where release is demanded."""
    simulated_driver.write(Device(uuid=FIRST))
    ended, record, _ = run(hold_source(FIRST, 5 * GB, pid="0"), options=("--min-gpus", "1", *options))
    assert (ended, record["status"], record["release"]["released"]) == (code, status, False)
    assert "5.0 GB in use" in record["release"]["reason"]
    assert record["release"]["seconds"] >= 30
    assert f"not back after {format_seconds(record['release']['seconds'])}: " in record["release"]["reason"]
    assert record["release"]["after_bytes"] == {FIRST: 5 * GB}


def test_a_gpu_lost_in_the_run_ends_its_samples_and_not_the_notebook(run, simulated_driver):
    """The notebook goes on; the samples say when they ended, and nothing is called released."""
    simulated_driver.write(Device(uuid=FIRST))
    lose = (
        "import os, pathlib, time\n"
        "path = pathlib.Path(os.environ['SIMULATED_NVML'])\n"
        "part = path.with_suffix('.lost')\n"
        "part.write_text(path.read_text() + 'error * gpu-is-lost\\n')\n"
        "part.replace(path)\n"
        "time.sleep(1.5)\n"
    )
    code, record, _ = run(PAUSE, lose, "print('still here')")
    assert (code, record["status"]) == (0, "succeeded")
    assert "lost" in record["sampler"]["stopped"]
    assert record["release"]["released"] is None
    assert "lost" in record["release"]["reason"]


def test_a_mig_slice_runs_with_its_own_memory(run, simulated_driver):
    """Keyed by the slice's UUID; utilisation and energy are null with a reason."""
    simulated_driver.write(Device(uuid=FIRST, slices=[Slice(uuid="MIG-one", used_bytes=4 * GB), Slice(uuid="MIG-two")]))
    code, record, out = run(SHOW, hold_source("MIG-two", GB) + PAUSE, options=("--min-gpu-memory-gb", "4"))
    gpu = record["gpus"][0]
    assert (code, gpu["uuid"], gpu["mig"], gpu["peak_gpu_memory_bytes"]) == (0, "MIG-two", True, GB)
    assert "sees MIG-two" in cli.text_of(cli.executed(out, "n"))
    assert (gpu["utilization_mean_percent"], gpu["energy_joules"]) == (None, None)
    assert "not supported" in gpu["unavailable"]["energy_joules"]


def test_an_old_driver_is_enough(run, simulated_driver):
    """Without the newer functions the run is measured by what is there, and says which."""
    missing = ["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMigMode"]
    simulated_driver.write(Device(uuid=FIRST, reserved_bytes=0), without=missing, driver="410.104")
    code, record, _ = run(hold_source(FIRST, 3 * GB) + PAUSE)
    gpu = record["gpus"][0]
    assert (code, gpu["memory_api"], gpu["peak_gpu_memory_bytes"]) == (0, "v1", 3 * GB)
    assert record["release"]["released"] is True


def test_the_gpu_is_free_for_the_next_run(run, simulated_driver):
    """When a run has ended nobody holds its lock."""
    simulated_driver.write(Device(uuid=FIRST))
    assert run("1")[0] == 0
    assert gate(simulated_driver, "--min-gpus", "1")[0] == 0


def test_a_run_holds_its_gpu_while_it_lasts(tmp_path, simulated_driver):
    """A second run is refused and told whose GPU it is, though its memory is free."""
    simulated_driver.write(Device(uuid=FIRST))
    source = notebooks.write(tmp_path / "n.ipynb", "import time\nprint('begun', flush=True)\ntime.sleep(600)")
    options = ["--name", "01 long", "--output-dir", tmp_path / "out", "--min-gpus", "1"]
    process = cli.start("run", source, *options, env=simulated_driver.env)
    try:
        cli.until(lambda: gate(simulated_driver, "--min-gpus", "1")[0] == 3, "the lock")
        code, record = gate(simulated_driver, "--min-gpus", "1")
        assert code == 3
        assert "01 long" in record["reason"]
    finally:
        process.terminate()
        process.communicate(timeout=cli.PATIENCE)
    assert gate(simulated_driver, "--min-gpus", "1")[0] == 0
