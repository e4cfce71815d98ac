# SPDX-License-Identifier: Apache-2.0
"""`runner plan tune`: requirements follow measured usage; unknown ones are unchanged."""

from __future__ import annotations

import dataclasses
import json

from support import cli, records

from runner.core.records import Status
from runner.core.trials import Attempt, Fit, keep
from runner.plan.model import load

PLAN = """\
version: 1
name: p
notebooks:
  - {name: a, path: a.ipynb, requires: {gpus: 1, gpu_memory_gb: 80}}   # too much
  - name: s
    path: s.ipynb
    matrix: {k: [1, 2]}
    timeout: 6h
  - {name: failed, path: f.ipynb, timeout: 1h}
  - {name: pooled, path: p.ipynb, requires: {gpus: 1, gpu_memory_gb: 48}}
"""


def planned(tmp_path):
    plan, outputs = tmp_path / "plan.yaml", tmp_path / "outputs"
    plan.write_text(PLAN)
    records.leave(outputs, records.metrics("a", wall=240))
    for k, wall in ((1, 100), (2, 3700)):
        records.leave(outputs, records.metrics(f"s-{k}", wall=wall, gpus=0))
    records.leave(outputs, records.metrics("failed", status=Status.FAILED, failed_cell=2))
    pooled = records.metrics("pooled")
    unknown = dataclasses.replace(pooled.gpus[0], need_bytes=None, unavailable={"need_bytes": "no allocator told"})
    records.leave(outputs, dataclasses.replace(pooled, gpus=(unknown,)))
    return plan, outputs


def test_a_plan_is_tuned_and_its_comments_stay(tmp_path):
    """Gate by the need, a sweep by its largest combination; without a success or a need nothing is claimed."""
    plan, outputs = planned(tmp_path)
    shown = cli.runner("plan", "tune", plan, "--from", outputs)
    assert shown.code == 0, shown.err
    assert plan.read_text() == PLAN
    assert "a: gpu_memory_gb 80 -> 16 (need 8.6 GB)" in shown.out
    assert "failed: unchanged, no success in" in shown.out
    assert "pooled: unchanged, gpu_memory_gb: no allocator told" in shown.out
    written = cli.runner("plan", "tune", plan, "--from", outputs, "--write", "--json")
    assert written.code == 0, written.err
    answer = json.loads(written.out)
    assert answer["written"] is True
    assert "# too much" in plan.read_text()
    assert f"{answer['margins']}\nnotebooks:" in plan.read_text()
    tuned = {one.name: one for one in load(plan).notebooks}
    assert tuned["a"].requires.gpu_memory_gb == 16
    assert tuned["a"].timeout == 900  # three times four minutes, and at least ten
    assert tuned["s-1"].timeout == tuned["s-2"].timeout == 11100
    assert tuned["s-1"].requires.gpu_memory_gb is None
    assert (tuned["failed"].timeout, tuned["pooled"].requires.gpu_memory_gb) == (3600, 48)
    assert tuned["a"].requires.memory_gb * 1e9 >= 1.25 * records.metrics("a").host.peak_memory_bytes
    assert 1 <= tuned["a"].requires.cpus <= 4  # the samples are of 0.6 to 3.6 cores
    again = cli.runner("plan", "tune", plan, "--from", outputs, "--json")
    assert json.loads(again.out)["changes"] == []


def test_a_card_that_fit_proved_goes_before_an_estimate(tmp_path):
    """Only for the same source and parameters."""
    plan, outputs = planned(tmp_path)
    record = records.metrics("pooled")
    attempt = Attempt(card_gb=24, left_bytes=0, status="succeeded", wall_seconds=1204)
    work = {"source_sha256": record.source.sha256, "parameters": record.environment.parameters}
    fit = Fit(notebook="pooled", gpu="H100", attempts=(attempt,), **work)
    keep(outputs / "pooled.fit.json", fit)
    keep(outputs / "a.fit.json", dataclasses.replace(fit, notebook="a", source_sha256="0" * 64))
    shown = cli.runner("plan", "tune", plan, "--from", outputs)
    assert "pooled: gpu_memory_gb 48 -> 24 (proved by fit: 20m04s)" in shown.out
    assert "a: gpu_memory_gb 80 -> 16 (need 8.6 GB)" in shown.out
