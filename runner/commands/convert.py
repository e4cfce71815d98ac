# SPDX-License-Identifier: Apache-2.0
"""`runner convert`: executed notebooks to HTML."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import options
from runner.commands.answer import answer
from runner.stop import ending_on_signals


@click.command("convert")
@click.argument("notebooks", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output-dir", type=options.FOLDER, help="Where the pages go. [default: beside each notebook]")
@click.option("--trust-html", is_flag=True, help="Keep scripts of outputs.")
@options.as_json
@ending_on_signals()
def command(notebooks: tuple[Path, ...], output_dir: Path | None, trust_html: bool, as_json: bool) -> int:
    """Convert NOTEBOOKS, files or folders of them, to pages that need no network.

    All are tried. Exit code: 0, else that of the first that could not be converted: 9 when it is no
    notebook, 74 when its page cannot be written; 143/130 after SIGTERM/SIGINT, which leaves whole pages only.

    \b
    Examples:
      runner convert outputs/01.executed.ipynb
      runner convert outputs --output-dir pages
    """
    import dataclasses
    import json
    import traceback

    from runner.errors import RunnerError
    from runner.notebook.convert import convert, find_notebooks
    from runner.run.job import EXECUTED_SUFFIX

    done: dict[Path, dict[str, object]] = {}
    failed: dict[Path, tuple[str, int]] = {}

    def fail(path: Path, error: Exception) -> None:
        if not isinstance(error, RunnerError):
            click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        reason = str(error) if isinstance(error, RunnerError) else f"{type(error).__name__}: {error}"
        click.echo(f"runner: {path}: {reason}", err=True)
        failed[path] = (reason, getattr(error, "exit_code", RunnerError.exit_code))

    for path in notebooks:
        try:
            found = find_notebooks([path])
        except RunnerError as error:
            fail(path, error)
            continue
        for notebook in found:
            if notebook in done or notebook in failed:
                continue
            stem = notebook.name.removesuffix(EXECUTED_SUFFIX).removesuffix(".ipynb")
            html = (output_dir or notebook.parent) / f"{stem}.html"
            try:
                done[notebook] = dataclasses.asdict(convert(notebook, html, trust=trust_html))
            except Exception as error:  # noqa: BLE001  (one notebook must not cost the others their pages)
                fail(notebook, error)
                continue
            if not as_json:
                answer(str(html))
    if as_json:
        problems = [{"notebook": str(path), "reason": reason} for path, (reason, _) in failed.items()]
        answer(
            json.dumps({"converted": [*done.values()], "failed": problems}, indent=1, default=str, ensure_ascii=False)
        )
    return next((code for _, code in failed.values()), 0)
