# SPDX-License-Identifier: Apache-2.0
"""`runner fit`: the smallest card that is enough, proved."""

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
        raise click.BadParameter(f"{text!r}: cards have 1 to 2000 GB")
    return cards


@click.command("fit", cls=help_sections.Sectioned)
@help_sections.gpus(
    "--cards", callback=_cards, metavar="GB,GB", help="Cards to try. [default: all that this GPU can stand for]"
)
@help_sections.gpus(
    "--runs", type=option_types.Number(1, 20, whole=True), default=4, show_default=True, help="Runs at most."
)
@options.add(options.one_notebook)
@options.as_json
def command(cards: tuple[int, ...], runs: int, as_json: bool, **given: Any) -> int:
    """Run NOTEBOOK with the memory of smaller cards and say which is enough.

    Beside each run another process holds the rest of the GPU's memory. Everything happens in a scratch folder with a
    copy of the checkout; outputs of earlier runs stay as they are. The sizes are searched by bisection. What was
    proved is kept as NAME.fit.json in the output folder, for the report and `runner plan tune`.

    Exit code: 0 a card was proved, 3 none was, or there is no GPU to prove it on, 2 the notebook fails for another
    reason.

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
            answer(f"{found.notebook}: no card of {len(found.attempts)} tried is enough")
    return 0 if found.smallest else 3
