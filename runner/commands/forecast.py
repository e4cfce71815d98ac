# SPDX-License-Identifier: Apache-2.0
"""`runner forecast`: predict time and memory at full size from runs at fractions of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import click

from runner.commands import help_sections, options
from runner.commands.answer import answer


def _fractions(_context: click.Context, _option: click.Parameter, text: str) -> tuple[Fraction, ...]:
    try:
        parts = tuple(Fraction(part.strip()) for part in text[:200].split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise click.BadParameter(f"{text!r:.80} is not a list of fractions; write it like 1/16,1/8,1/4") from error
    if len(set(parts)) < 3 or not all(0 < part <= 1 for part in parts):
        raise click.BadParameter(f"{text!r:.80}: give at least three different fractions above 0 and at most 1")
    return parts


@click.command("forecast", cls=help_sections.Sectioned)
@help_sections.parameters(
    "--rows",
    "parameter",
    required=True,
    metavar="PARAM",
    help="Parameter that holds the size, such as the number of cells.",
)
@help_sections.parameters(
    "--at",
    "fractions",
    callback=_fractions,
    default="1/16,1/8,1/4",
    show_default=True,
    metavar="F,F,F",
    help="Fractions of the full size to run at.",
)
@options.add(options.one_notebook)
@options.as_json
def command(parameter: str, fractions: tuple[Fraction, ...], as_json: bool, **given: Any) -> None:
    """Predict time and memory of NOTEBOOK at full size, and the largest size for each card.

    The full size is the parameter's value: from -p, else from the plan or the notebook. The notebook runs at fractions
    of it, the smallest twice because the first run only warms caches, each in a scratch folder with a copy of the
    checkout; earlier outputs are not touched. Each cell's growth is fitted, with an interval. The forecast is written
    to NAME.forecast.json in the output folder, for the report.

    Exit code: 0, or 2 if a run did not succeed or the parameter is not a number.

    \b
    Examples:
      runner forecast notebook.ipynb --rows n_cells -p n_cells 1000000
      runner forecast 03_residuals --plan plan.yaml --rows n_cells --at 1/32,1/16,1/8 --json
    """
    from dataclasses import asdict

    from runner.commands.run import make_options
    from runner.workflow.forecast import forecast

    found = forecast(make_options(given), parameter=parameter, fractions=fractions)
    if as_json:
        import json

        answer(json.dumps(asdict(found), indent=1))
    else:
        for line in found.lines():
            answer(line)
