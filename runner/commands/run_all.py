# SPDX-License-Identifier: Apache-2.0
"""`runner run-all`: the notebooks of a plan, one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runner.commands import options
from runner.commands.answer import answer
from runner.commands.run import command as run_command
from runner.commands.run import make_options


@click.command("run-all")
@click.argument("plan", type=options.FILE)
@options.add(options.run_options)
@click.option("--only", multiple=True, metavar="NAME", help="Run this notebook only. Repeatable.")
@click.option("--from", "start", metavar="NAME", help="Begin with this notebook.")
@click.option("--run-id", help="Name of the whole run. [default: a new one]")
@options.as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    plan: Path,
    only: tuple[str, ...],
    start: str | None,
    run_id: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Run the notebooks of PLAN in order, each in a process of its own, then write the report.

    Exit code: 0 when each notebook succeeded or was legitimately skipped, else 1; 2 usage; 143/130 signals.

    \b
    Examples:
      runner run-all plan.yaml --output-dir outputs
      runner run-all plan.yaml --only 01_preprocessing --only 02_extended
    """
    from runner.core.stop import answering
    from runner.workflow.run_all import run_all

    shared = options.arguments(ctx, run_command, leave_out=("plan", "output_dir", "checkout", "run_id", "as_json"))
    run_options = make_options({**given, "notebook": "", "plan": plan, "run_id": run_id})
    result = run_all(run_options, only=only, start=start, run_arguments=shared)
    with answering(result.exit_code):
        answer(result.summary_path.read_text() if as_json and result.summary_path else result.text)
    return result.exit_code
