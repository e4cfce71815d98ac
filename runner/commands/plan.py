# SPDX-License-Identifier: Apache-2.0
"""`runner plan`: create, check, show, render and tune plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.commands import options, plan_render, plan_tune
from runner.commands.help import Commands

if TYPE_CHECKING:
    from runner.plan.model import Plan


@click.group("plan", cls=Commands)
def command() -> None:
    """Create, check, show, render or tune a plan."""


command.add_command(plan_render.command)
command.add_command(plan_tune.command)


@command.command("init")
@click.option(
    "--from", "folder", type=options.FOLDER, default=Path(), show_default=True, help="Folder with the notebooks."
)
@click.option(
    "--to", type=options.FILE, help="The plan to write; paths are relative to its folder. [default: FOLDER/plan.yaml]"
)
def init(folder: Path, to: Path | None) -> int:
    """Write a commented starter plan for a folder of notebooks, and its JSON Schema for editors beside it.

    Dependencies are guessed from files that one notebook writes and another reads, GPUs from imports. An existing
    plan is never overwritten.

    Exit code: 0 written and valid, 2 no notebooks or the plan exists, 9 it does not match the notebooks.

    \b
    Examples:
      runner plan init
      runner plan init --from notebooks --to plan.yaml
    """
    from runner.core import files
    from runner.core.errors import UsageError
    from runner.plan.model import parse
    from runner.stages.prepare.plan_check import check_plan
    from runner.stages.prepare.plan_starter import SCHEMA_FILE, starter

    target = to or folder / "plan.yaml"
    if target.exists():
        raise UsageError(f"{target} exists", hint="edit it, or write another one with --to")
    made = starter(folder, target.parent)
    plan = parse(made.text, str(target))
    files.write(target, made.text)
    files.write(target.parent / SCHEMA_FILE, schema_text("plan"))
    for reason in made.left_out:
        click.echo(f"left out: {reason}", err=True)
    problems = [one for one in check_plan(plan, target.parent.absolute(), target) if one.severity == "error"]
    for problem in problems:
        click.echo(problem)
    click.echo(f"{target}: {made.notebooks} notebooks; read and correct it, then: runner plan check {target}")
    return 9 if problems else 0


@command.command("check")
@click.argument("plan", type=options.FILE)
@options.checkout
@options.as_json
def check(plan: Path, checkout: Path | None, as_json: bool) -> int:
    """Check PLAN, and each rule, parameter, dataset URL and path in it against the notebooks.

    Notebooks are looked up in the plan's folder, or in --checkout. Files shared by several notebooks are listed.
    `runner plan show` checks only the plan.

    Exit code: 0 no errors, 2 not a valid plan, 9 it does not match the notebooks.

    \b
    Examples:
      runner plan check plan.yaml
      runner plan check --checkout ~/single-cell-analysis-blueprint plan.yaml
    """
    import dataclasses
    import json

    from runner.plan.job import checkout_of
    from runner.plan.model import load
    from runner.stages.prepare.plan_check import check_plan

    loaded = load(plan)
    folder = checkout_of(plan, checkout)
    problems = check_plan(loaded, folder, plan)
    errors = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        found = [dataclasses.asdict(problem) for problem in problems]
        counts = {"plan": loaded.name, "notebooks": len(loaded.notebooks)}
        click.echo(json.dumps({**counts, "problems": found, "shared": _shared(loaded)}, indent=1))
    else:
        for line in [*map(str, problems), *_shared_lines(loaded)]:
            click.echo(line)
        verdict = f"{len(errors)} errors, {len(problems) - len(errors)} warnings" if problems else "sound"
        click.echo(f"{plan}: {loaded.name}, {len(loaded.notebooks)} notebooks: {verdict} against {folder}")
        missing = sum(not (folder / notebook.path).exists() for notebook in loaded.notebooks)
        if missing == len(loaded.notebooks) and checkout is None:
            click.echo(f"hint: {folder} has none of the notebooks; give their folder with --checkout")
    return 9 if errors else 0


@command.command("show")
@click.argument("plan", type=options.FILE)
@options.as_json
def show(plan: Path, as_json: bool) -> None:
    """Show PLAN with defaults filled in, and the files that notebooks share.

    \b
    Example:
      runner plan show plan.yaml --json
    """
    from runner.plan.model import load

    loaded = load(plan)
    if as_json:
        click.echo(loaded.model_dump_json(indent=1, by_alias=True, exclude_none=True))
        return
    for notebook in loaded.notebooks:
        requires = notebook.requires.model_dump(exclude_none=True)
        facts = [notebook.stage or "", "optional" if notebook.optional else ""]
        facts += [key if value is True else f"{key} {value:g}" for key, value in requires.items() if value is not False]
        facts += [f"needs {', '.join(notebook.needs)}" if notebook.needs else ""]
        click.echo(f"{notebook.name}: {notebook.path}  {'; '.join(filter(None, facts))}".rstrip())
    for line in _shared_lines(loaded):
        click.echo(line)


def _shared(plan: Plan) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the files used by several notebooks: products that each of them writes, and datasets."""
    from runner.plan.sharing import shared_datasets, shared_products

    return {"products": shared_products(plan), "datasets": shared_datasets(plan)}


def _shared_lines(plan: Plan) -> list[str]:
    shared = _shared(plan)
    products = [f"shared product {name}: {', '.join(users)}" for name, users in shared["products"].items()]
    return products + [f"shared dataset {name}: {', '.join(users)}" for name, users in shared["datasets"].items()]


@command.command("schema")
@click.argument("document", type=click.Choice(["plan", "metrics", "summary"]), default="plan")
def schema(document: str) -> None:
    """Print the JSON Schema of a plan, of NAME.metrics.json or of summary.json.

    \b
    Example:
      runner plan schema > plan.schema.json
    """
    click.echo(schema_text(document), nl=False)


def schema_text(document: str) -> str:
    """Return the text of a published schema."""
    from importlib import resources

    return resources.files("runner.core").joinpath("schemas", f"{document}.json").read_text("utf-8")
