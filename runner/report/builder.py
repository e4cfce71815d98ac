# SPDX-License-Identifier: Apache-2.0
"""Makes the report of an output folder, from reading it to the last file beside the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.endings import failure_lines
from runner.core.errors import UsageError, did_you_mean, did_you_mean_path
from runner.core.files import folded, make_folder, write
from runner.core.redact import Redactor
from runner.outputs import sums
from runner.outputs.claim import alive
from runner.plan.job import INDEX_FILE
from runner.report.advice import advise
from runner.report.assemble import Report, Verdict, assemble
from runner.report.baseline import Comparison, compare, read_baseline
from runner.report.exports import openmetrics
from runner.report.exports.exports import CRATE_FILE, export_texts, write_exports
from runner.report.facts import gather
from runner.report.folder import Watch, read_folder
from runner.report.gallery import gallery
from runner.report.html import drawings, render
from runner.report.html.index_page import forward_page
from runner.report.results import compare_results, results
from runner.report.summary import Regression, Summary, summarize
from runner.report.validation import fault

if TYPE_CHECKING:
    from runner.core.records import Source
    from runner.plan.model import Plan
    from runner.report.assemble import Entry
    from runner.report.found import Found


_LISTED = 10
"""Names that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """What was written, and what it says."""

    html_path: Path
    summary_path: Path
    verdict: Verdict
    counts: Mapping[str, int]
    regressions: tuple[Regression, ...] = ()
    problems: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    """Each notebook that keeps the verdict from being a success, with its status and reason."""
    explained: tuple[str, ...] = ()
    """The same in lines for a terminal: where each failed, with what error, and what to do."""
    compared: bool = False
    """Whether a baseline could be read."""
    sources: tuple[Source, ...] = ()
    """Of the notebooks that have a record."""

    def ok(self, *, fail_on_failure: bool = False, fail_on_regression: bool = False) -> bool:
        """Return True if the command should end with 0."""
        return not self.objections(fail_on_failure=fail_on_failure, fail_on_regression=fail_on_regression)

    def objections(self, *, fail_on_failure: bool = False, fail_on_regression: bool = False) -> tuple[str, ...]:
        """Return why the command should not end with 0, most important first."""
        found: list[str] = []
        if fail_on_failure and self.verdict == "failed":
            found += self.failed or ["there is no notebook to report on"]
        if fail_on_regression and not self.compared:
            found.append("no regression can be ruled out: no --baseline was given that can be read")
        if fail_on_regression:
            found += [f"regression: {regression}" for regression in self.regressions]
        return tuple(found)


