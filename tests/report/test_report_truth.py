# SPDX-License-Identifier: Apache-2.0
"""Contents of a report on a folder: run, status of each notebook, and verdict."""

from __future__ import annotations

import dataclasses
import json
import threading
from datetime import timedelta

import pytest
from support import pages
from support import records as made

from runner.core.errors import UsageError
from runner.core.records import Failure, Status, to_json
from runner.outputs import attempts
from runner.report import build
from runner.report.assemble import assemble
from runner.report.folder import read_folder


def all_dead(paths, seconds):
    return dict.fromkeys(paths, False)


def all_alive(paths, seconds):
    return dict.fromkeys(paths, True)


def report_on(folder, watch=all_dead, **options):
    return assemble(read_folder(folder, watch=watch), **options)


def entry(report, name):
    return next(entry for entry in report.entries if entry.name == name)


def summary_of(result):
    return json.loads(result.summary_path.read_text())


@pytest.mark.parametrize(
    "status", [s for s in Status if s not in (Status.NOT_RUN, Status.RUNNING, Status.HELD, Status.LOST)]
)
@pytest.mark.parametrize("optional", [True, False])
def test_run_is_a_success_only_with_succeeded_and_rightly_skipped_notebooks(tmp_path, status, optional):
    """Only `succeeded`, and `skipped` of an optional notebook, let a run count as a success."""
    made.leave(tmp_path, made.metrics("good"), with_samples=False)
    made.leave(tmp_path, made.metrics("other", status=status, optional=optional), with_samples=False)
    expected = status is Status.SUCCEEDED or (status is Status.SKIPPED and optional)
    result = build(tmp_path, watch=all_dead)
    assert (result.verdict == "succeeded") is expected
    assert result.ok(fail_on_failure=True) is expected
    assert result.ok(fail_on_failure=False) is True


@pytest.mark.parametrize(
    ("in_plan", "in_record", "verdict"),
    [(False, False, "failed"), (True, False, "succeeded"), (False, True, "succeeded"), (True, True, "succeeded")],
)
def test_plan_or_record_says_what_is_optional(tmp_path, in_plan, in_record, verdict):
    """A notebook is optional by its plan, or by the option of the command that its record keeps."""
    made.leave(tmp_path, made.metrics("a", status=Status.SKIPPED, optional=in_record), with_samples=False)
    plan = made.plan_of("a", optional=("a",) if in_plan else ())
    assert report_on(tmp_path, plan=plan).verdict == verdict


