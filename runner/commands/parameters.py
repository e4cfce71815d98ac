# SPDX-License-Identifier: Apache-2.0
"""`runner parameters`: list the parameters of a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runner.commands import options
from runner.commands.answer import answer


@click.command("parameters")
@click.argument("notebook")
@options.as_json
def command(notebook: str, as_json: bool) -> int:
    """List the variables of NOTEBOOK that `runner run -p NAME VALUE` can set, with type, default, cells and comment.

    NOTEBOOK is a file, a URL (http, https, s3, gs, hf) or `-`. Variables from the cell tagged `parameters` come
    first, marked with a star.

    \b
    Example:
      runner parameters notebook.ipynb
    """
    import dataclasses
    import json

    from runner.commands.notebook_input import copied
    from runner.core.notebook_document import read_notebook
    from runner.stages.prepare.parameter_list import parameters_of
    from runner.stages.prepare.prepare import prepare

    given: dict[str, Any] = {"notebook": notebook, "cwd": None}
    with copied(given) as local:
        prepared = prepare(read_notebook(Path(local["notebook"])), name=notebook)
    found = sorted(parameters_of(prepared.notebook), key=lambda each: not each.tagged)
    if as_json:
        listed = [dataclasses.asdict(each) for each in found]
        answer(json.dumps({"notebook": notebook, "parameters": listed}, indent=1, ensure_ascii=False))
        return 0
    if not found:
        answer("no variable is assigned at top level")
    width = max((len(each.name) for each in found), default=0)
    for each in found:
        default = " ".join(each.default.split())
        short = default if len(default) <= 60 else f"{default[:59]}…"
        cells = f"cell {', '.join(map(str, each.cells))}"
        comment = f"  # {each.comment}" if each.comment else ""
        answer(f"{'*' if each.tagged else ' '} {each.name:{width}}  {each.type or '?'} = {short}  ({cells}){comment}")
    return 0
