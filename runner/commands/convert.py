# SPDX-License-Identifier: Apache-2.0
"""`runner convert`: convert executed notebooks to HTML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.commands import options
from runner.commands.answer import answer
from runner.core.stop import ending_on_signals

if TYPE_CHECKING:
    from runner.stages.convert.page import Look


@click.command("convert")
@click.argument("notebooks", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output-dir", type=options.FOLDER, help="Folder for the pages. [default: beside each notebook]")
@click.option("--trust-html", is_flag=True, help="Keep scripts of outputs.")
@click.option(
    "--interactive",
    is_flag=True,
    help="Keep interactive figures of plotly, Bokeh, Vega/Altair and matplotlib animations; they need no network.",
)
@click.option("--no-input", is_flag=True, help="Omit the code.")
@click.option(
    "--remove-tagged",
    is_flag=True,
    help="Honour the tags remove-cell, remove-input and remove-output. Failed cells are kept.",
)
@options.as_json
@ending_on_signals()
def command(
    notebooks: tuple[Path, ...],
    output_dir: Path | None,
    trust_html: bool,
    interactive: bool,
    no_input: bool,
    remove_tagged: bool,
    as_json: bool,
) -> int:
    """Convert NOTEBOOKS, files or folders, to self-contained HTML pages.

    A failure does not stop the rest. Exit code: 0, else that of the first failure: 9 not a valid notebook,
    74 the page cannot be written; 2 if two notebooks would share a page, in which case nothing is written;
    143/130 after SIGTERM/SIGINT, which leaves no partial page.

    \b
    Examples:
      runner convert outputs/01.executed.ipynb
      runner convert outputs --output-dir pages
      runner convert outputs/01.executed.ipynb --no-input
    """
    import dataclasses
    import json
    import traceback

    from runner.core.errors import RunnerError
    from runner.stages.convert.page import Look, convert, find_notebooks

    look = Look(trust=trust_html, interactive=interactive, no_input=no_input, remove_tagged=remove_tagged)
    done: dict[Path, dict[str, object]] = {}
    failed: dict[Path, tuple[str, int]] = {}

    def fail(path: Path, error: Exception) -> None:
        if not isinstance(error, RunnerError):
            click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        reason = str(error) if isinstance(error, RunnerError) else f"{type(error).__name__}: {error}"
        click.echo(f"runner: {path}: {reason}", err=True)
        failed[path] = (reason, getattr(error, "exit_code", RunnerError.exit_code))

    pages: dict[Path, Path | RunnerError] = {}
    for path in notebooks:
        try:
            pages |= {found: (output_dir or found.parent) / _page(found) for found in find_notebooks([path])}
        except RunnerError as error:
            pages[path] = error
    _check_apart({notebook: page for notebook, page in pages.items() if isinstance(page, Path)})
    for notebook, page in pages.items():
        try:
            if isinstance(page, RunnerError):
                raise page  # noqa: TRY301  (reported in the order of the arguments)
            done[notebook] = dataclasses.asdict(convert(notebook, page, look=_linked(look, page)))
            _update_sums(page)
        except Exception as error:  # noqa: BLE001  (one notebook must not cost the others their pages)
            fail(notebook, error)
            continue
        if not as_json:
            answer(str(page))
    if as_json:
        problems = [{"notebook": str(path), "reason": reason} for path, (reason, _) in failed.items()]
        answer(
            json.dumps({"converted": [*done.values()], "failed": problems}, indent=1, default=str, ensure_ascii=False)
        )
    return next((code for _, code in failed.values()), 0)


def _linked(look: Look, page: Path) -> Look:
    """Link a page to the report of its output folder, if it has one."""
    import dataclasses

    from runner.plan.job import INDEX_FILE

    return dataclasses.replace(look, report=INDEX_FILE if page.with_name(INDEX_FILE).is_file() else None)


def _update_sums(page: Path) -> None:
    """Update the checksums of the page's output folder, if it has any."""
    from runner.outputs import sums

    if sums.of_notebook(page.parent, page.stem).exists():
        from runner.report.exports.exports import note_page

        note_page(page)


def _page(notebook: Path) -> str:
    from runner.plan.job import EXECUTED_SUFFIX

    return notebook.name.removesuffix(EXECUTED_SUFFIX).removesuffix(".ipynb") + ".html"


def _check_apart(pages: dict[Path, Path]) -> None:
    """Refuse notebooks whose pages would be the same file, before any is written.

    Raises
    ------
    UsageError
        Two notebooks share a page, or names that differ only in case on a case-insensitive file system.
    """
    from runner.core import files
    from runner.core.errors import UsageError

    taken: dict[tuple[Path, str], Path] = {}
    one_case: dict[Path, bool] = {}
    for notebook, html in pages.items():
        folder = html.parent.resolve()
        if folder not in one_case:
            one_case[folder] = files.ignores_case(folder)
        other = taken.setdefault((folder, files.folded(html.name) if one_case[folder] else html.name), notebook)
        if other.resolve() != notebook.resolve():
            raise UsageError(
                f"{other} and {notebook} would both become {html}",
                hint="convert them one by one, with an --output-dir for each; nothing was written",
            )