def test_notebook_without_a_record_is_listed_and_fails_the_run(tmp_path):
    """The report lists the plan, not just the survivors."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    report = report_on(tmp_path, plan=made.plan_of("a", "b", optional=("b",)))
    assert [(e.name, e.status) for e in report.entries] == [("a", Status.SUCCEEDED), ("b", Status.NOT_RUN)]
    assert report.verdict == "failed"
    assert "no record" in entry(report, "b").reason


def test_empty_folder_is_a_wrong_call_and_with_a_plan_no_success(tmp_path):
    """Without any run there is no success; a plan lists its notebooks even without a folder."""
    with pytest.raises(UsageError, match="contains no records"):
        build(tmp_path, watch=all_dead)
    assert not list(tmp_path.iterdir())
    result = build(tmp_path / "new", plan=made.plan_of("a", "b"), watch=all_dead)
    assert result.verdict == "failed"
    assert "None of 2 notebooks has run yet" in result.html_path.read_text()
    assert {nb["status"] for nb in summary_of(result)["notebooks"]} == {"not-run"}


def test_missing_folder_is_a_usage_error(tmp_path):
    """A folder that is not there is named before anything is written."""
    with pytest.raises(UsageError, match="nowhere"):
        build(tmp_path / "nowhere", watch=all_dead)
    assert not (tmp_path / "nowhere").exists()


def test_success_of_another_run_is_not_this_runs_success(tmp_path):
    """A record of an older run is shown as such and does not fill the gap in this one."""
    made.leave(tmp_path, made.metrics("a", run_id="old", start=made.START - timedelta(days=1)), with_samples=False)
    made.leave(tmp_path, made.metrics("b", run_id="new"), with_samples=False)
    report = report_on(tmp_path, plan=made.plan_of("a", "b"))
    assert report.run_id == "new"
    assert entry(report, "a").status is Status.NOT_RUN
    assert entry(report, "a").metrics is None
    assert "run old (succeeded)" in entry(report, "a").reason
    assert [m.run_id for m in report.others] == ["old"]
    assert entry(report_on(tmp_path, plan=made.plan_of("a", "b"), run_id="old"), "a").status is Status.SUCCEEDED


def repeated(folder):
    """Leave two runs of the notebooks a and b, as the product does: the first one is moved to attempts/."""
    for day, run_id in enumerate(("first", "second")):
        start = made.START + timedelta(days=day)
        for name, status in (("a", Status.SUCCEEDED), ("b", Status.SUCCEEDED if day else Status.FAILED)):
            attempts.set_aside(folder, name)
            made.leave(folder, made.metrics(name, run_id=run_id, start=start, status=status))


def test_an_earlier_run_is_reported_from_its_attempts(tmp_path):
    """Its records, statuses, figures and files, though a later run of the same names moved them aside."""
    repeated(tmp_path)
    plan = made.plan_of("a", "b")

    report = report_on(tmp_path, plan=plan, run_id="first")

    assert [(e.name, e.status) for e in report.entries] == [("a", Status.SUCCEEDED), ("b", Status.FAILED)]
    assert entry(report, "a").files["samples"] == "attempts/a/1/a.samples.csv"
    assert entry(report, "a").attempts == ()
    assert [m.run_id for m in report.others] == ["second", "second"]
    assert report_on(tmp_path, plan=plan, run_id="second").verdict == "succeeded"
    result = build(tmp_path, run_id="first", watch=all_dead)
    assert (result.verdict, result.problems) == ("failed", ())
    assert {nb["run_id"] for nb in summary_of(result)["notebooks"]} == {"first"}
    assert 'href="../attempts/b/1/b.log"' in result.html_path.read_text()


def test_an_unknown_run_is_named_with_those_that_are_known(tmp_path):
    """A wrong call without a plan; with one a report in which nothing ran, and which runs there are."""
    repeated(tmp_path)
    with pytest.raises(UsageError) as refused:
        build(tmp_path, run_id="frist", watch=all_dead)
    assert "did you mean 'first'? known runs, newest first: second, first" in str(refused.value)
    assert not (tmp_path / "reports").exists()

    result = build(tmp_path, plan=made.plan_of("a", "b"), run_id="frist", watch=all_dead)

    assert result.counts["not-run"] == 2
    assert result.problems == ("no notebook has a record of run frist; known runs, newest first: second, first",)


@pytest.mark.parametrize("plan", [None, made.plan_of("a", "b")], ids=["folder", "plan"])
def test_an_unknown_name_is_a_wrong_call(tmp_path, plan):
    """An unknown notebook is not reported on."""
    repeated(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'a'"):
        build(tmp_path, plan=plan, only=["A"], watch=all_dead)
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("tasks", "why"),
    [
        ({"clone": "Failed", "validate": "None"}, "the task clone failed"),
        ({"clone": "Succeeded", "validate": "Failed", "data": "Failed"}, "the tasks validate, data failed"),
        ({"clone": "None", "validate": "None"}, "the tasks clone, validate did not run"),
        ({"clone": "Succeeded", "validate": "Succeeded"}, ""),
    ],
)
def test_why_nothing_ran_is_told_where_the_caller_knows(tmp_path, tasks, why):
    """In the reason of each notebook, on the page and in the summary."""
    result = build(tmp_path, plan=made.plan_of("a"), tasks=tasks, watch=all_dead)
    summary = summary_of(result)
    assert (f"; before it, {why}" in summary["notebooks"][0]["reason"]) is bool(why)
    assert (f"Nothing has run: {why}" in result.html_path.read_text()) is bool(why)
    assert summary["tasks"] == tasks


def test_a_caller_who_knows_why_nothing_ran_gets_a_report_without_a_plan(tmp_path):
    """The plan was to come with the clone."""
    result = build(tmp_path / "new", tasks={"clone": "Failed"}, problems=["no such plan"], watch=all_dead)
    assert result.verdict == "failed"
    assert result.problems == ("no such plan",)
    assert result.objections(fail_on_failure=True) == ("there are no notebooks to report on",)


def test_notebooks_run_one_by_one_are_all_covered(tmp_path):
    """Without a plan, records that each have a run of their own are reported together."""
    made.leave(tmp_path, made.metrics("a", run_id="r1"), with_samples=False)
    made.leave(tmp_path, made.metrics("b", run_id="r2", start=made.START + timedelta(hours=1)), with_samples=False)
    report = report_on(tmp_path)
    assert report.run_id is None
    assert report.verdict == "succeeded"
    assert [e.name for e in report.entries] == ["a", "b"]


def test_newest_run_is_chosen_among_runs_of_several_notebooks(tmp_path):
    """Without a plan and with runs of several notebooks the report is about the newest of them."""
    for name, run, day in (("a", "r1", 0), ("b", "r1", 0), ("c", "r2", 1)):
        start = made.START + timedelta(days=day)
        made.leave(tmp_path, made.metrics(name, run_id=run, start=start), with_samples=False)
    report = report_on(tmp_path)
    assert report.run_id == "r2"
    assert [e.name for e in report.entries] == ["c"]
    assert {m.notebook for m in report.others} == {"a", "b"}


def test_only_limits_the_report(tmp_path):
    """With names given the report and its verdict are about these alone."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    made.leave(tmp_path, made.metrics("b", status=Status.FAILED), with_samples=False)
    report = report_on(tmp_path, plan=made.plan_of("a", "b", "c"), only=["a"])
    assert [e.name for e in report.entries] == ["a"]
    assert report.verdict == "succeeded"
    assert report.others == ()
    assert {one.name: one.reason for one in report.left_out} == {
        "b": "not selected for this report; its status in this run is failed",
        "c": "not in this run; it has no record",
    }


