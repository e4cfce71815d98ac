# SPDX-License-Identifier: Apache-2.0
"""`runner run`: run a notebook."""

from __future__ import annotations

from typing import Any

import click

from runner.commands import help_sections, on_end, option_types, options
from runner.commands.answer import answer
from runner.commands.parameter_values import take

_SIGNAL_SECONDS = 25.0
"""Time after a signal until `--on-end` must have finished: orchestrators kill us after 30 s."""


@click.command("run", cls=help_sections.Sectioned)
@options.add(options.one_notebook)
@help_sections.notebook("--name", help="Base name of the output files. [default: the notebook's]")
@help_sections.plan(
    "--optional/--no-optional", default=None, help="Whether the notebook is skipped if the gate refuses it."
)
@help_sections.notebook(
    "--cwd", type=options.FOLDER, help="Working directory. [default: the plan's, else the notebook's folder]"
)
@options.add(options.watching_options)
@help_sections.plan("--run-id", help="ID of the plan's run that this belongs to. [default: a new one]")
@help_sections.plan("--any-run", is_flag=True, hidden=True, help="Accept a success from any run for the needs.")
@help_sections.reuse(
    "--retry-count",
    type=option_types.Number(0, whole=True),
    default=0,
    help="Number of the orchestrator's retry. Above 0, a verdict of this run that a retry would not change is "
    "repeated at once; only lost, terminated, and refused for a neighbour's memory run again.",
)
@help_sections.reuse("--rerun", is_flag=True, help="With --resume, run the notebook in any case.")
@help_sections.notebook(
    "--twice",
    is_flag=True,
    help="Run the notebook again in a scratch folder, and mark each cell bit-equal, equal in meaning or unstable; "
    "exit 7 if one is unstable.",
)
@help_sections.outputs("--results-dir", type=options.FOLDER, help="Folder for Tekton's one-line results.")
@help_sections.outputs(
    "--prepare-only", is_flag=True, help="Write NAME.prepared.ipynb, list what changed, run nothing."
)
@on_end.option
@options.as_json
def command(**given: Any) -> int:
    """Run NOTEBOOK and write its results: a file, a URL (http, https, s3, gs, hf), `-`, or with --plan a name.

    .py, .md, .qmd and .Rmd files are read through jupytext if installed. `{parameter}` in --name and --output-dir is
    replaced by its value.

    Exit code: 0 succeeded or skipped, 1 a cell raised, 3 refused by the gate, 4 timed out, 5 kernel
    died, 6 ended itself early, 7 unexpected results, 8 memory not released, 9 broken input,
    143/130 SIGTERM/SIGINT, 2 usage.

    \b
    Examples:
      runner run notebook.ipynb --min-gpu-memory-gb 24 --timeout 2h
      runner run notebook.ipynb -p n_top_genes 2000 --name 'notebook-{n_top_genes}'
      runner run 02_extended --plan plan.yaml --output-dir outputs
    """
    from runner.commands.notebook_input import copied

    as_json = given.pop("as_json")
    with copied(given) as local:
        return _run(local, as_json=as_json)


def _run(given: dict[str, Any], *, as_json: bool) -> int:
    from runner.plan.job import resolve

    words = given.pop("on_end")
    verbosity = options.take_verbosity(given)
    job = resolve(make_options(given))
    if job.options.prepare_only:
        from runner.run.preparation import prepare_only

        return prepare_only(job, as_json=as_json)
    from runner.core.endings import end_lines
    from runner.core.errors import RunnerError, UsageError
    from runner.core.stop import StoppedError, Stopper, answering
    from runner.machine.processes import name_run
    from runner.run.lifecycle import run
    from runner.run.progress import watched

    name_run()
    stopper = Stopper()
    stopper.watch_signals()
    record = job.path(".metrics.json")
    try:
        with watched(1, verbosity) as progress:
            if progress:
                progress.begin(job.name, job.path(".running"))
            metrics = run(job, stopper)
    except (UsageError, StoppedError):
        raise  # nothing ran
    except Exception as error:
        left = stopper.seconds_left(_SIGNAL_SECONDS)
        on_end.call(words, record, "lost", getattr(error, "exit_code", RunnerError.exit_code), seconds=left)
        raise
    with answering(metrics.exit_code):
        if as_json:
            answer(record.read_text())
        else:
            lines = end_lines(metrics)
            pages = (job.path(ending) for ending in (".html", ".log", ".metrics.json"))
            page = next((path for path in pages if path.is_file()), None) if metrics.exit_code else None
            answer("\n".join([*lines, f"  see {page.resolve().as_uri()}"] if page else lines))
        left = stopper.seconds_left(_SIGNAL_SECONDS)
        on_end.call(words, record, metrics.status.value, metrics.exit_code, seconds=left)
    return metrics.exit_code


def make_options(given: dict[str, Any]) -> Any:
    """Return the options record of the parsed options."""
    from runner.plan.job import Options

    if given.get("accept_repaired") and not given["resume"]:
        from runner.core.errors import UsageError

        raise UsageError("--accept-repaired works only together with --resume", hint="add --resume")
    values = dict(given)
    values["parameters"] = take(values)
    values["env"] = dict(values["env"])
    values["html"] = not values.pop("no_html")
    return Options(**values)
