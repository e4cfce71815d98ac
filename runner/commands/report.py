# SPDX-License-Identifier: Apache-2.0
"""`runner report`: write the report on an output folder."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import option_types, options
from runner.core.stop import ending_on_signals


@click.command("report")
@click.argument("output_dir", type=options.FOLDER)
@click.option("--plan", type=options.FILE, help="Plan whose notebooks are listed, including those that never ran.")
@click.option("--only", multiple=True, metavar="NAME", help="Report on this notebook only. Repeatable.")
@click.option("--run-id", help="Run to report on. [default: the newest]")
@click.option(
    "--wait-for-running",
    type=option_types.Duration(),
    default="0s",
    help="How long to wait for runs in progress.",
)
@click.option(
    "--fail-on-failure", is_flag=True, help="Exit 1 unless each notebook succeeded or was legitimately skipped."
)
@click.option(
    "--baseline",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Earlier outputs or summary.json to compare with. Repeatable, oldest first.",
)
@click.option("--fail-on-regression", is_flag=True, help="Exit 1 if time or memory grew more than allowed.")
@click.option(
    "--regression-threshold", type=option_types.Number(0), default=0.2, show_default=True, help="Allowed growth."
)
@click.option("--pushgateway", metavar="URL", help="Prometheus Pushgateway to send the metrics to.")
@click.option(
    "--task-status",
    type=option_types.Setting(),
    multiple=True,
    metavar="TASK=STATUS",
    help="Status of a task before the notebooks, such as clone=Failed; the report is then written even without a "
    "plan. Repeatable.",
)
@click.option("--results-dir", type=options.FOLDER, help="Folder for Tekton's one-line results.")
@options.add(options.secret_options)
@options.as_json
@ending_on_signals()
def command(
    output_dir: Path,
    plan: Path | None,
    only: tuple[str, ...],
    run_id: str | None,
    wait_for_running: float,
    fail_on_failure: bool,
    baseline: tuple[Path, ...],
    fail_on_regression: bool,
    regression_threshold: float,
    pushgateway: str | None,
    task_status: tuple[tuple[str, str], ...],
    results_dir: Path | None,
    secret_env: tuple[str, ...],
    secrets_dir: Path | None,
    as_json: bool,
) -> int:
    """Write the page, summary.json, junit.xml, metrics.prom and github-summary.md to OUTPUT_DIR/reports.

    \b
    Examples:
      runner report outputs --plan plan.yaml --fail-on-failure
      runner report outputs --baseline last-week/summary.json --fail-on-regression
    """
    import os

    from runner import report
    from runner.core.errors import PlanError
    from runner.core.redact import Redactor, hidden_values
    from runner.core.trace import tracing
    from runner.plan.model import load

    problems = []
    try:
        loaded = load(plan) if plan else None
    except PlanError as error:
        if not task_status:
            raise
        loaded = None  # the plan would have come with the clone
        problems.append(str(error))
    hidden = hidden_values(
        secret_env, secrets_dir, [os.environ, *(n.env for n in loaded.notebooks)] if loaded else [os.environ]
    )
    redactor = Redactor(hidden)
    with tracing("report", run_id=run_id) as trace:
        result = report.build(
            output_dir,
            plan=loaded,
            plan_source=str(plan) if plan else None,
            only=only,
            run_id=run_id,
            wait_for_running_seconds=wait_for_running,
            baselines=baseline,
            regression_threshold=regression_threshold,
            pushgateway=pushgateway,
            tasks=dict(task_status),
            problems=problems,
            environ=os.environ,
            redactor=redactor,
        )
        trace.note(verdict=result.verdict)
    objections = result.objections(fail_on_failure=fail_on_failure, fail_on_regression=fail_on_regression)
    for objection in objections:
        click.echo(f"runner: {redactor.text(objection)}", err=True)
    click.echo(result.summary_path.read_text() if as_json else str(result.html_path), nl=not as_json)
    if results_dir is not None:
        from runner.outputs import sums
        from runner.outputs.tekton_results import artifacts, source_hints, write_values

        counts = ", ".join(f"{count} {what}" for what, count in result.counts.items())
        values = {"verdict": result.verdict, "counts": counts, "report-path": str(result.html_path)}
        made = {"summary": "reports/summary.json", "sums": sums.REPORT.as_posix()}
        write_values(results_dir, values, artifacts(output_dir, made) | source_hints(result.sources))
    for problem in result.problems:
        click.echo(f"runner: {problem}", err=True)
    return int(bool(objections))
