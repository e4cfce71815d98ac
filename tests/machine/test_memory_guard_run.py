# SPDX-License-Identifier: Apache-2.0
"""A notebook that fills its container is ended before the container is, and everything is saved."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import cli, notebooks

from runner.machine import cgroups

LIMIT = 800 << 20
EAT = (
    "print('begun', flush=True)\nimport time\nblocks = []\n"
    "while True:\n    blocks.append(b'x' * (8 << 20))\n    time.sleep(0.05)"
)
READ = (
    "for _ in range(2):\n    with open({path!r}, 'rb', 0) as stream:\n"
    "        while stream.read(1 << 20):\n            pass\nprint('read')"
)

Limited = Callable[..., cli.Ended]


@pytest.fixture
def limited() -> Iterator[Limited]:
    """Give a function that runs the command line under a real memory limit of 800 MiB."""
    ancestry = cgroups.find(Path("/"), "self", "memory")
    if ancestry.version != 1 or not os.access(ancestry.levels[0].directory, os.W_OK):
        pytest.skip("needs a memory cgroup of version 1 that we may write; version 2 is simulated in test_guard")
    group = ancestry.levels[0].directory / f"guard-run-{uuid.uuid4().hex}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"no memory limit can be set here: {error}")

    def run(*arguments: object) -> cli.Ended:
        enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
        done = subprocess.run(
            [*enter, *cli.RUNNER, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=cli.environment(),
            timeout=cli.PATIENCE,
            check=False,
        )
        return cli.Ended(done.returncode, done.stdout, done.stderr)

    yield run
    deadline = time.monotonic() + cli.PATIENCE
    while group.exists() and time.monotonic() < deadline:
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)


@pytest.mark.slow
def test_a_kernel_that_fills_the_container_is_ended_first(tmp_path: Path, limited: Limited) -> None:
    """The guard acts, the OOM killer does not, and notebook, page and metrics tell it."""
    source = notebooks.write(tmp_path / "n.ipynb", "print('first')", EAT, "print('never')")

    ended = limited("run", source, "--output-dir", tmp_path / "out", "--results-dir", tmp_path / "results")

    assert ended.code == 5, ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert record["status"] == "kernel-died"
    assert "the memory guard ended the kernel in cell 2" in record["reason"]
    assert (record["failure"]["cause"], record["failure"]["signal"]) == ("host-memory", "SIGKILL")
    assert "load less at once" in record["failure"]["hint"]
    assert [cell["status"] for cell in record["cells"]] == ["succeeded", "interrupted", "not-run"]
    guard = record["host"]["guard"]
    assert guard["limit_bytes"] == LIMIT
    assert 0.5 * LIMIT < guard["acted_at_bytes"] <= LIMIT
    assert record["host"]["oom_kills"] == 0
    assert record["host"]["peak_memory_bytes"] > 0.2 * LIMIT
    assert {"first", "begun"} <= set(cli.text_of(cli.executed(tmp_path / "out", "n")).split())
    assert "kernel-died" in (tmp_path / "out" / "n.html").read_text()
    assert (tmp_path / "results" / "status").read_text() == "kernel-died"


@pytest.mark.slow
def test_an_eater_that_left_the_kernel_is_ended_as_well(tmp_path: Path, limited: Limited) -> None:
    """In a session and with an environment of its own it is still the run's, and the OOM killer has no work."""
    start = (
        "import subprocess, sys\n"
        f"eater = subprocess.Popen([sys.executable, '-c', {EAT!r}], start_new_session=True, env={{}})\n"
        "print('begun', flush=True)\neater.wait()"
    )
    source = notebooks.write(tmp_path / "n.ipynb", start)

    ended = limited("run", source, "--output-dir", tmp_path / "out", "--no-html")

    assert ended.code == 5, ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert "the memory guard ended the kernel in cell 1" in record["reason"]
    assert record["host"]["oom_kills"] == 0
    assert record["release"]["swept"] == []  # it was gone before the sweep


@pytest.mark.slow
def test_a_kernel_that_reads_a_large_file_again_and_again_is_left_alone(tmp_path: Path, limited: Limited) -> None:
    """File cache fills the container to its limit, and that is nothing to act on."""
    large = tmp_path / "large"
    large.write_bytes(b"")
    os.truncate(large, 2 * LIMIT)
    source = notebooks.write(tmp_path / "n.ipynb", READ.format(path=str(large)))

    ended = limited("run", source, "--output-dir", tmp_path / "out", "--no-html")

    assert ended.code == 0, ended.err
    record = cli.metrics(tmp_path / "out", "n")
    guard = record["host"]["guard"]
    assert guard["acted_at_bytes"] is None
    assert guard["peak_unreclaimable_bytes"] < 0.6 * LIMIT
    if record["host"]["container_peak_memory_bytes"] < 0.9 * LIMIT:
        pytest.skip("the file system of the temporary folder keeps no file cache that is charged to us")


@pytest.mark.slow
def test_without_the_guard_the_host_ends_the_kernel_and_that_is_told(tmp_path: Path, limited: Limited) -> None:
    """With --memory-guard 0 the OOM killer takes the largest process, and its count names the cause."""
    protect = "open('/proc/self/oom_score_adj', 'w').write('1000')"
    source = notebooks.write(tmp_path / "n.ipynb", protect, EAT)

    ended = limited("run", source, "--output-dir", tmp_path / "out", "--no-html", "--memory-guard", "0")

    assert ended.code == 5, ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert "killed by the host's OOM killer in cell 2" in record["reason"]
    assert (record["failure"]["cause"], record["failure"]["signal"]) == ("host-memory", "SIGKILL")
    assert record["host"]["oom_kills"] >= 1
    assert "switched off" in record["host"]["guard"]["unavailable"]["peak_unreclaimable_bytes"]
