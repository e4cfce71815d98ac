# SPDX-License-Identifier: Apache-2.0
"""Builds the report of an output folder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
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
from runner.report.results import compare_results, results
from runner.report.summary import Regression, Summary, summarize
from runner.report.validation import fault

if TYPE_CHECKING:
    from runner.core.records import Source
    from runner.plan.model import Plan
    from runner.report.assemble import Entry
    from runner.report.found import Found


_LISTED = 10
"""Names listed in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportResult:
    """Files and verdict of a report."""

    html_path: Path
    summary_path: Path
    verdict: Verdict
    counts: Mapping[str, int]
    regressions: tuple[Regression, ...] = ()
    problems: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    """Each notebook that prevents a success, with its status and reason."""
    explained: tuple[str, ...] = ()
    """Lines on these for a terminal: failed cell, error and hint."""
    compared: bool = False
    """Whether a baseline could be read."""
    sources: tuple[Source, ...] = ()
    """Sources of the notebooks with a record."""

    def ok(self, *, fail_on_failure: bool = False, fail_on_regression: bool = False) -> bool:
        """Return True if the command should exit with 0."""
        return not self.objections(fail_on_failure=fail_on_failure, fail_on_regression=fail_on_regression)

    def objections(self, *, fail_on_failure: bool = False, fail_on_regression: bool = False) -> tuple[str, ...]:
        """Return the reasons for a nonzero exit code, most important first."""
        found: list[str] = []
        if fail_on_failure and self.verdict == "failed":
            found += self.failed or ["there are no notebooks to report on"]
        if fail_on_regression and not self.compared:
            found.append("regressions cannot be ruled out: no readable --baseline was given")
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
    """Write `reports/` in an output folder.

    Parameters
    ----------
    output_dir
        The folder of the runs.
    plan
        Plan whose notebooks are listed even if they did not run.
    plan_source
        Location of the plan, for the page.
    only
        Names to which the report is limited; others are listed separately and not part of the verdict.
    run_id
        The run to report on; default is the newest one.
    wait_for_running_seconds
        How long to wait for active runs.
    baselines
        Output folders or summaries of earlier runs, oldest first.
    regression_threshold
        Relative increase of a figure that counts as a regression.
    pushgateway
        URL to push the figures to.
    tasks
        Status of the tasks before the notebooks. With it a report is written in any case.
    problems
        Problems of the caller to list.
    environ
        Environment with `GITHUB_STEP_SUMMARY`.
    watch
        Returns which claims belong to live runs; default is `runner.outputs.claim.alive`.
    redactor
        Redacts secrets in the plan as it is written.

    Raises
    ------
    UsageError
        A name of ``only`` is unknown; or, without plan and tasks, folder, run or records do not exist.
    RecordError
        The report cannot be written.
    """
    for name in only:
        if plan:
            plan.notebook(name)
    if plan or tasks:  # notebooks are listed even if nothing has run
        make_folder(output_dir)
    elif not output_dir.is_dir():
        hint = f"{did_you_mean_path(output_dir)}give the --output-dir of the runs"
        raise UsageError(f"the folder {output_dir} does not exist", hint=hint)
    found = read_folder(
        output_dir, watch=watch or alive, wait_seconds=wait_for_running_seconds, run_id=run_id, only=only
    )
    if not plan and not tasks:
        _check_not_empty(found, output_dir, run_id, only)
    found = dataclasses.replace(found, problems=(*problems, *_unknown_run(found, run_id), *found.problems))
    now = datetime.now(UTC)
    make = functools.partial(
        _make,
        folder=output_dir,
        plan=plan,
        plan_source=plan_source,
        run_id=run_id,
        baselines=baselines,
        regression_threshold=regression_threshold,
        tasks=tasks or {},
        generated_at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        redactor=redactor or Redactor(),
    )
    try:
        made = make(found, only=only)
    except Exception as error:  # noqa: BLE001  (one bad record must not prevent the report on the others)
        found = _without_culprits(found, make, only, error)
        made = make(found, only=only)
    # Only once there is a report, as the attempt above may have been repeated without some records.
    if pushgateway and (problem := openmetrics.push(pushgateway, made.summary)):
        made = make(dataclasses.replace(found, problems=(*found.problems, problem)), only=only)
    report, summary = made.report, made.summary
    html_path = _free_name(output_dir / "reports", now)
    write(html_path, made.html.encode(errors="replace"))
    html = html_path.relative_to(output_dir).as_posix()
    reported = [
        *report.problems,
        *write_exports(output_dir, report, made.texts, plan=plan, html=html, environ=environ or {}),
    ]
    written = [html, *made.texts, CRATE_FILE]
    if "index" not in map(folded, found.names):  # a notebook of that name has the same page
        write(output_dir / INDEX_FILE, render.forward_page(html))
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


