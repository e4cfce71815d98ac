# SPDX-License-Identifier: Apache-2.0
"""`runner validate` as users call it: exit code, table, JSON, page, and what it says of GPUs."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from simdriver import Device, Slice
from support import cli, notebooks

GB = 10**9
HEALTHY = {
    "ecc": 1,
    "uncorrected": 0,
    "retired": 0,
    "remapped": 0,
    "throttle": 1,
    "persistence": 1,
    "slowdown": 87,
}


@pytest.fixture
def validate(tmp_path, monkeypatch):
    """Give a call of the command that returns exit code and checks by name."""
    for name in [name for name in os.environ if name.startswith("CUDA_")]:
        monkeypatch.delenv(name)

    def call(*arguments: object, env: dict[str, str] | None = None) -> tuple[int, dict[str, dict]]:
        ended = cli.runner("validate", "--json", *arguments, env=env, cwd=tmp_path)
        assert ended.out, ended.err
        document = json.loads(ended.out)
        return ended.code, {check["name"]: check for part in document["sections"] for check in part["checks"]}

    return call


@pytest.fixture
def plan(tmp_path):
    """Give a writer of plans with one notebook for each mapping of requirements."""

    def write(*notebooks_of_plan: dict, **more: object) -> Path:
        document = {"version": 1, "name": "test", "notebooks": list(notebooks_of_plan), **more}
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(document))
        return tmp_path / "plan.yaml"

    return write


def entry(name: str, **more: object) -> dict:
    return {"name": name, "path": f"{name}.ipynb", **more}


def test_a_machine_without_a_gpu_is_fit_with_a_warning(validate):
    """What needs no GPU runs there; that there is none is said with what to do."""
    code, checks = validate()
    assert code == 0
    assert checks["gpus"]["status"] == "warn"
    assert "--gpus all" in checks["gpus"]["hint"]
    assert checks["kernel python3"]["status"] == "pass"
    assert "answered" in checks["kernel python3"]["seen"]
    assert checks["outputs rename"]["status"] == "pass"


def test_a_missing_gpu_fails_what_asks_for_one(validate, plan):
    """By option and by plan: exit code 3."""
    assert validate("--min-gpus", 1)[0] == 3
    assert validate("--min-gpu-memory-gb", 24)[0] == 3
    code, checks = validate("--plan", plan(entry("a", requires={"gpus": 1})))
    assert code == 3
    assert checks["gpus"]["status"] == "fail"
    assert checks["gpus"]["needed"] == "1 or more"
    assert validate("--plan", plan(entry("a", requires={"gpus": 1}, optional=True)))[0] == 0


def test_a_healthy_gpu_passes_every_check(validate, simulated_driver):
    """Count, memory, errors, temperature, throttling, persistence."""
    simulated_driver.write(Device(health=HEALTHY))
    _, checks = validate("--min-gpus", 1, env=simulated_driver.environ())
    assert checks["gpus"]["seen"] == "1 visible: NVIDIA H100 80GB HBM3"
    told = {name: check for name, check in checks.items() if name.startswith("gpu 0")}
    assert set(told) == {
        f"gpu 0 {part}" for part in ("memory", "memory errors", "temperature", "throttling", "persistence")
    }
    assert {check["status"] for check in told.values()} == {"pass"}
    assert "84.9 GB free of 85.5 GB" in checks["gpu 0 memory"]["seen"]


@pytest.mark.parametrize(
    ("health", "check", "status", "seen"),
    [
        ({"uncorrected": 3}, "memory errors", "fail", "3 uncorrected errors"),
        ({"failed": 1}, "memory errors", "fail", "could not be remapped"),
        ({"pending": 1, "remapped": 2}, "memory errors", "warn", "2 remapped rows, remapping pending"),
        ({"retired": 4}, "memory errors", "pass", "4 retired pages"),
        ({"throttle": 0x48}, "throttling", "warn", "hardware slowdown, hardware thermal slowdown"),
        ({"throttle": 0x04}, "throttling", "pass", "none"),
        ({"persistence": 0}, "persistence", "warn", "off"),
        ({"slowdown": 36}, "temperature", "warn", "35 °C"),
    ],
)
def test_an_ailing_gpu_is_told_with_what_to_do(validate, simulated_driver, health, check, status, seen):
    """Failing memory fails; what costs speed warns; a power cap is everyday life."""
    simulated_driver.write(Device(health=HEALTHY | health))
    _, checks = validate(env=simulated_driver.environ())
    found = checks[f"gpu 0 {check}"]
    assert (found["status"], bool(found["hint"])) == (status, status != "pass")
    assert seen in found["seen"]


def test_what_a_gpu_does_not_tell_is_no_fault(validate, simulated_driver):
    """Consumer cards and old drivers leave questions open: pass, with the reason."""
    simulated_driver.write(Device(), without=("nvmlDeviceGetRemappedRows",))
    _, checks = validate(env=simulated_driver.environ())
    assert checks["gpu 0 throttling"]["status"] == "pass"
    assert "cannot be determined: not supported" in checks["gpu 0 throttling"]["seen"]
    assert checks["gpu 0 memory errors"]["status"] == "pass"


def test_a_mig_slice_tells_the_health_of_its_gpu(validate, simulated_driver):
    """Errors of the whole GPU count for its slice."""
    simulated_driver.write(Device(slices=[Slice()], health=HEALTHY | {"uncorrected": 1}))
    _, checks = validate(env=simulated_driver.environ())
    assert "a MIG slice" in checks["gpu 0 memory"]["seen"]
    assert checks["gpu 0 memory errors"]["status"] == "fail"


def test_each_notebook_is_compared_with_the_gpus(validate, simulated_driver, plan):
    """Too large and needed: fail. Too large and optional: warn. Held by others now: warn."""
    simulated_driver.write(Device(total_bytes=48 * GB, reserved_bytes=0, used_bytes=20 * GB))
    wants = plan(
        entry("small", requires={"gpu_memory_gb": 24}),
        entry("held", requires={"gpu_memory_gb": 40}),
        entry("large", requires={"gpu_memory_gb": 80}, optional=True),
    )
    code, checks = validate("--plan", wants, env=simulated_driver.environ())
    assert {name: checks[f"for {name}"]["status"] for name in ("small", "held", "large")} == {
        "small": "pass",
        "held": "warn",
        "large": "warn",
    }
    assert "--wait" in checks["for held"]["hint"]
    assert "skipped" in checks["for large"]["hint"]
    needed = plan(entry("large", requires={"gpu_memory_gb": 80}))
    code, checks = validate("--plan", needed, env=simulated_driver.environ())
    assert code == 3
    assert checks["for large"]["status"] == "fail"


def test_a_notebook_that_can_do_without_a_gpu_needs_none(validate, simulated_driver, plan):
    """With cpu_fallback a machine without a good GPU is a warning that says what will happen."""
    wants = plan(entry("either", requires={"gpus": 1, "gpu_memory_gb": 80, "cpu_fallback": True}))
    simulated_driver.write(Device(total_bytes=16 * GB))
    _, checks = validate("--plan", wants, env=simulated_driver.environ())
    failed = {name for name, check in checks.items() if check["status"] == "fail"}
    assert failed <= {"libcuda"}  # the simulated driver has none
    assert checks["for either"]["status"] == "warn"
    assert "it will run on the CPU" in checks["for either"]["hint"]


def test_the_compute_mode_is_told_unless_it_is_the_default(validate, simulated_driver):
    """A GPU that no program may use fails the check, an exclusive one is a warning."""
    simulated_driver.write(Device(compute_mode=2), Device(uuid="GPU-b", pci="0:5b:0", compute_mode=3))
    code, checks = validate(env=simulated_driver.environ())
    assert (code, checks["gpu 0 compute mode"]["status"], checks["gpu 1 compute mode"]["status"]) == (3, "fail", "warn")


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        ("driver-not-loaded", "is not loaded"),
        ("version-mismatch", "different versions"),
        ("unknown", "cannot be initialised"),
    ],
)
def test_a_broken_driver_is_told_apart_from_none(validate, simulated_driver, error, seen):
    """A driver that is there and does not work fails even where nothing asks for a GPU."""
    simulated_driver.write(Device(), errors={"nvmlInit*": error})
    code, checks = validate(env=simulated_driver.environ())
    assert seen in checks["gpus"]["seen"]
    assert code == (0 if error == "driver-not-loaded" else 3)


def test_the_imports_of_the_plan_are_looked_for(validate, plan, tmp_path):
    """Missing ones fail with their notebooks; those beside the notebook, optional ones and the library's do not."""
    notebooks.write(tmp_path / "a.ipynb", "import yaml, os\nimport no_such_module.part\nimport helper")
    notebooks.write(tmp_path / "b.ipynb", "%matplotlib inline\ntry:\n    import perhaps\nexcept ImportError:\n    pass")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "helper.py").write_text("")
    code, checks = validate("--plan", plan(entry("a"), entry("b"), entry("c")))
    assert code == 3
    imports = {name.removeprefix("import "): check for name, check in checks.items() if name.startswith("import ")}
    assert set(imports) == {"yaml", "no_such_module"}
    assert imports["yaml"]["status"] == "pass"
    assert (imports["no_such_module"]["seen"], imports["no_such_module"]["needed"]) == ("not installed", "by a")
    assert checks["notebooks"]["status"] == "warn"
    assert "2 of 3 notebooks read" in checks["notebooks"]["seen"]


