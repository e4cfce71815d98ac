# SPDX-License-Identifier: Apache-2.0
"""`runner fit`: find the smallest card that is enough for a notebook."""

from __future__ import annotations

from typing import Any

import click

from runner.commands import help_sections, option_types, options
from runner.commands.answer import answer
from runner.core.units import gigabytes


def _cards(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        cards = tuple(int(gigabytes(part)) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of sizes in GB; write it like 16,24,48") from error
    if any(not 1 <= card <= 2000 for card in cards):
        raise click.BadParameter(f"{text!r}: sizes range from 1 to 2000 GB")
    return cards


@click.command("fit", cls=help_sections.Sectioned)
@help_sections.gpus(
    "--cards",
    callback=_cards,
    metavar="GB,GB",
    help="Card sizes to try. [default: all common ones that fit on this GPU]",
)
@help_sections.gpus(
    "--runs", type=option_types.Number(1, 20, whole=True), default=4, show_default=True, help="Maximum number of runs."
)
@options.add(options.one_notebook)
@options.as_json
def command(cards: tuple[int, ...], runs: int, as_json: bool, **given: Any) -> int:
    """Run NOTEBOOK with the memory of smaller cards and print the smallest that is enough.

    During each run, another process holds the rest of the GPU's memory. The runs use a scratch folder with a copy of
    the checkout; earlier outputs are not touched. Sizes are searched by bisection. The result is written to
    NAME.fit.json in the output folder, for the report and `runner plan tune`.

    Exit code: 0 a card is enough, 3 none is or there is no GPU, 2 the notebook fails for another reason.

    \b
    Examples:
      runner fit notebook.ipynb --cards 16,24,48
      runner fit 01_demo_gpu --plan plan.yaml --runs 3 --json
    """
    from dataclasses import asdict

    from runner.commands.run import make_options
    from runner.workflow.fit import fit

    found = fit(make_options(given), cards=cards, runs=runs)
    if as_json:
        import json

        smallest = found.smallest.card_gb if found.smallest else None
        answer(json.dumps({**asdict(found), "smallest_card_gb": smallest}, indent=1))
    else:
        for line in found.lines():
            answer(line)
        if found.smallest is None:
            answer(f"{found.notebook}: none of the {len(found.attempts)} cards tried is enough")
    return 0 if found.smallest else 3