def _check_not_empty(found: Found, folder: Path, run_id: str | None, only: Sequence[str]) -> None:
    known, names = found.runs, found.names
    if not names:
        raise UsageError(
            f"{folder} contains no records",
            hint="give the --output-dir of the runs; with --plan the report lists notebooks that should have run",
        )
    if run_id is not None and run_id not in known:
        hint = f"{did_you_mean(run_id, known)}known runs, newest first: {_listed(known)}"
        raise UsageError(f"{folder} contains no record of run {run_id!r}", hint=hint)
    for name in only:
        if name not in names:
            hint = f"{did_you_mean(name, names)}it has {_listed(names)}"
            raise UsageError(f"{folder} contains no record of {name!r}", hint=hint)


def _unknown_run(found: Found, run_id: str | None) -> tuple[str, ...]:
    known = found.runs
    if run_id is None or run_id in known:
        return ()
    return (f"no notebook has a record of run {run_id}; known runs, newest first: {_listed(known)}",)


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A report that is not yet written."""

    report: Report
    summary: Summary
    html: str
    texts: Mapping[str, str]
    compared: bool


def _make(
    found: Found,
    *,
    folder: Path,
    plan: Plan | None,
    plan_source: str | None,
    only: Sequence[str],
    run_id: str | None,
    baselines: Sequence[Path],
    regression_threshold: float,
    tasks: Mapping[str, str],
    generated_at: str,
    redactor: Redactor,
) -> _Made:
    """Return the report without writing it."""
    report = assemble(
        found,
        plan=plan,
        plan_source=plan_source,
        only=only,
        run_id=run_id,
        tasks=tasks,
        generated_at=generated_at,
    )
    drawn = drawings.draw(report, folder)
    problems = [*report.problems, *drawn.problems]
    summary = summarize(report, drawn.seen)
    comparison = _compare(summary, baselines, regression_threshold, problems)
    summary = dataclasses.replace(summary, regressions=comparison.regressions if comparison else ())
    report = dataclasses.replace(report, problems=tuple(problems))
    summary = dataclasses.replace(summary, problems=report.problems)
    view = {
        "report": report,
        "summary": summary,
        "facts": gather(report, summary),
        "results": results(report),
        "gallery": gallery(report, folder),
        "drawn": drawn,
        "advice": advise(report, summary, drawn.rows, drawn.pools),
        "comparison": comparison,
        "trends": drawings.trends(comparison) if comparison else {},
        "outcomes": compare_results(report, folder, baselines) if comparison else None,
    }
    texts = export_texts(report, summary, plan, redactor)
    return _Made(report=report, summary=summary, html=render.render(view), texts=texts, compared=comparison is not None)


def _without_culprits(found: Found, make: Callable[..., _Made], only: Sequence[str], error: Exception) -> Found:
    """Set aside the records that make even a report on them alone fail; all of them if there is no such one.

    They are still listed with their status, which an internal error must not change.
    """
    names = [name for name in {**found.metrics, **found.flights} if not only or name in only]
    faults = {}
    for name in names:
        try:
            make(found, only=[name])
        except Exception as one:  # noqa: BLE001
            faults[name] = f"{type(one).__name__}: {fault(one)}"
    faults = faults or dict.fromkeys(names, f"{type(error).__name__}: {fault(error)}")
    notes = [f"{name} makes the report fail, so only its status is shown: {why}" for name, why in faults.items()]
    return dataclasses.replace(found, set_aside=faults, problems=(*found.problems, *notes))


def _compare(summary: Summary, baselines: Sequence[Path], threshold: float, problems: list[str]) -> Comparison | None:
    """Return the comparison with all readable baselines; unreadable ones become problems."""
    earlier = []
    for path in baselines:
        try:
            earlier.append(read_baseline(path))
        except ValueError as error:
            problems.append(str(error))
    return compare(summary, earlier, threshold=threshold) if earlier else None


def _free_name(reports: Path, now: datetime) -> Path:
    """Return an unused file name; a second report within one second gets the next second."""
    while True:
        path = reports / f"complete_analysis_report_{now:%Y%m%d_%H%M%S}.html"
        if not path.exists():
            return path
        now += timedelta(seconds=1)