def test_notebooks_that_were_not_chosen_are_listed_with_their_last_run(tmp_path):
    """The verdict covers the selected ones; page, summary and Markdown show the last status of the others."""
    repeated(tmp_path)
    attempts.set_aside(tmp_path, "a")
    made.leave(tmp_path, made.metrics("a", run_id="third", start=made.START + timedelta(days=2)), with_samples=False)

    result = build(tmp_path, plan=made.plan_of("a", "b"), only=["a"], run_id="third", watch=all_dead)

    assert (result.verdict, result.counts["notebooks"]) == ("succeeded", 1)
    (left_out,) = summary_of(result)["left_out"]
    assert left_out["name"] == "b"
    assert left_out["reason"].startswith("not in this run; last succeeded at 2026-11-21 ")
    assert left_out["reason"].endswith(", run second")
    assert left_out["reason"] in result.html_path.read_text()
    assert "### Not selected" in (tmp_path / "reports" / "github-summary.md").read_text()


@pytest.mark.parametrize("content", [b"", b"{nope", b"[]", b'{"notebook": "a"}', b"\xff\xfe", b"[" * 100_000])
def test_broken_record_becomes_a_line_that_names_it(tmp_path, content):
    """A record that cannot be read fails its notebook and not the report."""
    made.leave(tmp_path, made.metrics("good"), with_samples=False)
    (tmp_path / "bad.metrics.json").write_bytes(content)
    result = build(tmp_path, watch=all_dead)
    assert result.verdict == "failed"
    assert any("bad.metrics.json" in problem for problem in result.problems)
    assert "bad.metrics.json cannot be read" in result.html_path.read_text()
    statuses = {nb["name"]: nb["status"] for nb in summary_of(result)["notebooks"]}
    assert statuses == {"good": "succeeded", "bad": "not-run"}


