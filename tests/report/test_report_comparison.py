# SPDX-License-Identifier: Apache-2.0
"""Comparison of a run with earlier ones: regressions, improvements and noise."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from support import cli
from support import records as made

from runner.core.records import Status
from runner.report import build


def run_of(folder, wall=240.0, status=Status.SUCCEEDED, day=0, name="a", **changes):
    start = made.START + timedelta(days=day)
    made.leave(
        folder,
        made.metrics(name, wall=wall, status=status, start=start, run_id=f"run-{day}", **changes),
        with_samples=False,
    )
    return folder


def built(folder, **options):
    return build(folder, watch=lambda paths, seconds: {}, **options)


def test_slower_notebook_is_a_regression(tmp_path):
    """What grew by more than the threshold is listed, and fails the command that asks for it."""
    before = run_of(tmp_path / "1")
    built(before)
    result = built(run_of(tmp_path / "2", wall=400.0, day=1), baselines=[before])
    figures = {r.figure: r for r in result.regressions}
    assert figures["wall_seconds"].ratio == pytest.approx(400 / 240)
    assert result.ok() is True
    assert result.ok(fail_on_regression=True) is False
    assert json.loads(result.summary_path.read_text())["regressions"][0]["notebook"] == "a"


def test_figure_that_was_nothing_before_is_a_regression_wherever_it_is_told(tmp_path):
    """What grew from 0 is worse on the page and for machines alike, though nothing is a multiple of 0."""
    before = run_of(tmp_path / "1", wall=0.0)
    built(before)
    result = built(run_of(tmp_path / "2", wall=400.0, day=1), baselines=[before])
    figures = {r.figure: r for r in result.regressions}
    assert (figures["wall_seconds"].before, figures["wall_seconds"].ratio) == (0.0, None)
    assert result.ok(fail_on_regression=True) is False
    assert "<span>worse</span>" in result.html_path.read_text()
    again = built(tmp_path / "2", baselines=[result.summary_path])
    assert again.problems == (), "a summary with such a regression is a baseline as any other"


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--fail-on-regression",), 1)])
def test_command_fails_on_a_regression_when_asked(tmp_path, options, code):
    """`--fail-on-regression` makes regressions exit with 1; otherwise they are only reported."""
    before = run_of(tmp_path / "1")
    cli.runner("report", before)
    ended = cli.runner("report", run_of(tmp_path / "2", wall=900.0, day=1), "--baseline", before, "--json", *options)
    assert ended.code == code, ended.err
    assert [r["figure"] for r in json.loads(ended.out)["regressions"]][:1] == ["wall_seconds"]


def test_command_passes_where_nothing_got_worse(tmp_path):
    """With a baseline that is no better, or a higher threshold, `--fail-on-regression` ends with 0."""
    before, now = run_of(tmp_path / "1"), run_of(tmp_path / "2", wall=300.0, day=1)
    cli.runner("report", before)
    asked = ("report", now, "--baseline", before, "--fail-on-regression")
    assert cli.runner(*asked).code == 1
    assert cli.runner(*asked, "--regression-threshold", "0.5").code == 0
    assert cli.runner("report", now, "--baseline", now / "reports" / "summary.json", "--fail-on-regression").code == 0


@pytest.mark.parametrize(
    ("wall", "threshold", "worse"), [(280, 0.2, False), (300, 0.2, True), (300, 0.5, False), (100, 0.2, False)]
)
def test_threshold_decides(tmp_path, wall, threshold, worse):
    """A fifth more is the default limit; less time is never a regression."""
    before = run_of(tmp_path / "1")
    built(before)
    result = built(run_of(tmp_path / "2", wall=float(wall), day=1), baselines=[before], regression_threshold=threshold)
    assert any(r.figure == "wall_seconds" for r in result.regressions) is worse


def test_a_fraction_of_a_second_is_noise(tmp_path):
    """A notebook of half a second that takes a whole one is no regression."""
    before = run_of(tmp_path / "1", wall=0.4)
    built(before)
    assert built(run_of(tmp_path / "2", wall=0.9, day=1), baselines=[before]).regressions == ()


def test_failed_baseline_is_no_yardstick(tmp_path):
    """A notebook that failed after ten seconds was not fast: the newest success counts."""
    first = run_of(tmp_path / "1")
    second = run_of(tmp_path / "2", wall=10.0, status=Status.FAILED, day=1, failed_cell=1)
    built(first)
    built(second)
    result = built(run_of(tmp_path / "3", wall=250.0, day=2), baselines=[first, second])
    assert result.regressions == ()
    assert "did not succeed before, but does now" in result.html_path.read_text()


def test_new_failure_is_a_regression(tmp_path):
    """A notebook that succeeded before and fails now is a regression."""
    before = run_of(tmp_path / "1")
    built(before)
    result = built(run_of(tmp_path / "2", status=Status.FAILED, day=1, failed_cell=2), baselines=[before])
    assert [r.figure for r in result.regressions] == ["status"]
    assert result.ok(fail_on_regression=True) is False


def test_trend_over_several_baselines_is_drawn(tmp_path):
    """Runs are ordered oldest first."""
    folders = [run_of(tmp_path / str(day), wall=wall, day=day) for day, wall in enumerate((200.0, 210.0, 220.0))]
    for folder in folders:
        built(folder)
    page = built(run_of(tmp_path / "now", wall=500.0, day=3), baselines=folders).html_path.read_text()
    assert "wall time of a over its runs" in page
    assert "oldest first: 200, 210, 220, 500" in page
    assert "3m40s" in page
    assert "+127 %" in page


def test_baseline_may_be_the_file_itself(tmp_path):
    """A kept `summary.json` is as good as its folder."""
    before = run_of(tmp_path / "1")
    kept = tmp_path / "kept.json"
    kept.write_bytes(built(before).summary_path.read_bytes())
    assert built(run_of(tmp_path / "2", wall=900.0, day=1), baselines=[kept]).regressions


@pytest.mark.parametrize("content", [None, "", "{}", "[1, 2]", '{"notebooks": 3}'])
def test_broken_baseline_is_a_problem_and_no_failure(tmp_path, content):
    """A baseline that cannot be read is named, and the report is written without it."""
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    result = built(run_of(tmp_path / "1"), baselines=[bad])
    assert result.verdict == "succeeded"
    assert any("bad.json" in problem for problem in result.problems)
    assert "bad.json" in result.html_path.read_text()


def test_notebook_that_is_new_is_not_compared(tmp_path):
    """A notebook that no baseline knows has nothing to be worse than."""
    before = run_of(tmp_path / "1", name="other")
    built(before)
    assert built(run_of(tmp_path / "2", day=1), baselines=[before]).regressions == ()
