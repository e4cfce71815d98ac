# SPDX-License-Identifier: Apache-2.0
"""`runner run-all`: run the notebooks of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runner.commands import help_sections, option_types, options
from runner.commands import on_end as on_end_command
from runner.commands.answer import answer
from runner.commands.run import command as run_command
from runner.commands.run import make_options


@click.command("run-all", cls=help_sections.Sectioned)
@click.argument("plan", type=options.FILE)
@options.add(options.run_options)
@options.add(options.watching_options)
@help_sections.plan("--only", multiple=True, metavar="NAME", help="Run this notebook only. Repeatable.")
@help_sections.plan("--from", "start", metavar="NAME", help="Start from this notebook.")
@help_sections.plan("--failed", is_flag=True, help="Run notebooks that did not succeed, and those that need them.")
@help_sections.reuse(
    "--rerun", multiple=True, metavar="NAME", help="With --resume, run this notebook in any case. Repeatable."
)
@help_sections.reuse("--dry-run", is_flag=True, help="With --resume, only print what would be reused or run, and why.")
@help_sections.plan(
    "--jobs",
    metavar="N|auto",
    type=option_types.Jobs(),
    default="1",
    show_default=True,
    help="Notebooks to run at once, within the plan's GPUs, cpus and memory_gb; `auto`: as many as fit.",
)
@help_sections.plan("--run-id", help="ID of the whole run. [default: a new one]")
@on_end_command.option
@options.as_json
@click.pass_context
def command(
    ctx: click.Context,
    /,
    plan: Path,
    run_id: str | None,
    dry_run: bool,
    on_end: tuple[str, ...],
    as_json: bool,
    **given: Any,
) -> int:
    """Run the notebooks of PLAN, each in its own process, then write the report.

    Exit code: 0 if each notebook succeeded or was skipped as optional, else 1; 2 usage; 143/130 signals.

    \b
    Examples:
      runner run-all plan.yaml --output-dir outputs
      runner run-all plan.yaml --resume --dry-run
      runner run-all plan.yaml --only 01_preprocessing --only 02_extended --jobs auto
    """
    from runner.core.errors import UsageError
    from runner.core.stop import answering
    from runner.workflow import run_all

    chosen = {name: given.pop(name) for name in ("only", "start", "failed", "rerun", "jobs")}
    choice = run_all.Choice(**chosen)
    verbosity = options.take_verbosity(given)
    if not given["resume"] and (dry_run or choice.rerun):
        name = "--dry-run" if dry_run else "--rerun"
        raise UsageError(f"{name} works only together with --resume", hint="add --resume")
    run_options = make_options({**given, "notebook": "", "plan": plan, "run_id": run_id})
    if dry_run:
        answer(run_all.dry_run(run_options, choice, as_json=as_json))
        return 0
    left_out = ("plan", "output_dir", "checkout", "run_id", "as_json", "rerun", "on_end")
    arguments = options.arguments(ctx, run_command, leave_out=left_out)
    result = run_all.run_all(run_options, choice, arguments, verbosity)
    with answering(result.exit_code):
        answer(result.summary_path.read_text() if as_json and result.summary_path else result.text)
        ended = {0: "succeeded", 1: "failed"}.get(result.exit_code, "terminated" if result.exit_code > 128 else "lost")
        if result.summary_path or result.exit_code:
            on_end_command.call(on_end, result.summary_path, ended, result.exit_code)
    return result.exit_code