def test_record_under_another_name_is_listed_under_its_file(tmp_path):
    """A record that was renamed does not take the place of the notebook it speaks of."""
    made.leave(tmp_path, made.metrics("a", status=Status.FAILED), with_samples=False)
    (tmp_path / "b.metrics.json").write_text(to_json(made.metrics("a")))
    report = report_on(tmp_path)
    assert {e.name: e.status for e in report.entries} == {"a": Status.FAILED, "b": Status.SUCCEEDED}
    assert any("b.metrics.json" in problem for problem in report.problems)


def test_dead_run_is_lost_and_says_how_far_it_came(tmp_path):
    """A run whose heartbeat stopped is `lost`: cell, last save, cells done, and probably why."""
    made.leave(tmp_path, made.metrics("first"), with_samples=False)
    made.running(tmp_path, "gone", cell_index=8, cell_count=16)
    made.executed_notebook(tmp_path / "gone.executed.ipynb", done=7)
    made.samples(tmp_path / "gone.samples.csv", seconds=100, host_end=30_500_000_000)
    report = report_on(tmp_path)
    gone = entry(report, "gone")
    assert gone.status is Status.LOST
    assert report.verdict == "failed"
    assert "last seen in cell 9 of 16, 1m40s after its start; the notebook was last saved at 2026" in gone.reason
    for part in ("with 7 cells done", "95% of the limit", "probably killed for lack of memory"):
        assert part in gone.reason


def test_figures_of_a_lost_run_are_those_of_its_samples(tmp_path):
    """Wall time and peaks of a run without a record are taken from its samples, and marked as at least that."""
    made.leave(tmp_path, made.metrics("first"), with_samples=False)
    made.running(tmp_path, "gone")
    made.samples(tmp_path / "gone.samples.csv", seconds=100, gpus=2, peak=13_000_000_000, host_end=30_500_000_000)
    made.running(tmp_path, "silent")
    result = build(tmp_path, watch=all_dead)
    found = {nb["name"]: nb for nb in summary_of(result)["notebooks"]}
    gone = found["gone"]
    assert (gone["wall_seconds"], gone["gpus"], gone["from_samples"]) == (99.5, 2, True)
    assert gone["peak_gpu_memory_bytes"] == 13_000_000_000
    assert 30_300_000_000 < gone["peak_host_memory_bytes"] <= 30_500_000_000
    assert gone["host_memory_limit_bytes"] == 32_000_000_000
    assert 0 < gone["gpu_utilization_mean_percent"] < 100
    assert gone["gpu_energy_joules"] is None
    assert (found["silent"]["wall_seconds"], found["silent"]["from_samples"]) == (None, False)
    assert found["first"]["from_samples"] is False
    page = pages.Page(result.html_path.read_text())
    table = next(row.text for row in page.all("tr") if row.attributes.get("data-status") == "lost")
    assert "\N{GREATER-THAN OR EQUAL TO} at least 1m40s" in " ".join(table.split())
    assert page.by_id("timeline").text.count("\N{GREATER-THAN OR EQUAL TO} ") == 4, "of both, in picture and table"


@pytest.mark.parametrize(
    ("done", "said"), [(1, "with 1 cell done"), (2, "with 2 cells done"), (0, "with 0 cells done")]
)
def test_one_cell_is_one_cell(tmp_path, done, said):
    """Counts and their nouns agree."""
    made.running(tmp_path, "gone")
    made.executed_notebook(tmp_path / "gone.executed.ipynb", done=done)
    assert said in entry(report_on(tmp_path), "gone").reason


