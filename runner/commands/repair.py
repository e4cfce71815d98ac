# SPDX-License-Identifier: Apache-2.0
"""`runner repair`: continue a held failed notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runner.commands import options
from runner.commands.answer import answer
from runner.commands.option_types import Number


@click.command("repair")
@click.argument("name")
@click.option("--notebook", type=options.FILE, help="The corrected source notebook.")
@click.option("--cell", type=Number(1, whole=True), help="Number of the code cell to replace, with --source.")
@click.option(
    "--source", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), help="Its new source; - is stdin."
)
@click.option("--retry", is_flag=True, help="Run the failed cell again unchanged.")
@click.option("--from-cell", type=Number(1, whole=True), help="Continue from this cell. [default: the failed one]")
@click.option("--give-up", is_flag=True, help="End the hold; the notebook ends as failed.")
@options.output_dir
def command(
    name: str,
    notebook: Path | None,
    cell: int | None,
    source: Path | None,
    retry: bool,
    from_cell: int | None,
    give_up: bool,
    output_dir: Path,
) -> int:
    """Continue NAME, which failed and is held (--on-failure hold), in the same kernel with all its variables.

    Without an option, show the traceback. Cells are numbered from 1, as in the log. The run's rules and parameters
    are applied to the corrected notebook; the source file is not changed.

    Exit code: that of the notebook (see `runner run --help`), 1 if it failed and is held again; 2 if no notebook of
    that name is held or the repair is invalid: the hold then continues.

    \b
    Examples:
      runner repair 02_extended --output-dir outputs
      runner repair 02_extended --cell 30 --source fixed.py
      runner repair 02_extended --notebook notebooks/02_extended.ipynb --from-cell 28
      kubectl exec POD -c step-execute-notebook -- runner repair 02_extended --retry --output-dir outputs
    """
    from runner.core.errors import RunnerError, UsageError
    from runner.outputs.repair_channel import connect

    chosen = [
        flag
        for flag, given in (("--notebook", notebook), ("--cell", cell), ("--retry", retry), ("--give-up", give_up))
        if given
    ]
    if len(chosen) > 1 or (cell is None) != (source is None) or (give_up and from_cell):
        raise UsageError(
            f"{' and '.join(chosen) or '--source'}: invalid combination of options",
            hint="give one of --notebook FIXED.ipynb, --cell N --source FILE, --retry, --give-up",
        )
    request = _request(notebook, cell, source, retry=retry, give_up=give_up, from_cell=from_cell)
    channel, hello = connect(output_dir, name.removesuffix(".ipynb"))
    try:
        answer(_shown(hello))
        if not request:
            answer("give one of --notebook FIXED.ipynb, --cell N --source FILE, --retry, --give-up")
            return 0
        channel.send(**request)
        while (message := channel.receive(patiently=True)) is not None:
            if "error" in message:
                raise UsageError(str(message["error"]), hint=str(message.get("hint") or "") or None)
            if "held" in message:
                answer(f"failed again and is held again\n{_shown(message['held'])}")
                return 1
            if "exit_code" in message:
                answer("\n".join(map(str, message["lines"])))
                return int(message["exit_code"])
            answer("\n".join(map(str, message["progress"])))
    except (OSError, ValueError) as error:
        raise RunnerError(f"lost the connection to the run of {name}: {error}", hint=f"see {hello['log']}") from error
    finally:
        channel.close()
    raise RunnerError(f"the run of {name} ended without an answer", hint=f"see {hello['log']}")


def _request(
    notebook: Path | None, cell: int | None, source: Path | None, *, retry: bool, give_up: bool, from_cell: int | None
) -> dict[str, Any]:
    """Return the request to the run; empty if no option was given."""
    from runner.core.errors import BrokenInputError, UsageError
    from runner.core.notebook_document import read_notebook

    found: dict[str, Any] = {key: True for key, given in (("retry", retry), ("give_up", give_up)) if given}
    if from_cell is not None:
        found["from_cell"] = from_cell
    if notebook is not None:
        try:
            document = read_notebook(notebook)
        except BrokenInputError as error:
            raise UsageError(error.message, hint=error.hint) from error
        cells = [{**one, "outputs": []} if one.cell_type == "code" else one for one in document.cells]
        found["notebook"] = {
            **document,
            "cells": [{k: v for k, v in one.items() if k != "attachments"} for one in cells],
        }
    if source is not None:
        try:
            with click.open_file(str(source), encoding="utf-8") as stream:
                found |= {"cell": cell, "source": stream.read().rstrip("\n")}
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the source {source} cannot be read: {error}", hint="give a text file in UTF-8"
            ) from error
    return found


def _shown(hello: dict[str, Any]) -> str:
    """Return the failed cell, the end of the hold and the traceback as text."""
    from runner.core.units import format_moment

    head = f"{hello['notebook']}: failed in cell {hello['cell']}, held until {format_moment(str(hello['held_until']))}"
    return f"{head}\n{hello['traceback']}".rstrip()
