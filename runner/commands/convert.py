# SPDX-License-Identifier: Apache-2.0
"""`runner convert`: executed notebooks to HTML."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import options


@click.command("convert")
@click.argument("notebooks", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output-dir", type=options.FOLDER, help="Where the pages go. [default: beside each notebook]")
@click.option("--trust-html", is_flag=True, help="Keep scripts of outputs.")
@options.as_json
def command(notebooks: tuple[Path, ...], output_dir: Path | None, trust_html: bool, as_json: bool) -> int:
    """Convert NOTEBOOKS, files or folders of them, to pages that need no network.

    All are tried; exit code 9 when one could not be converted.

    \b
    Examples:
      runner convert outputs/01.executed.ipynb
      runner convert outputs --output-dir pages
    """
    import dataclasses
    import json

    from runner.errors import BrokenInputError
    from runner.notebook.convert import convert, find_notebooks
    from runner.run.job import EXECUTED_SUFFIX

    done, failed = [], []
    for notebook in find_notebooks(notebooks):
        stem = notebook.name.removesuffix(EXECUTED_SUFFIX).removesuffix(".ipynb")
        html = (output_dir or notebook.parent) / f"{stem}.html"
        try:
            page = convert(notebook, html, trust=trust_html)
        except BrokenInputError as error:
            failed.append({"notebook": str(notebook), "reason": str(error)})
            click.echo(f"runner: {notebook}: {error}", err=True)
            continue
        done.append(dataclasses.asdict(page))
        if not as_json:
            click.echo(str(html))
    if as_json:
        click.echo(json.dumps({"converted": done, "failed": failed}, indent=1, default=str, ensure_ascii=False))
    return BrokenInputError.exit_code if failed else 0