def build(
    output_dir: Path,
    *,
    plan: Plan | None = None,
    plan_source: str | None = None,
    only: Sequence[str] = (),
    run_id: str | None = None,
    wait_for_running_seconds: float = 0.0,
    baselines: Sequence[Path] = (),
    regression_threshold: float = 0.2,
    pushgateway: str | None = None,
    tasks: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    redactor: Redactor | None = None,
) -> ReportResult:
    """Write `reports/` in an output folder and return what it says.

    Parameters
    ----------
    output_dir
        The folder of the runs.
    plan
        Whose notebooks are listed, also those that never ran.
    plan_source
        Where the plan came from, for the page.
    only
        Names to which the report is limited; the others are listed apart and have no part in the verdict.
    run_id
        The run it is about; without it the newest one.
    wait_for_running_seconds
        How long to wait for runs in flight.
    baselines
        Output folders or summaries of earlier runs, oldest first.
    regression_threshold
        The share by which a figure must grow to count as a regression.
    pushgateway
        Where to push the figures.
    tasks
        How the tasks before the notebooks ended. A caller who tells this gets a report in any case.
    problems
        What the caller found wrong, to be listed.
    environ
        Where `GITHUB_STEP_SUMMARY` may stand.
    watch
        Tells live runs from dead ones; `runner.outputs.claim.alive` when not given.
    redactor
        Keeps secrets out of the plan as it is written.

    Raises
    ------
    UsageError
        A name of ``only`` is unknown; or, without plan and tasks, there is no such folder, run or record.
    RecordError
        The report cannot be written.
    """
    for name in only:
        if plan:
            plan.notebook(name)
    if plan or tasks:  # what should have run is listed even where nothing did
        make_folder(output_dir)
    elif not output_dir.is_dir():
        raise UsageError(
            f"there is no folder {output_dir}", hint=f"{did_you_mean_path(output_dir)}give the --output-dir of the runs"
        )
    found = read_folder(
        output_dir, watch=watch or alive, wait_seconds=wait_for_running_seconds, run_id=run_id, only=only
    )
    if not plan and not tasks:
        _check_there_is_something(found, output_dir, run_id, only)
    found = dataclasses.replace(found, problems=(*problems, *_unknown_run(found, run_id), *found.problems))
    now = datetime.now(UTC)
    wanted = _Wanted(
        folder=output_dir,
        plan=plan,
        plan_source=plan_source,
        only=only,
        run_id=run_id,
        baselines=baselines,
        regression_threshold=regression_threshold,
        tasks=tasks or {},
        generated_at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        redactor=redactor or Redactor(),
    )
    try:
        made = _make(found, wanted)
    except Exception as error:  # noqa: BLE001  (no record may cost the report of the others)
        found = _without_culprits(found, wanted, error)
        made = _make(found, wanted)
    # Once, and only when there is a report: the attempt above may have failed, and begun again without some records.
    if pushgateway and (problem := openmetrics.push(pushgateway, made.summary)):
        made = _make(dataclasses.replace(found, problems=(*found.problems, problem)), wanted)
    report, summary = made.report, made.summary
    html_path = _free_name(output_dir / "reports", now)
    write(html_path, made.html.encode(errors="replace"))
    html = html_path.relative_to(output_dir).as_posix()
    reported = [
        *report.problems,
        *write_exports(output_dir, report, made.texts, plan=plan, html=html, environ=environ or {}),
    ]
    written = [html, *made.texts, CRATE_FILE]
    if "index" not in map(folded, found.names):  # it would be the page of that notebook
        write(output_dir / INDEX_FILE, forward_page(html))
        written.append(INDEX_FILE)
    sums.write_report(output_dir, written)
    for problem in reported:
        log.warning("report-problem", detail=problem)
    log.info("report-written", verdict=report.verdict, path=html_path, **report.counts)
    return ReportResult(
        html_path=html_path,
        summary_path=output_dir / "reports" / "summary.json",
        verdict=report.verdict,
        counts=report.counts,
        regressions=summary.regressions,
        problems=tuple(reported),
        failed=tuple(f"{entry.name} {entry.status.value}: {entry.reason}" for entry in report.entries if not entry.ok),
        explained=tuple(line for entry in report.entries if not entry.ok for line in _explained(entry)),
        compared=made.compared,
        sources=tuple(entry.metrics.source for entry in report.entries if entry.metrics),
    )


def _explained(entry: Entry) -> list[str]:
    lines = failure_lines(entry.metrics) if entry.metrics else (entry.reason,)
    return [f"{entry.name}: {entry.status.value}", *(f"  {line}" for line in lines)]


def _check_there_is_something(found: Found, folder: Path, run_id: str | None, only: Sequence[str]) -> None:
    known, names = found.runs, found.names
    if not names:
        raise UsageError(
            f"{folder} holds no record of a run",
            hint="give the --output-dir of the runs; with --plan the report lists what should have run",
        )
    if run_id is not None and run_id not in known:
        hint = f"{did_you_mean(run_id, known)}known runs, newest first: {_listed(known)}"
        raise UsageError(f"{folder} holds no record of run {run_id!r}", hint=hint)
    for name in only:
        if name not in names:
            hint = f"{did_you_mean(name, names)}it has {_listed(names)}"
            raise UsageError(f"{folder} holds no record of {name!r}", hint=hint)


