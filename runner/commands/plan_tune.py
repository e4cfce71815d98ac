# SPDX-License-Identifier: Apache-2.0
"""`runner plan tune`: derive a plan's gates, CPUs, memory and timeouts from measured usage."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import options
from runner.commands.answer import answer


@click.command("tune")
@click.argument("plan", type=options.FILE)
@click.option(
    "--from",
    "outputs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    metavar="OUTPUT_DIR",
    help="Outputs of a run of this plan.",
)
@click.option("--write", is_flag=True, help="Write the changes to PLAN; comments are kept.")
@options.as_json
def command(plan: Path, outputs: Path, write: bool, as_json: bool) -> None:
    """Show the gates, CPUs, memory and timeouts of PLAN that match its notebooks' measured usage.

    Values come from notebooks that succeeded, with margins: a gate is the smallest card proved by `runner fit` for
    the same source and parameters, else the smallest with 10 % to spare; cpus the 95 % quantile of the samples,
    memory 1.25 times the peak, a timeout 3 times the longest run and at least 10 minutes. --write adds a comment with
    the margins above the notebooks.

    \b
    Examples:
      runner plan tune plan.yaml --from outputs
      runner plan tune plan.yaml --from outputs --write
    """
    import dataclasses
    import json
    from datetime import UTC, datetime

    from runner.core import files
    from runner.plan.edit import with_values
    from runner.plan.model import load, parse
    from runner.workflow.tune import MARGINS, tune

    loaded = load(plan)
    text = plan.read_text(encoding="utf-8")
    changes, unchanged = tune(text, loaded, outputs)
    if as_json:
        listed = {
            "changes": [dataclasses.asdict(one) for one in changes],
            "unchanged": [dataclasses.asdict(one) for one in unchanged],
        }
        answer(json.dumps({"plan": loaded.name, "margins": MARGINS, "written": write, **listed}, indent=1))
    else:
        for one in (*changes, *unchanged):
            answer(str(one))
        answer(f"{plan}: {len(changes)} values {'changed' if write else 'to change'}; {MARGINS}")
    if write and changes:
        values: dict[int, dict[tuple[str, ...], str]] = {}
        for change in changes:
            values.setdefault(change.position, {})[change.path] = change.text
        edited = with_values(text, values, f"Tuned {datetime.now(UTC):%Y-%m-%d}, {MARGINS}")
        parse(edited, str(plan))
        files.write(plan, edited)
