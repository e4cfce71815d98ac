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
    "--output-dir", type=FOLDER, default=Path("outputs"), show_default=True, help="Folder for all output files."
)
checkout = help_sections.plan(
    "--checkout",
    type=FOLDER,
    help="Folder that the plan's paths are relative to. [default: the plan's folder; the current one for a ConfigMap]",
)
as_json = help_sections.outputs("--json", "as_json", is_flag=True, help="Print the answer as JSON.")

gate_options = (
    help_sections.gpus(
        "--min-gpus", type=Number(0, 64, whole=True), help="GPUs required. [default: 1 if memory is given, else 0]"
    ),
    help_sections.gpus(
        "--min-gpu-memory-gb",
        type=Gigabytes(),
        help="Free memory required on each GPU, in decimal GB as in data sheets: 24 or 24GB.",
    ),
    help_sections.gpus(
        "--gpu-free-fraction",
        type=Number(0, 1, above=True),
        default=0.95,
        show_default=True,
        help="Share of that memory that must be free: cards report slightly less than their nominal size.",
    ),
    help_sections.gpus(
        "--wait", type=Duration(), default="0s", show_default=True, help="How long to wait for memory held by others."
    ),
)

watching_options = (
    help_sections.outputs("-q", "--quiet", is_flag=True, help="Show only errors and the answer, no progress or log."),
    help_sections.outputs("-v", "--verbose", is_flag=True, help="On a terminal, show the log above the progress too."),
)


def take_verbosity(given: dict[str, Any]) -> int:
    """Remove --quiet and --verbose from the parsed options: -1 quiet, 1 verbose, else 0."""
    return int(given.pop("verbose")) - int(given.pop("quiet"))


secret_options = (
    help_sections.notebook(
        "--secret-env",
        metavar="NAME",
        multiple=True,
        help="Environment variable whose value (4 characters or more) is redacted in every file. Repeatable.",
    ),
    help_sections.notebook(
        "--secrets-dir",
        type=FOLDER,
        help="Folder such as a mounted Secret: the content of each file in it (4 characters or more) is redacted in "
        "every output file. It may be missing.",
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
        help="GPUs the kernel sees: only those the gate chose (none without --min-gpus), or all visible ones.",
    ),
    help_sections.limits(
        "--timeout",
        type=Duration(),
        help="Deadline of the notebook, excluding the gate's wait; 0s disables it, even if the plan has one.",
    ),
    help_sections.limits("--cell-timeout", type=Duration(), help="Deadline of each cell; 0s disables it."),
    help_sections.limits(
        "--start-timeout", type=Duration(), help="How long the kernel may take to start. [default: 120s]"
    ),
    help_sections.notebook(
        "--allow-errors/--no-allow-errors",
        default=None,
        help="Continue after a cell raises; the notebook then ends `failed` and lists every such cell.",
    ),
    help_sections.limits(
        "--on-failure",
        type=OnFailure(),
        help="When a cell raises: `end`, or `hold[=1h]` to keep kernel and GPU and wait for `runner repair`. "
        "[default: the plan's, else end]",
    ),
    help_sections.outputs("--report-mode", is_flag=True, help="Hide the code of all cells in the page and in Jupyter."),
    help_sections.limits(
        "--memory-guard",
        type=Number(0, 1),
        default=0.97,
        show_default=True,
        help="Share of the container's memory at which the kernel is ended, before the OOM killer ends the container; "
        "0 disables it.",
    ),
    help_sections.plan(
        "--skip-optional-notebooks/--no-skip-optional-notebooks",
        default=True,
        show_default=True,
        help="Whether an optional notebook refused by the gate is skipped, or counts as refused.",
    ),
    help_sections.plan(
        "--continue-on-failure/--no-continue-on-failure",
        default=True,
        show_default=True,
        help="Whether a plan's later notebooks run after one has failed.",
    ),
    help_sections.plan(
        "--cleanup-between-notebooks/--no-cleanup-between-notebooks",
        default=True,
        show_default=True,
        help="Whether processes left behind by a notebook are killed.",
    ),
    help_sections.gpus(
        "--allocator-probe",
        type=click.Choice(["off", "on", "exact"]),
        default="on",
        show_default=True,
        help="Whether the kernel reports what rmm and cupy allocated in each cell. With `on`, cupy's own pool gives "
        "an upper bound; `exact` counts each of its allocations, at about a microsecond each.",
    ),
    help_sections.gpus(
        "--strict-release", is_flag=True, help="Fail if GPU memory does not return to its baseline after the run."
    ),
    help_sections.notebook("--kernel", help="Kernel to use instead of the notebook's."),
    help_sections.notebook("--env", type=Variable(), multiple=True, help="Variable for the kernel. Repeatable."),
    *secret_options,
    help_sections.outputs("--trust-html", is_flag=True, help="Keep scripts in the outputs of the HTML."),
    help_sections.outputs(
        "--interactive", is_flag=True, help="Keep interactive figures in the HTML; they need no network."
    ),
    help_sections.outputs("--no-html", is_flag=True, help="Write no HTML."),
    help_sections.notebook("--offline", is_flag=True, help="Fail if data is not staged, instead of fetching it."),
    help_sections.reuse(
        "--resume",
        is_flag=True,
        help="Reuse an earlier success if nothing it depends on has changed; else log what has.",
    ),
    help_sections.reuse(
        "--accept-repaired",
        is_flag=True,
        help="With --resume, also reuse a repaired success if the notebook now contains the repair.",
    ),
)


one_notebook = (
    click.argument("notebook"),
    help_sections.plan("--plan", type=FILE, help="Plan in which NOTEBOOK is a name."),
    *run_options,
    *parameter_options,
)
"""Arguments and options of commands that run one notebook."""


def add(options: Iterable[Callable[[Any], Any]]) -> Callable[[Decorated], Decorated]:
    """Return a decorator that adds options in the listed order."""

    def decorate(function: Decorated) -> Decorated:
        for option in reversed(tuple(options)):
            function = option(function)
        return function

    return decorate


def arguments(ctx: click.Context, command: click.Command, leave_out: Sequence[str] = ()) -> list[str]:
    """Return the arguments that pass the options given to the command of ``ctx`` on to ``command``."""
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
