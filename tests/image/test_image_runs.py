# SPDX-License-Identifier: Apache-2.0
"""Containers, locked up as a cluster would, do what the same commands do on a laptop."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from support import notebooks

from . import engine as engines

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

CANARY = yaml.safe_load((engines.ROOT / "images" / "canary.yaml").read_text())
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z [a-z-]+( |$)")
ANSWER_LINE = re.compile(r"(\d+ notebooks, |report: |\d\d_\w+: succeeded in )")
SLEEP = "import time\nfor second in range(600):\n    print(second, flush=True)\n    time.sleep(1)"
EAT = "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'x') * 8_000_000)\n    time.sleep(0.05)"


def mount(workspace: Path) -> str:
    return f"--volume={workspace}:/workspace"


def metrics(workspace: Path, name: str) -> dict:
    return json.loads((workspace / "outputs" / f"{name}.metrics.json").read_text())


def log_of(engine, container: str) -> str:
    done = engine.call("logs", container)
    return done.stdout + done.stderr


@pytest.fixture
def start(engine, workspace):
    """Start containers in the background; they are removed at the end, however the test ends."""
    names = []

    def starter(image: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
        name = f"runner-test-{time.monotonic_ns()}"
        names.append(name)
        engine.call("run", "--detach", "--name", name, *engines.HARDENED, mount(workspace), *options, image, *arguments)
        return name

    yield starter
    for name in names:
        engine.call("kill", name, check=False)
        engine.call("rm", "--force", name, check=False)


@pytest.mark.slow
def test_the_demo_is_green_in_a_locked_up_container(engine, workspace, start, cpu_image):
    """Read-only root, no capability, no network, a uid nobody knows: three successes and a log without surprises."""
    name = start(cpu_image, "demo", options=("--user=54321",))
    code = engine.call("wait", name, seconds=900).stdout.strip()
    log = log_of(engine, name)
    assert code == "0", log[-3000:]

    summary = json.loads((workspace / "outputs" / "reports" / "summary.json").read_text())
    assert summary["verdict"] == "succeeded"
    assert [one["status"] for one in summary["notebooks"]] == ["succeeded"] * 3
    odd = [line for line in log.splitlines() if line and not LOG_LINE.match(line) and not ANSWER_LINE.match(line)]
    assert odd == []
    assert "level=warning" not in log
    owners = {path.stat().st_uid for path in (workspace / "outputs").rglob("*")}
    assert owners == {54321}
    assert metrics(workspace, "01_quality_and_pca")["environment"]["image"] == "localhost/runner-test/cpu:test"


@pytest.mark.slow
def test_the_oldest_generation_runs_the_demo(engine, debian, workspace, start, tmp_path):
    """Its packages are of 2025, as its base is: the runner works with them, not just with today's."""
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("ARG BASE_IMAGE=\nFROM ${BASE_IMAGE}\nUSER 0\nRUN python3 -m venv /opt/conda\n")
    engine.build(f"{engines.RAPIDS}-bare", debian, dockerfile=dockerfile)
    engine.build(f"{engines.GPU}-g1", f"{engines.RAPIDS}-bare", "--target=gpu", "--build-arg=GENERATION=g1")
    name = start(f"{engines.GPU}-g1", "demo", options=("--user=54321",))
    code = engine.call("wait", name, seconds=900).stdout.strip()
    log = log_of(engine, name)
    assert code == "0", log[-3000:]
    assert "level=warning" not in log


def test_any_uid_runs_a_notebook_with_the_python_of_rapids(engine, workspace, start, gpu_image):
    """A uid that is in no group sees /opt/conda, which RAPIDS closes, and writes its outputs."""
    notebooks.write(workspace / "where.ipynb", "import sys\nassert sys.prefix == '/opt/conda', sys.prefix")
    name = start(gpu_image, "run", "where.ipynb", options=("--user=54321:54321",))
    code = engine.call("wait", name, seconds=300).stdout.strip()
    assert code == "0", log_of(engine, name)[-3000:]
    assert (workspace / "outputs" / "where.html").stat().st_uid == 54321


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_every_probe_of_the_canary_list_passes(request, engine, start, target):
    """What the images promise, one command each."""
    name = start(request.getfixturevalue(f"{target}_image"), "600", options=("--entrypoint=sleep",))
    failed = {}
    for check in CANARY["checks"]:
        if target in check.get("targets", ["cpu", "gpu"]):
            done = engine.call("exec", name, *check["probe"]["exec"]["command"], check=False)
            if done.returncode != 0:
                failed[check["name"]] = (done.returncode, done.stdout[-800:], done.stderr[-800:])
    assert failed == {}


