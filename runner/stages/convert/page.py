# SPDX-License-Identifier: Apache-2.0
"""Convert an executed notebook to an HTML page without scripts that works offline.

nbconvert's exporter is not used: its page has some 300 kB of JupyterLab styles and three scripts
from CDNs, its sanitizer escapes headings, and its import takes longer than the whole conversion
here. Two parts of nbconvert are used: the Markdown parser with Jupyter's formulas, and the terminal
colours. The page template is `report_templates/notebook/`.

Pages are safe by default: outputs and Markdown are sanitized, and a Content-Security-Policy also
forbids all scripts and loads. With ``trust`` the HTML and JavaScript of outputs are kept and may
run and load, which the page states at the top. Markdown is sanitized even then.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core import files, log
from runner.core.errors import BrokenInputError, did_you_mean_path

if TYPE_CHECKING:
    import jinja2

CSP = (
    "default-src 'none'; script-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)
CSP_INTERACTIVE = (
    "default-src 'none'; {scripts}; style-src 'unsafe-inline'; img-src data: blob:; media-src data:; font-src data:; "
    "worker-src blob:; base-uri 'none'; form-action 'none'"
)
"""Frames inherit the page's policy, so it allows their content."""
CSP_TRUSTED = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' data: blob: https:; "
    "style-src 'unsafe-inline' data: https:; img-src data: blob: https:; media-src data: blob: https:; "
    "font-src data: https:; connect-src data: blob: https:; worker-src blob:; frame-src data: blob: https:; "
    "base-uri 'none'; form-action 'none'"
)
"""Outputs may run scripts and load over TLS; the page itself loads nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Options of a page."""

    trust: bool = False
    """Keep scripts and frames of outputs."""
    no_input: bool = False
    """Omit the code."""
    remove_tagged: bool = False
    """Apply the tags ``remove-cell``, ``remove-input`` and ``remove-output``, except to failed cells."""
    interactive: bool = False
    """Keep interactive figures, each in a frame that works offline; see `runner.stages.convert.frames`."""
    report: str | None = None
    """URL of the report that the page links to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedHtml:
    """A written page."""

    path: Path
    bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()


def convert(
    executed: Path,
    html: Path,
    *,
    look: Look = Look(),
    title: str | None = None,
    name: str | None = None,
    folder: Path | None = None,
) -> ConvertedHtml:
    """Write the page of a notebook file; see `write_page` for a notebook in memory.

    Raises
    ------
    BrokenInputError
        The file is not a readable notebook.
    RecordError
        The page cannot be written; an existing file is unchanged.
    """
    from runner.core.notebook_document import read_notebook

    started = time.perf_counter()
    notebook = read_notebook(executed, to_run=False)
    name = name or notebook_name(executed)
    folder = folder or executed.parent
    page = write_page(notebook, html, name=name, look=look, title=title, folder=folder, file=executed.name)
    return ConvertedHtml(
        path=page.path, bytes=page.bytes, seconds=time.perf_counter() - started, warnings=page.warnings
    )


def write_page(
    notebook: dict[str, Any],
    html: Path,
    *,
    name: str,
    look: Look = Look(),
    title: str | None = None,
    folder: Path | None = None,
    file: str | None = None,
) -> ConvertedHtml:
    """Write the page of a notebook in pieces, so that it is never in memory as a whole.

    Parameters
    ----------
    notebook
        nbformat 4 as a mapping, neither validated nor changed.
    html
        File of the page, written atomically.
    name
        Name of the notebook in the page.
    look
        Options of the page.
    title
        Title of the page instead of the notebook's first heading.
    folder
        Base of relative image paths in Markdown; None: embed no files.
    file
        Name of the notebook's file, NAME.executed.ipynb by default.
    """
    started = time.perf_counter()
    warnings: list[str] = []
    written = 0
    with files.replacing(html) as stream:
        for piece in _pieces(notebook, name, warnings, look=look, title=title, folder=folder, file=file):
            written += stream.write(piece.encode())
    for text in warnings:
        log.warning("html", notebook=name, message=text)
    return ConvertedHtml(path=html, bytes=written, seconds=time.perf_counter() - started, warnings=tuple(warnings))


def find_notebooks(paths: Iterable[Path]) -> list[Path]:
    """Return the notebooks at paths: files as given, and those in each folder, sorted by name.

    Raises
    ------
    BrokenInputError
        A path does not exist, is not a notebook, or is a folder without notebooks.
    """
    found: dict[Path, None] = {}
    for path in paths:
        notebooks = [path]
        if path.is_dir():
            notebooks = sorted(
                item for item in path.glob("*.ipynb") if item.is_file() and not item.name.startswith(".")
            )
            if not notebooks:
                raise BrokenInputError(f"the folder {path} has no notebooks", hint="give a folder with .ipynb files")
        elif not path.exists():
            hint = f"{did_you_mean_path(path)}give notebooks, or folders with notebooks"
            raise BrokenInputError(f"{path} does not exist", hint=hint)
        elif path.suffix != ".ipynb":
            raise BrokenInputError(f"{path} is not a notebook", hint="give files that end in .ipynb")
        found.update(dict.fromkeys(notebooks))
    return list(found)


def notebook_name(path: Path) -> str:
    """Return the name of a notebook file without `.executed.ipynb`."""
    return path.name.removesuffix(".ipynb").removesuffix(".executed")


def preload(cells: Iterable[Mapping[str, Any]]) -> None:
    """Import and compile the modules for the conversion while the notebook is running."""
    from runner.stages.convert import html_cells, markdown

    _template()
    if any(cell.get("cell_type") == "markdown" for cell in cells):
        markdown.preload()
    html_cells.preload()


def _pieces(
    notebook: dict[str, Any],
    name: str,
    warnings: list[str],
    *,
    look: Look,
    title: str | None,
    folder: Path | None,
    file: str | None = None,
) -> Iterator[str]:
    from runner.core.surrogates import without_surrogates
    from runner.stages.convert.html_cells import NotebookView

    view = NotebookView(
        notebook, name=name, file=file or f"{name}.executed.ipynb", look=look, folder=folder, warnings=warnings
    )
    csp, script = CSP_TRUSTED if look.trust else CSP, None
    if view.frames:
        script = _part("frames.js")
        csp = CSP_INTERACTIVE.format(scripts=view.frames.policy(script))
    pieces = _template().generate(
        view=view, title=title or view.title, csp=csp, look=look, style=_part("notebook.css"), script=script
    )
    return map(without_surrogates, pieces)


@cache
def _template() -> jinja2.Template:
    from runner.core.templates import templates, templates_folder

    return templates(templates_folder() / "notebook").get_template("page.html")


@cache
def _part(name: str) -> str:
    from markupsafe import Markup

    from runner.core.templates import templates_folder

    return Markup((templates_folder() / "notebook" / name).read_text(encoding="utf-8"))  # noqa: S704
