# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, declared once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from runner.commands import help_sections
from runner.commands.option_types import Duration, Gigabytes, Number, OnFailure, Variable
from runner.commands.parameter_values import parameter_options

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)

output_dir = help_sections.outputs(
    "--output-dir", type=FOLDER, default=Path("outputs"), show_default=True, help="Where all files of runs go."
)
checkout = help_sections.plan(
    "--checkout",
    type=FOLDER,
    help="Folder that the plan's paths start from. [default: the plan's folder; the current one for a ConfigMap]",
)
as_json = help_sections.outputs("--json", "as_json", is_flag=True, help="Print the answer as JSON.")

gate_options = (
    help_sections.gpus(
        "--min-gpus", type=Number(0, 64, whole=True), help="GPUs wanted. [default: 1 if memory is asked for, else 0]"
    ),
    help_sections.gpus(
        "--min-gpu-memory-gb",
        type=Gigabytes(),
        help="Memory each GPU must have free, in decimal GB as GPUs are sold: 24 or 24GB.",
    ),
    help_sections.gpus(
        "--gpu-free-fraction",
        type=Number(0, 1, above=True),
        default=0.95,
        show_default=True,
        help="Share of that memory that must be free: cards report a little less than they are sold as.",
    ),
    help_sections.gpus(
        "--wait", type=Duration(), default="0s", show_default=True, help="How long to wait for memory that others hold."
    ),
)

watching_options = (
    help_sections.outputs(
        "-q", "--quiet", is_flag=True, help="Show no progress and no log, only errors and the answer."
    ),
    help_sections.outputs(
        "-v", "--verbose", is_flag=True, help="Show the lines of the log on a terminal too, above the progress."
    ),
)


def take_verbosity(given: dict[str, Any]) -> int:
    """Take the options of watching out of what click parsed: -1 quiet, 1 verbose, else 0."""
    return int(given.pop("verbose")) - int(given.pop("quiet"))


secret_options = (
    help_sections.notebook(
        "--secret-env",
        metavar="NAME",
        multiple=True,
        help="Variable of our environment whose value (4 characters or more) is kept out of every file. Repeatable.",
    ),
    help_sections.notebook(
        "--secrets-dir",
        type=FOLDER,
        help="Folder such as a mounted Secret: the content of each file in it (4 characters or more) is kept out of "
        "every file. It may be missing.",
    ),
)

run_options = (
    checkout,
    output_dir,
    help_sections.notebook("--cache", type=FOLDER, help="Folder with the staged datasets."),
    *gate_options,
    help_sections.gpus(
        "--gpu-visibility",
        type=click.Choice(["chosen", "all"]),
        default="chosen",
        show_default=True,
        help="Show the kernel only the GPUs that the gate chose for it (none without --min-gpus), or all visible.",
    ),
    help_sections.limits(
        "--timeout",
        type=Duration(),
        help="Deadline of the notebook, without the gate's wait; 0s is none, whatever the plan says.",
    ),
    help_sections.limits("--cell-timeout", type=Duration(), help="Deadline of each cell; 0s is none."),
    help_sections.limits(
        "--start-timeout", type=Duration(), help="How long the kernel may take to answer. [default: 120s]"
    ),
    help_sections.notebook(
        "--allow-errors/--no-allow-errors",
        default=None,
        help="Run the cells after one that raised; the notebook then ends `failed`, with every such cell named.",
    ),
    help_sections.limits(
        "--on-failure",
        type=OnFailure(),
        help="After a cell raised: `end`, or `hold[=1h]`, which keeps kernel and GPU and waits for `runner repair`. "
        "[default: the plan's, else end]",
    ),
    help_sections.outputs("--report-mode", is_flag=True, help="Hide the code of all cells in the page and in Jupyter."),
    help_sections.limits(
        "--memory-guard",
        type=Number(0, 1),
        default=0.97,
        show_default=True,
        help="Share of the container's memory at which the kernel is ended before the host ends all of us; 0 is off.",
    ),
    help_sections.plan(
        "--skip-optional-notebooks/--no-skip-optional-notebooks",
        default=True,
        show_default=True,
        help="Whether an optional notebook that the gate refuses is skipped, or refused like any other.",
    ),
    help_sections.plan(
        "--continue-on-failure/--no-continue-on-failure",
        default=True,
        show_default=True,
        help="Whether notebooks of a plan run after an earlier one of this run failed.",
    ),
    help_sections.plan(
        "--cleanup-between-notebooks/--no-cleanup-between-notebooks",
        default=True,
        show_default=True,
        help="Whether processes that a notebook leaves behind are ended.",
    ),
    help_sections.gpus(
        "--allocator-probe",
        type=click.Choice(["off", "on", "exact"]),
        default="on",
        show_default=True,
        help="Whether the kernel tells what rmm and cupy really allocated in each cell. With `on`, cupy's own pool "
        "tells an upper bound; `exact` counts each of its allocations, which costs about a microsecond each.",
    ),
    help_sections.gpus("--strict-release", is_flag=True, help="Fail when the GPU memory is not back at its baseline."),
    help_sections.notebook("--kernel", help="Kernel to use instead of the notebook's."),
    help_sections.notebook("--env", type=Variable(), multiple=True, help="Variable for the kernel. Repeatable."),
    *secret_options,
    help_sections.outputs("--trust-html", is_flag=True, help="Keep scripts of outputs in the HTML."),
    help_sections.outputs(
        "--interactive", is_flag=True, help="Keep interactive figures in the HTML; they need no network."
    ),
    help_sections.outputs("--no-html", is_flag=True, help="Write no HTML."),
    help_sections.notebook("--offline", is_flag=True, help="Fail instead of fetching data that is not staged."),
    help_sections.reuse(
        "--resume",
        is_flag=True,
        help="Reuse an earlier success if nothing it depends on has changed; else say why not.",
    ),
    help_sections.reuse(
        "--accept-repaired",
        is_flag=True,
        help="With --resume, reuse a repaired success too, if the notebook is now as it was repaired.",
    ),
)


one_notebook = (
    click.argument("notebook"),
    help_sections.plan("--plan", type=FILE, help="Plan in which NOTEBOOK is a name."),
    *run_options,
    *parameter_options,
)
"""What a command takes that runs one notebook."""


def add(options: Iterable[Callable[[Any], Any]]) -> Callable[[Decorated], Decorated]:
    """Return a decorator that adds options in the order they are listed."""

    def decorate(function: Decorated) -> Decorated:
        for option in reversed(tuple(options)):
            function = option(function)
        return function

    return decorate


def arguments(ctx: click.Context, command: click.Command, leave_out: Sequence[str] = ()) -> list[str]:
    """Return command-line arguments that hand on to ``command`` what was given to the command of ``ctx``."""
    found: list[str] = []
    for param in command.params:
        if not isinstance(param, click.Option) or param.name is None or param.name in leave_out:
            continue
        given = ctx.get_parameter_source(param.name) not in {None, ParameterSource.DEFAULT}
        if given and param.name in ctx.params:
            found += _argument(param, ctx.params[param.name])
    return found


def _argument(param: click.Option, value: Any) -> list[str]:
    flag = max(param.opts, key=len)
    if param.is_flag:
        return [flag] if value else param.secondary_opts[:1]
    if isinstance(param.type, Duration):
        return [flag, f"{value}s"]
    if param.multiple:
        return [part for item in value for part in (flag, "=".join(item) if isinstance(item, tuple) else str(item))]
    return [flag, str(value)]
