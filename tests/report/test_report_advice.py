# SPDX-License-Identifier: Apache-2.0
"""Advice is given only if figures justify it, and shows them."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import numpy as np
import pytest
from support import records as made

from runner.core.records import Failure, Status
from runner.core.trials import Attempt, Estimate, Fit, Forecast, keep
from runner.report.advice import advise, depths
from runner.report.assemble import assemble
from runner.report.folder import read_folder
from runner.report.html.drawings import draw
from runner.report.html.timeline import direct_needs
from runner.report.sample_series import GpuSamples, Samples, find_pools
from runner.report.summary import summarize

GB = 10**9


def advice_on(folder, plan=None):
    report = assemble(read_folder(folder, watch=lambda paths, seconds: {}), plan=plan)
    drawn = draw(report, folder)
    assert drawn.problems == ()
    return {line.kind: line for line in advise(report, summarize(report), drawn.rows, drawn.pools)}


def record(name="a", *, asked_gb=15.0, need=8 * GB, peak=9 * GB, busy=200.0, host_peak=12 * GB, **changes):
    plain = made.metrics(name, **changes)
    gpu = dataclasses.replace(plain.gpus[0], need_bytes=need, peak_gpu_memory_bytes=peak, busy_seconds=busy)
    if need is None:
        gpu = dataclasses.replace(gpu, allocated=None)
    return dataclasses.replace(
        plain,
        gpus=(gpu,),
        gate=made.gate(1, asked_gb=asked_gb),
        host=dataclasses.replace(plain.host, peak_memory_bytes=host_peak),
    )


def test_a_run_that_fits_gets_no_advice(tmp_path):
    """No advice if gate, GPU and host fit."""
    made.leave(tmp_path, record())
    assert advice_on(tmp_path) == {}


@pytest.mark.parametrize(
    ("asked", "need", "kind", "card"),
    [
        (80.0, 8 * GB, "gate too high", "16 GB"),
        (15.0, 20 * GB, "gate too low", "24 GB"),
        (None, 8 * GB, "no gate", "16 GB"),
    ],
)
def test_gate_is_compared_with_the_need(tmp_path, asked, need, kind, card):
    """A gate far from the need is named with both figures and the card that holds it."""
    made.leave(tmp_path, record(asked_gb=asked, need=need))
    line = advice_on(tmp_path)[kind]
    assert card in line.text
    assert f"need {need / GB:.1f} GB" in line.figures


@pytest.mark.parametrize(
    ("asked", "kind", "word"),
    [
        (80.0, "gate too high", "rejects cards that would suffice"),
        (15.0, "gate too low", "not proved"),
        (None, "no gate", "request 24 GB"),
        (24.0, None, ""),
    ],
)
def test_gate_is_compared_with_the_card_that_was_proved(tmp_path, asked, kind, word):
    """Whatever the need makes likely; a proof of other parameters, or half a file, is none."""
    plain = record(asked_gb=asked, need=8 * GB)
    work = {"source_sha256": plain.source.sha256, "parameters": plain.environment.parameters}
    attempts = tuple(
        Attempt(card_gb=card, left_bytes=0, status=status, wall_seconds=1204)
        for card, status in ((16, "failed"), (24, "succeeded"))
    )
    fit = Fit(notebook="a", gpu="H100", attempts=attempts, **work)
    made.leave(tmp_path, plain)
    estimated = advice_on(tmp_path)
    keep(tmp_path / "a.fit.json", fit)
    found = advice_on(tmp_path)
    assert set(found) == ({kind} if kind else set())
    for line in found.values():
        assert word in line.text
        assert "proved on 24 GB by fit: 20m04s" in line.figures
    keep(tmp_path / "a.fit.json", dataclasses.replace(fit, parameters={"n_top_genes": 3000}))
    assert advice_on(tmp_path) == estimated
    (tmp_path / "a.fit.json").write_text('{"notebook": "a"')
    assert advice_on(tmp_path) == estimated


@pytest.mark.parametrize(("size", "asked", "said"), [(4000, 15.0, True), (4000, 48.0, False), (1000, 15.0, False)])
def test_a_larger_input_that_was_forecast_needs_a_larger_gate(tmp_path, size, asked, said):
    """Unless the gate is high enough, or the run was of that size."""
    plain = record(asked_gb=asked)
    peak = Estimate(value=30 * GB, low=28 * GB, high=33 * GB)
    forecast = Forecast(
        notebook="a",
        parameter="n_top_genes",
        size=size,
        measured=(250.0, 500.0, 1000.0),
        seconds=peak,
        cells=(),
        gpu_bytes=peak,
        largest={24: 3000.0, 80: None},
        source_sha256=plain.source.sha256,
    )
    made.leave(tmp_path, plain)
    keep(tmp_path / "a.forecast.json", forecast)
    line = advice_on(tmp_path).get("larger input")
    assert (line is not None) == said
    if line:
        assert "n_top_genes = 4,000 it needs a 40 GB card" in line.text
        assert line.figures == "forecast 30.0 GB (28.0 GB to 33.0 GB) from runs at 250, 500, 1,000"


def test_failed_run_says_nothing_about_the_gate(tmp_path):
    """The usage of an interrupted run is not its need."""
    made.leave(tmp_path, record(asked_gb=80.0, status=Status.FAILED, failed_cell=3))
    assert "gate too high" not in advice_on(tmp_path)


def test_idle_gpu_is_named_with_its_times(tmp_path):
    """A GPU held for minutes and hardly used is named."""
    made.leave(tmp_path, record(busy=12.0))
    line = advice_on(tmp_path)["idle GPU"]
    assert "held 4m00s, busy 12s (5%)" in line.figures


def test_short_idle_run_is_not_named(tmp_path):
    """Half a minute of an idle GPU is not worth a line."""
    made.leave(tmp_path, record(busy=1.0, wall=30.0))
    assert "idle GPU" not in advice_on(tmp_path)


def test_host_peak_close_to_the_limit_is_named(tmp_path):
    """A host peak at 95 % of the limit is a warning, one at 38 % is not."""
    made.leave(tmp_path, record(host_peak=30_400_000_000))
    assert "30.4 GB of 32.0 GB (95%)" in advice_on(tmp_path)["host memory"].figures


def test_pool_is_told_from_a_need(tmp_path):
    """Half of the free memory taken at once is called a pool, and no gate is derived from it."""
    peak = 455_081_984 + (made.TOTAL - 455_081_984) // 2
    made.leave(tmp_path, record(asked_gb=80.0, need=None, peak=peak), pool=True, peak=peak)
    advice = advice_on(tmp_path)
    assert "(50%)" in advice["pool"].figures
    assert "the need is unknown" in advice["pool"].text
    assert "gate too high" not in advice


def test_pool_with_the_allocators_figures_says_the_need(tmp_path):
    """Figures of the allocator are shown with the pool."""
    peak = 455_081_984 + (made.TOTAL - 455_081_984) // 2
    made.leave(tmp_path, record(asked_gb=80.0, need=5 * GB, peak=peak), pool=True, peak=peak)
    advice = advice_on(tmp_path)
    assert "peak allocation from the pool" in advice["pool"].figures
    assert "need 5.0 GB" in advice["gate too high"].figures


def samples_of(memory):
    time = np.arange(len(memory)) * 0.5
    values = np.array(memory, dtype=float)
    gpu = GpuSamples(time_seconds=time, memory_bytes=values, utilization_percent=values, power_watts=values)
    return Samples(time_seconds=time, host_memory_bytes=values, host_cpu_percent=values, gpus={made.UUIDS[0]: gpu})


@pytest.mark.parametrize(
    ("memory", "is_pool"),
    [
        ([0.5, 0.5, 12.3, 12.3, 12.4, 12.4], True),
        ([0.5, 5.0, 12.3, 12.3, 12.3, 12.3], True),  # seen in two ticks
        ([2.0, 2.0, 13.1, 13.1, 13.1, 13.1], True),  # half of what others left free
        ([0.5, 3.0, 6.0, 9.0, 12.3, 12.3], False),  # grew into it
        ([0.5, 0.5, 12.3, 0.5, 0.5, 0.5], False),  # gave it back at once
        ([0.5, 0.5, 18.0, 18.0, 18.0, 18.0], False),  # three quarters
        ([0.5], False),
        ([], False),
        ([float("nan")] * 6, False),
    ],
)
def test_pool_has_a_shape_of_its_own(memory, is_pool):
    """A step to about half of the free memory that stays is a pool; growth, spikes and others are not."""
    pools = find_pools(made.metrics("a").gpus, samples_of([value * GB for value in memory]))
    assert bool(pools) is is_pool


def test_each_gpu_with_a_pool_is_listed(tmp_path):
    """A pool on each GPU of a run: advice and summary have the figures of each."""
    record = made.metrics("a", gpus=2)
    one = samples_of([0.5 * GB, 0.5 * GB, 12.3 * GB, 12.3 * GB, 12.3 * GB, 12.3 * GB])
    both = dataclasses.replace(one, gpus={uuid: next(iter(one.gpus.values())) for uuid in made.UUIDS[:2]})
    pools = find_pools(record.gpus, both)
    assert [pool.uuid for pool in pools] == list(made.UUIDS[:2])
    made.leave(tmp_path, record, with_samples=False)
    report = assemble(read_folder(tmp_path, watch=lambda paths, seconds: {}), plan=None)
    summary = summarize(report)
    assert [gpu.uuid for gpu in summary.notebooks[0].gpu_figures] == list(made.UUIDS[:2])
    (line,) = (line for line in advise(report, summary, (), {"a": pools}) if line.kind == "pool")
    assert f"GPU {record.gpus[0].index}: " in line.figures
    assert f"; GPU {record.gpus[1].index}: " in line.figures


def test_notebooks_that_could_share_a_stage_are_named(tmp_path):
    """Independent notebooks that ran in sequence are listed with the time lost."""
    for position, name in enumerate("abc"):
        start = made.START + timedelta(seconds=250 * position)
        made.leave(tmp_path, record(name, start=start, need=5 * GB), with_samples=False)
    plan = made.plan_of("a", "b", "c", needs={"b": ["a"], "c": ["a"]})
    line = advice_on(tmp_path, plan)["one stage"]
    assert line.notebooks == ("b", "c")
    assert "even on one GPU (10.0 GB together" in line.text
    assert "in sequence 8m00s, the longest alone 4m00s" in line.figures


def test_notebooks_that_overlapped_or_need_each_other_are_not(tmp_path):
    """No advice if notebooks already overlapped or depend on each other."""
    for position, name in enumerate("abc"):
        start = made.START + timedelta(seconds=(0, 250, 260)[position])
        made.leave(tmp_path, record(name, start=start), with_samples=False)
    assert "one stage" not in advice_on(tmp_path, made.plan_of("a", "b", "c", needs={"b": ["a"], "c": ["a"]}))
    assert "one stage" not in advice_on(tmp_path, made.plan_of("a", "b", "c", needs={"b": ["a"], "c": ["b"]}))
    assert "one stage" not in advice_on(tmp_path)


def test_plan_in_which_each_needs_all_before_is_advised_on(tmp_path):
    """A plan with more paths through its needs than could ever be walked is reported like any other."""
    names = [f"nb_{place:02d}" for place in range(60)]
    for place, name in enumerate(names):
        start = made.START + timedelta(seconds=250 * place)
        made.leave(tmp_path, made.metrics(name, start=start, cells=1, gpus=0), with_samples=False)
    plan = made.plan_of(*names, needs={name: names[:place] for place, name in enumerate(names)})
    assert "one stage" not in advice_on(tmp_path, plan)


def test_depth_and_direct_needs_follow_from_one_pass():
    """Depths and direct needs are correct for any plan."""
    needs = {"d": ["a", "b", "c"], "a": [], "b": ["a"], "c": ["a"], "e": ["d", "a"], "f": ["elsewhere"]}
    assert depths(needs) == {"a": 0, "b": 1, "c": 1, "d": 2, "e": 3, "f": 1, "elsewhere": 0}
    assert direct_needs(needs) == {
        "a": (),
        "b": ("a",),
        "c": ("a",),
        "d": ("b", "c"),
        "e": ("d",),
        "f": ("elsewhere",),
        "elsewhere": (),
    }
    chain = {str(place): [str(place - 1)] for place in range(1, 5000)}
    assert depths(chain)["4999"] == 4999


@pytest.mark.parametrize(("earlier", "named"), [((9, 9), True), ((9, 4), False), ((None, 9), False), ((), False)])
def test_notebook_that_only_ever_fails_at_one_cell_is_named(tmp_path, earlier, named):
    """Several failures in one cell, and nothing else, are worth a line."""

    def failed(cell):
        if cell is None:
            return made.metrics("a")
        return record("a", status=Status.FAILED, failed_cell=cell, failure=Failure(message="m", cell_index=cell))

    for number, cell in enumerate(earlier, 1):
        made.leave(tmp_path / "attempts" / "a" / str(number), failed(cell), with_samples=False)
    made.leave(tmp_path, failed(9), with_samples=False)
    advice = advice_on(tmp_path)
    assert ("same cell" in advice) is named
    if named:
        assert "3 of 3 recorded runs failed in cell 10" in advice["same cell"].figures