def test_the_needs_of_the_host_are_compared(validate, plan):
    """More than this machine has: fail for a notebook that must run, warn for an optional one."""
    code, checks = validate("--plan", plan(entry("a", requires={"memory_gb": 900_000})))
    assert (code, checks["memory for the plan"]["status"]) == (3, "fail")
    code, checks = validate("--plan", plan(entry("a", requires={"cpus": 100_000}, optional=True)))
    assert (code, checks["cpus for the plan"]["status"]) == (0, "warn")
    assert "will be skipped" in checks["cpus for the plan"]["hint"]


def test_a_kernel_that_is_not_installed_is_told(validate):
    """The message lists those that are."""
    code, checks = validate("--kernel", "cobol")
    assert code == 3
    assert "python3" in checks["kernel cobol"]["seen"]


def test_files_are_left_where_they_were_asked_for(validate, tmp_path):
    """JSON and page in the reports folder; without the option nothing is left."""
    validate()
    assert list(tmp_path.iterdir()) == []
    validate("--output-dir", tmp_path / "out")
    reports = tmp_path / "out" / "reports"
    assert {path.name for path in reports.iterdir()} == {"system_validation.json", "system_validation.html"}
    document = json.loads((reports / "system_validation.json").read_text())
    assert document["schema_version"] == 1
    assert document["verdict"] in {"pass", "warn"}
    assert document["counts"]["fail"] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"reports"}


