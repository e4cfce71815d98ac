# SPDX-License-Identifier: Apache-2.0
"""`runner demo`: run three small notebooks, without a download, on a GPU if available."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runner.commands import options
from runner.commands.run import command as run_command
from runner.commands.run import make_options


@click.command("demo")
@options.add(options.run_options)
@options.add(options.watching_options)
@click.option(
    "--copy-to",
    "copy_to_folder",
    type=options.FOLDER,
    metavar="DIRECTORY",
    help="Only copy the plan and its notebooks to this folder, for a pipeline to run.",
)
@options.as_json
@click.pass_context
def command(ctx: click.Context, /, copy_to_folder: Path | None, as_json: bool, **given: Any) -> int:
    """Run the three notebooks of the demo plan and write their report.

    The notebooks are copied to OUTPUT_DIR/demo and write there. They need scanpy
    (`pip install 'rapids-notebook-runner[demo]'`) and use a GPU if cupy and rapids-singlecell find one.

    \b
    Example:
      runner demo --output-dir outputs
    """
    from runner.demo import copy_to
    from runner.workflow.run_all import Choice, run_all

    if copy_to_folder is not None:
        click.echo(str(copy_to(copy_to_folder)))
        return 0
    output_dir: Path = given["output_dir"]
    plan = copy_to(output_dir / "demo")
    shared = options.arguments(ctx, run_command, leave_out=("output_dir", "checkout", "as_json"))
    verbosity = options.take_verbosity(given)
    run_options = make_options({**given, "notebook": "", "plan": plan, "checkout": plan.parent})
    result = run_all(run_options, Choice(), shared, verbosity)
    click.echo(result.summary_path.read_text() if as_json and result.summary_path else result.text)
    return result.exit_code
