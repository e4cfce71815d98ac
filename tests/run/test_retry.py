# SPDX-License-Identifier: Apache-2.0
"""A retry repeats a verdict that would be the same again, and runs what the machine took away."""

from __future__ import annotations

import dataclasses

import pytest
from support import cli, notebooks

from runner.core.records import Gate, GateGpu, Metrics, Requirements, Source, Status, to_json
from runner.run.resume import worth_a_retry

ASKED = Requirements(gpus=1, gpu_memory_gb=24)


def record(status, **more):
    """Return the record of an ended run."""
    return Metrics(
        notebook="a",
        source=Source(path="a.ipynb"),
        run_id="r",
        status=status,
        reason="it ended so",
        exit_code=1,
        started_at="2026-11-01T00:00:00.000Z",
        ended_at="2026-11-01T00:01:00.000Z",
        wall_seconds=60.0,
        **more,
    )


def gate(total_gb, free_gb, asked=ASKED):
    gpu = GateGpu(
        uuid="GPU-1",
        index=0,
        name="card",
        total_bytes=int(total_gb * 1e9),
        free_bytes=int(free_gb * 1e9),
        good=False,
        reason="",
    )
    return Gate(passed=False, reason="too little", asked=asked, gpus=(gpu,))


@pytest.mark.parametrize(
    ("found", "worth"),
    [
        (record(Status.LOST), True),
        (record(Status.TERMINATED), True),
        (record(Status.REFUSED, gate=gate(24, 3)), True),
        (record(Status.REFUSED, gate=gate(16, 16)), False),
        (record(Status.REFUSED, gate=gate(24, 3, Requirements(gpus=2, gpu_memory_gb=24))), False),
        (record(Status.REFUSED), False),
        *((record(status), False) for status in (Status.SUCCEEDED, Status.SKIPPED, Status.FAILED, Status.TIMED_OUT)),
        *((record(status), False) for status in (Status.KERNEL_DIED, Status.BROKEN_INPUT, Status.UNEXPECTED_RESULTS)),
    ],
)
def test_what_is_worth_a_retry(found, worth):
    """What the machine took away or a neighbour held; nothing that the notebook or its limits decided."""
    assert worth_a_retry(found) is worth


def run(tmp_path, *arguments, run_id="r"):
    given = ["run", tmp_path / "a.ipynb", "--output-dir", tmp_path / "out", "--run-id", run_id, "--no-html"]
    return cli.runner(*given, "--results-dir", tmp_path / "results", *arguments)


def test_a_retry_repeats_the_verdict_at_once(tmp_path):
    """With the exit code and Tekton's results; another run of that name, or a first try, runs."""
    mark = tmp_path / "mark"
    notebooks.write(tmp_path / "a.ipynb", f"open({str(mark)!r}, 'a').write('x')", "1 / 0")
    assert run(tmp_path).code == 1
    (tmp_path / "results" / "status").unlink()
    assert run(tmp_path, "--retry-count", "1").code == 1
    assert (tmp_path / "results" / "status").read_text() == "failed"
    assert mark.read_text() == "x"
    assert run(tmp_path, "--retry-count", "1", run_id="another").code == 1
    assert mark.read_text() == "xx"


def test_a_retry_runs_what_was_lost(tmp_path):
    """A record that is not final is of a Pod that went away."""
    notebooks.write(tmp_path / "a.ipynb", "1")
    lost = dataclasses.replace(record(Status.SUCCEEDED), provisional=True, stage="release")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.metrics.json").write_text(to_json(lost))
    assert run(tmp_path, "--retry-count", "2").code == 0
    assert cli.metrics(tmp_path / "out", "a")["wall_seconds"] < 60