def test_the_page_needs_no_network_and_escapes_what_it_shows(tmp_path):
    """A name from a plan is shown as text; no script, no link to elsewhere."""
    plan = tmp_path / "plan.yaml"
    name = "<script>alert(1)</script>"
    plan.write_text(yaml.safe_dump({"version": 1, "name": "p", "notebooks": [entry("a", kernel=name)]}))
    cli.runner("validate", "--plan", plan, "--output-dir", tmp_path / "out", cwd=tmp_path)
    text = (tmp_path / "out" / "reports" / "system_validation.html").read_text()
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(text)
    assert "script" not in tags
    assert not {"img", "link", "iframe"} & set(tags)
    assert "&lt;script&gt;" in text
    assert "Content-Security-Policy" in text


def test_a_log_gets_plain_lines_and_the_verdict_last(tmp_path):
    """One line a check, whatever the width of a terminal that is not there."""
    ended = cli.runner("validate", cwd=tmp_path)
    lines = ended.out.splitlines()
    assert ended.code == 0
    assert all(line[:4].strip() in {"pass", "warn", "fail"} for line in lines[:-1])
    assert lines[-1].startswith("validate: ")


def test_options_come_from_the_environment(validate):
    """As RUNNER_VALIDATE_*, and an empty variable means not given."""
    environ = {**os.environ, "RUNNER_VALIDATE_MIN_GPUS": "1", "RUNNER_VALIDATE_PLAN": ""}
    assert validate(env=environ)[0] == 3