def test_lost_run_with_room_in_memory_is_not_called_out_of_memory(tmp_path):
    """Memory is named as the probable cause only if the last sample is near the limit."""
    made.leave(tmp_path, made.metrics("first"), with_samples=False)
    made.running(tmp_path, "gone")
    made.samples(tmp_path / "gone.samples.csv", seconds=100, host_end=5_000_000_000)
    assert "probably not the cause" in entry(report_on(tmp_path), "gone").reason


def test_lost_run_without_samples_says_that_nothing_is_known(tmp_path):
    """Without a sample no cause is made up."""
    made.running(tmp_path, "gone")
    assert "cause unknown, as there are no samples" in entry(report_on(tmp_path), "gone").reason


def test_half_a_last_line_of_samples_is_not_read(tmp_path):
    """The line on which the writer died is no sample."""
    made.running(tmp_path, "gone")
    made.samples(tmp_path / "gone.samples.csv", seconds=10, gpus=0, host_end=2_000_000_000)
    with (tmp_path / "gone.samples.csv").open("a") as stream:
        stream.write(f"9999.0,,,,,,77000000000,1{made.NO_UNITS}")
    sample = entry(report_on(tmp_path), "gone").flight.last_sample
    assert sample.time_seconds == 9.5
    assert sample.host_memory_bytes < 3_000_000_000


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"run_id": {}}', '{"notebook": "x"}'])
def test_broken_running_file_does_not_stop_the_report(tmp_path, content):
    """A file of a run in flight that holds anything at all never fails the report."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    (tmp_path / "x.running").write_text(content)
    assert entry(report_on(tmp_path), "a").status is Status.SUCCEEDED


def test_live_run_is_still_running_and_no_success(tmp_path):
    """A run that is still alive after the wait is `running`, with its progress, and not a failure."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    made.running(tmp_path, "b", cell_index=3, cell_count=9)
    report = report_on(tmp_path, watch=all_alive)
    assert entry(report, "b").status is Status.RUNNING
    assert report.first_failure is None
    assert "still running" in entry(report, "b").reason
    assert "cell 4 of 9" in entry(report, "b").reason
    assert report.verdict == "failed"
    result = build(tmp_path, watch=all_alive)
    assert "1 of 2 notebooks succeeded, 1 still running" in result.html_path.read_text()
    assert {nb["name"]: nb["status"] for nb in summary_of(result)["notebooks"]} == {"a": "succeeded", "b": "running"}


def test_report_waits_for_a_run_in_flight(tmp_path):
    """A run that ends within the time is reported with its record."""
    made.running(tmp_path, "b")

    def end():
        made.leave(tmp_path, made.metrics("b"), with_samples=False)
        (tmp_path / "b.running").unlink()

    timer = threading.Timer(0.5, end)
    timer.start()
    found = read_folder(tmp_path, watch=all_alive, wait_seconds=60)
    timer.join()
    assert entry(assemble(found), "b").status is Status.SUCCEEDED


def test_waiting_ends_when_nothing_lives(tmp_path):
    """Dead runs are not waited for."""
    made.running(tmp_path, "b")
    looks = []

    def watch(paths, seconds):
        looks.append(paths)
        return all_dead(paths, seconds)

    found = read_folder(tmp_path, watch=watch, wait_seconds=10_000)
    assert len(looks) == 1
    assert entry(assemble(found), "b").status is Status.LOST


