# SPDX-License-Identifier: Apache-2.0
"""`runner run`: one notebook."""

from __future__ import annotations

from typing import Any

import click

from runner.commands import options
from runner.commands.answer import answer


@click.command("run")
@click.argument("notebook")
@click.option("--plan", type=options.FILE, help="Plan in which NOTEBOOK is a name.")
@click.option("--name", help="Base name of the output files. [default: the notebook's]")
@options.add(options.run_options)
@click.option(
    "--optional/--no-optional", default=None, help="Whether the notebook may be skipped if the gate refuses it."
)
@click.option("--cwd", type=options.FOLDER, help="Working directory. [default: the plan's, else the notebook's folder]")
@click.option("-p", "--parameters", nargs=2, multiple=True, metavar="NAME VALUE", help="Parameter. Repeatable.")
@click.option("--parameters-yaml", metavar="TEXT", help="Parameters as YAML.")
@click.option("--run-id", help="Run of a plan that this belongs to. [default: one of its own]")
@click.option("--any-run", is_flag=True, hidden=True, help="Needs may be met by a success of any run.")
@click.option("--results-dir", type=options.FOLDER, help="Folder for Tekton's one-line results.")
@click.option("--prepare-only", is_flag=True, help="Write NAME.prepared.ipynb, list what changed, run nothing.")
@options.as_json
def command(**given: Any) -> int:
    """Run NOTEBOOK, a path or with --plan a name, and leave its record.

    Exit code: 0 succeeded or skipped, 1 a cell raised, 3 refused by the gate, 4 timed out, 5 kernel
    died, 6 ended itself early, 7 unexpected results, 8 memory not released, 9 broken input,
    143/130 SIGTERM/SIGINT, 2 usage.

    \b
    Examples:
      runner run notebook.ipynb --min-gpu-memory-gb 24 --timeout 2h
      runner run 02_extended --plan plan.yaml -p n_top_genes 2000
    """
    from runner.plan.job import resolve

    as_json = given.pop("as_json")
    job = resolve(make_options(given))
    if job.options.prepare_only:
        from runner.run.prepare_only import prepare_only

        return prepare_only(job, as_json=as_json)
    from runner.core.stop import Stopper, answering
    from runner.core.units import format_seconds
    from runner.run.lifecycle import run
    from runner.run.progress import for_terminal

    stopper = Stopper()
    stopper.hear()
    with for_terminal() as progress:
        metrics = run(job, stopper, progress)
    with answering(metrics.exit_code):
        if as_json:
            answer(job.path(".metrics.json").read_text())
        else:
            where = "" if metrics.exit_code == 0 else f" ({job.path('.metrics.json')})"
            answer(f"{metrics.notebook}: {metrics.status.value} in {format_seconds(metrics.wall_seconds)}{where}")
    return metrics.exit_code


def make_options(given: dict[str, Any]) -> Any:
    """Return the options record for what click parsed."""
    from runner.plan.job import Options

    values = dict(given)
    yaml_text = values.pop("parameters_yaml", None)
    values["parameters"] = {**parameters_from_yaml(yaml_text), **{k: typed(v) for k, v in values["parameters"]}}
    values["env"] = dict(values["env"])
    values["html"] = not values.pop("no_html")
    return Options(**values)


def parameters_from_yaml(text: str | None) -> dict[str, Any]:
    """Return the parameters in a YAML text.

    Raises
    ------
    UsageError
        It is no mapping of names to values.
    """
    if not text:
        return {}
    import yaml

    from runner.core import safe_yaml
    from runner.core.errors import UsageError

    try:
        values = safe_yaml.load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--parameters-yaml is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError("--parameters-yaml is not a mapping of names to values", hint="write it like 'n_cells: 500'")
    return values


def typed(text: str) -> Any:
    """Return a parameter's value as papermill types it: True, False, None, int, float, else text."""
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