def _unknown_run(found: Found, run_id: str | None) -> tuple[str, ...]:
    known = found.runs
    if run_id is None or run_id in known:
        return ()
    return (f"no notebook has a record of run {run_id}; known runs, newest first: {_listed(known)}",)


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What was asked for; see `build`."""

    folder: Path
    plan: Plan | None
    plan_source: str | None
    only: Sequence[str]
    run_id: str | None
    baselines: Sequence[Path]
    regression_threshold: float
    tasks: Mapping[str, str]
    generated_at: str
    redactor: Redactor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A report that only needs to be written."""

    report: Report
    summary: Summary
    html: str
    texts: Mapping[str, str]
    compared: bool


def _make(found: Found, wanted: _Wanted) -> _Made:
    """Return the whole report on what was found; nothing of it is written yet."""
    report = assemble(
        found,
        plan=wanted.plan,
        plan_source=wanted.plan_source,
        only=wanted.only,
        run_id=wanted.run_id,
        tasks=wanted.tasks,
        generated_at=wanted.generated_at,
    )
    drawn = drawings.draw(report, wanted.folder)
    problems = [*report.problems, *drawn.problems]
    summary = summarize(report, drawn.seen)
    comparison = _compare(summary, wanted.baselines, wanted.regression_threshold, problems)
    summary = dataclasses.replace(summary, regressions=comparison.regressions if comparison else ())
    report = dataclasses.replace(report, problems=tuple(problems))
    summary = dataclasses.replace(summary, problems=report.problems)
    view = {
        "report": report,
        "summary": summary,
        "facts": gather(report, summary),
        "results": results(report),
        "gallery": gallery(report, wanted.folder),
        "drawn": drawn,
        "advice": advise(report, summary, drawn.rows, drawn.pools),
        "comparison": comparison,
        "trends": drawings.trends(comparison) if comparison else {},
        "outcomes": compare_results(report, wanted.folder, wanted.baselines) if comparison else None,
    }
    texts = export_texts(report, summary, wanted.plan, wanted.redactor)
    return _Made(report=report, summary=summary, html=render.render(view), texts=texts, compared=comparison is not None)


def _without_culprits(found: Found, wanted: _Wanted, error: Exception) -> Found:
    """Set aside each record that no report can be made of, also alone; all of them when none stands out.

    They keep their line and their status: a fault of ours is not one of the notebook's.
    """
    names = [name for name in {**found.metrics, **found.flights} if not wanted.only or name in wanted.only]
    faults = {}
    for name in names:
        try:
            _make(found, dataclasses.replace(wanted, only=[name]))
        except Exception as one:  # noqa: BLE001
            faults[name] = f"{type(one).__name__}: {fault(one)}"
    faults = faults or dict.fromkeys(names, f"{type(error).__name__}: {fault(error)}")
    notes = [f"{name} makes the report fail and is left out but for its status: {why}" for name, why in faults.items()]
    return dataclasses.replace(found, set_aside=faults, problems=(*found.problems, *notes))


def _compare(summary: Summary, baselines: Sequence[Path], threshold: float, problems: list[str]) -> Comparison | None:
    """Return the comparison with all baselines that can be read; the others become problems."""
    earlier = []
    for path in baselines:
        try:
            earlier.append(read_baseline(path))
        except ValueError as error:
            problems.append(str(error))
    return compare(summary, earlier, threshold=threshold) if earlier else None


def _free_name(reports: Path, now: datetime) -> Path:
    """Return a name that no report has yet; two in one second are told apart by the next second."""
    while True:
        path = reports / f"complete_analysis_report_{now:%Y%m%d_%H%M%S}.html"
        if not path.exists():
            return path
        now += timedelta(seconds=1)
