# SPDX-License-Identifier: Apache-2.0
"""The real command line on simulated GPUs: what it takes, what it measures, what it proves."""

from __future__ import annotations

import csv
import json

import pytest
from simdriver import Device, Slice, hold_source
from support import cli, notebooks

from runner.units import format_seconds

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