def test_runs_of_others_are_not_waited_for(tmp_path):
    """A live run of another run id or name does not delay the report."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    made.running(tmp_path, "b", run_id="other")
    looks = []

    def watch(paths, seconds):
        looks.append(paths)
        return all_alive(paths, seconds)

    for options in ({"run_id": made.RUN}, {"only": ["a"]}):
        assert build(tmp_path, watch=watch, wait_for_running_seconds=10_000, **options).verdict == "succeeded"
    assert looks == []


def test_heartbeat_of_a_real_process_tells_lost_from_running(tmp_path):
    """The real watch reports a claim with an unchanged counter as dead."""
    made.running(tmp_path, "b")
    from runner.outputs import claim

    report = report_on(tmp_path, watch=lambda paths, seconds: claim.alive(paths, 0.5))
    assert entry(report, "b").status is Status.LOST


def test_old_record_does_not_stand_for_the_run_that_was_lost(tmp_path):
    """A notebook that succeeded before and was lost now is lost."""
    made.leave(tmp_path, made.metrics("a", run_id="old"), with_samples=False)
    made.running(tmp_path, "a", run_id="new")
    report = report_on(tmp_path, run_id="new")
    assert entry(report, "a").status is Status.LOST
    assert [m.run_id for m in report.others] == ["old"]


def test_old_record_does_not_stand_for_a_lost_run_among_single_runs(tmp_path):
    """If notebooks were run individually, the newer run of a name counts."""
    made.leave(tmp_path, made.metrics("a", run_id="r1"), with_samples=False)
    made.leave(tmp_path, made.metrics("b", run_id="r2"), with_samples=False)
    made.running(tmp_path, "a", run_id="r3")
    report = report_on(tmp_path)
    assert report.run_id is None
    assert entry(report, "a").status is Status.LOST


def test_first_failure_is_the_first_in_time(tmp_path):
    """The verdict names the first failure, not the notebooks skipped because of it."""
    later = made.START + timedelta(hours=1)
    made.leave(tmp_path, made.metrics("a", status=Status.FAILED, start=later, wall=10), with_samples=False)
    made.leave(tmp_path, made.metrics("b", status=Status.KERNEL_DIED, wall=10), with_samples=False)
    made.leave(tmp_path, made.metrics("c", status=Status.SKIPPED, wall=1), with_samples=False)
    assert report_on(tmp_path).first_failure.name == "b"


def test_every_status_is_told(tmp_path):
    """Each status of the vocabulary reaches the page and the summary."""
    plan = made.every_status(tmp_path)
    result = build(tmp_path, plan=plan, watch=all_dead)
    page, summary = result.html_path.read_text(), summary_of(result)
    ended = {status.value for status in Status} - {"running", "held"}  # which are told of live runs only
    assert {nb["status"] for nb in summary["notebooks"]} == ended
    for status in ended:
        assert f"<span>{status}</span>" in page
        assert summary["counts"][status] == 1
    assert result.problems == ()


def test_nothing_went_wrong_where_nothing_ran(tmp_path):
    """A plan of which nothing has run has no first failure: its first notebook is not to blame."""
    report = report_on(tmp_path, plan=made.plan_of("a", "b"))
    assert report.first_failure is None
    assert report.verdict == "failed"
    (tmp_path / "b.metrics.json").write_text("{")
    assert report_on(tmp_path, plan=made.plan_of("a", "b")).first_failure is not None


def test_earlier_runs_of_a_notebook_are_counted(tmp_path):
    """Records in attempts/ are read, oldest first; broken ones are ignored."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    for number, seconds in ((10, 3.0), (2, 2.0)):
        made.leave(tmp_path / "attempts" / "a" / str(number), made.metrics("a", wall=seconds), with_samples=False)
    (tmp_path / "attempts" / "a" / "3").mkdir()
    (tmp_path / "attempts" / "a" / "3" / "a.metrics.json").write_text("{")
    assert [m.wall_seconds for m in entry(report_on(tmp_path), "a").attempts] == [2.0, 3.0]