def test_help_needs_nothing(engine, cpu_image):
    """`docker run IMAGE` alone says what there is."""
    done = engine.run(cpu_image, options=(*engines.HARDENED,))
    assert "run-all" in done.stdout
    assert "validate" in done.stdout


def test_sigterm_saves_what_there_is(engine, workspace, start, cpu_image):
    """`docker stop` ends as terminated with notebook and metrics saved, well before the kill."""
    notebooks.write(workspace / "long.ipynb", "print('before')", SLEEP)
    name = start(cpu_image, "run", "long.ipynb")
    wait_for(lambda: log_of(engine, name).count("cell-start") == 2)
    engine.call("stop", "--time=60", name)

    state = engine.inspect(name)["State"]
    assert state["ExitCode"] == 143
    record = metrics(workspace, "long")
    assert record["status"] == "terminated"
    assert [cell["status"] for cell in record["cells"]] == ["succeeded", "interrupted"]
    saved = json.loads((workspace / "outputs" / "long.executed.ipynb").read_text())
    assert "before" in json.dumps(saved)


def test_a_held_notebook_is_repaired_from_outside(engine, workspace, start, cpu_image):
    """`docker exec`, as `kubectl exec` on a cluster, reaches the kernel that waits; the run goes on and succeeds."""
    count = "runs = pathlib.Path('/workspace/runs')\nwith runs.open('a') as file: file.write('x')"
    notebooks.write(workspace / "held.ipynb", f"import pathlib\n{count}", "print(pathlib.Path('there').read_text())")
    name = start(cpu_image, "run", "held.ipynb", "--on-failure", "hold=10m")
    wait_for(lambda: " held " in log_of(engine, name))
    refused = engine.call("exec", name, "runner", "repair", "held", "--retry", check=False)
    assert refused.returncode == 1, refused.stderr  # held again: the cause is still there
    assert "No such file" in refused.stdout + refused.stderr

    (workspace / "there").write_text("repaired")
    engine.call("exec", name, "runner", "repair", "held", "--retry")
    assert engine.call("wait", name, seconds=60).stdout.strip() == "0", log_of(engine, name)[-3000:]
    record = metrics(workspace, "held")
    assert (record["status"], record["repaired"]) == ("succeeded", True)
    assert (workspace / "runs").read_text() == "x"


def test_a_memory_limit_ends_as_kernel_died_with_a_record(engine, workspace, start, cpu_image):
    """The guard acts before the container's limit does, and names the cause."""
    notebooks.write(workspace / "eats.ipynb", "print('before')", EAT)
    name = start(cpu_image, "run", "eats.ipynb", options=("--memory=500m", "--memory-swap=500m"))
    code = engine.call("wait", name, seconds=300).stdout.strip()
    assert code == "5", log_of(engine, name)[-3000:]

    record = metrics(workspace, "eats")
    assert (record["status"], record["failure"]["cause"]) == ("kernel-died", "host-memory")
    assert [cell["status"] for cell in record["cells"]] == ["succeeded", "interrupted"]


def test_validate_says_why_a_volume_cannot_be_written(engine, workspace, cpu_image):
    """A volume of root is told apart, with uid and what to set; the exit code is the documented one."""
    workspace.chmod(0o755)
    done = engine.run(
        cpu_image, "validate", "--json", options=(*engines.HARDENED, mount(workspace), "--user=1001"), check=False
    )
    assert done.returncode == 3
    checks = {check["name"]: check for section in json.loads(done.stdout)["sections"] for check in section["checks"]}
    assert checks["outputs writable"]["status"] == "fail"
    assert "uid 1001" in checks["outputs writable"]["seen"]
    assert "fsGroup" in checks["outputs writable"]["hint"]


def test_validate_sees_the_limits_of_the_container(engine, cpu_image):
    """Memory and CPUs are the container's, not the machine's."""
    options = (*engines.HARDENED, "--memory=600m", "--memory-swap=600m", "--tmpfs=/workspace:rw,mode=1777")
    done = engine.run(cpu_image, "validate", "--json", options=options)
    checks = {check["name"]: check for section in json.loads(done.stdout)["sections"] for check in section["checks"]}
    assert checks["memory"]["seen"].startswith("629.1 MB (cgroup-v")
    assert "the memory guard acts first" in checks["out of memory"]["seen"]
    assert "answered in" in checks["kernel python3"]["seen"]


def wait_for(condition, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