@pytest.mark.parametrize(
    ("ends", "changes", "flaky"),
    [
        ((Status.SUCCEEDED, Status.FAILED, Status.SUCCEEDED), {}, True),
        ((Status.SUCCEEDED, Status.KERNEL_DIED), {}, True),
        ((Status.SUCCEEDED, Status.FAILED), {"versions": {"scanpy": "1.12"}}, False),
        ((Status.SUCCEEDED, Status.REFUSED), {}, False),
        ((Status.FAILED, Status.FAILED), {}, False),
        ((Status.SUCCEEDED,), {}, False),
    ],
)
def test_a_notebook_is_flaky_that_ends_otherwise_for_no_change(tmp_path, ends, changes, flaky):
    """Other software, a refusal and a steady failure explain themselves; the page shows the runs, newest first."""
    for number, status in enumerate(ends):
        attempts.set_aside(tmp_path, "a")
        start = made.START + timedelta(days=number)
        made.leave(tmp_path, made.metrics("a", run_id=f"run-{number}", start=start, status=status), with_samples=False)
    if changes:
        made.leave(tmp_path, made.metrics("a", run_id="last", start=start, status=ends[-1], **changes))
    one = entry(report_on(tmp_path), "a")
    assert one.flaky is flaky
    assert len(one.history) == (len(ends) if len(ends) > 1 else 0)
    page = build(tmp_path, watch=all_dead).html_path.read_text()
    assert ("· flaky" in page) is flaky
    if len(ends) > 1:
        history = page[page.index(f"{len(ends)} runs in this folder") :]
        assert history.index("2026-11-21") < history.index("2026-11-20")


def test_missing_figures_are_null_and_not_zero(tmp_path):
    """What was not measured is null in the summary and a dash on the page."""
    plain = made.metrics("a", gpus=0, host=None, sampler=None)
    made.leave(tmp_path, plain, with_samples=False)
    result = build(tmp_path, watch=all_dead)
    notebook = summary_of(result)["notebooks"][0]
    for figure in ("peak_gpu_memory_bytes", "gpu_energy_joules", "peak_host_memory_bytes", "need_bytes"):
        assert notebook[figure] is None
    assert "not measured" in result.html_path.read_text()


def test_two_reports_never_share_a_name(tmp_path):
    """A report does not overwrite the one before it."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    paths = {build(tmp_path, watch=all_dead).html_path for _ in range(3)}
    assert len(paths) == 3
    assert all(path.is_file() for path in paths)


def test_cause_and_hint_reach_the_verdict(tmp_path):
    """Cause and hint are shown with the first failure."""
    plan = made.every_status(tmp_path)
    page = build(tmp_path, plan=plan, watch=all_dead).html_path.read_text()
    verdict = page[page.index('id="verdict"') : page.index('id="facts"')]
    assert "03_failed" in verdict.replace("<wbr>", "")
    assert "device-memory" in verdict
    assert "take fewer rows" in verdict


def test_failure_with_huge_message_stays_readable(tmp_path):
    """A message of any length is shortened on the page and whole in the record."""
    failure = Failure(message="x" * 5_000_000, traceback_tail="y\n" * 1_000_000, cell_index=0)
    record = dataclasses.replace(made.metrics("a", status=Status.FAILED, failed_cell=0, failure=failure))
    made.leave(tmp_path, record, with_samples=False)
    result = build(tmp_path, watch=all_dead)
    assert result.html_path.stat().st_size < 400_000


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ({"clone": "Failed:TaskRunCancelled", "validate": "None:"}, "the task clone was cancelled"),
        ({"clone": "Failed:TaskRunImagePullFailed"}, "could not pull its image"),
        ({"clone": "Failed:Failed", "data-1": "Failed:TaskRunTimeout"}, "clone failed and the task data-1 timed out"),
        ({"clone": "Succeeded:Succeeded", "notebook/a": "Failed:Failed"}, "its task failed; see the results"),
        ({"clone": "Succeeded:Succeeded", "notebook/a": "Failed:TaskRunTimeout"}, "its task timed out"),
    ],
)
def test_the_report_says_in_words_what_kept_a_notebook_from_running(tmp_path, tasks, told):
    """Cancelled, out of time, without its image, refused as it was called: Tekton's reasons become sentences."""
    result = build(tmp_path, plan=made.plan_of("a"), tasks=tasks, watch=all_dead)
    assert told in summary_of(result)["notebooks"][0]["reason"]
