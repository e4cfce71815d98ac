# SPDX-License-Identifier: Apache-2.0
"""An executed notebook as one HTML page that needs no network and runs no script.

nbconvert's own exporter was measured and not taken: its page has some 300 kB of JupyterLab
style and three scripts from content networks, its sanitiser escapes headings, and importing it
takes longer than everything done here. What is taken of it are the parts that decide how a
notebook reads: the markdown parser with Jupyter's formulas and the terminal colours. The page
around them is `report_templates/notebook/`.

Safe by default means: what outputs and markdown bring is cleaned (`safe_html`), and a
Content-Security-Policy forbids scripts and every load all the same. With ``trust`` the HTML and
JavaScript of outputs stay as they are and may run and load; the page says so at its top.
Markdown is cleaned even then.
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
"""The frames have the page's policy, so it allows what stands in them."""
CSP_TRUSTED = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' data: blob: https:; "
    "style-src 'unsafe-inline' data: https:; img-src data: blob: https:; media-src data: blob: https:; "
    "font-src data: https:; connect-src data: blob: https:; worker-src blob:; frame-src data: blob: https:; "
    "base-uri 'none'; form-action 'none'"
)
"""What outputs bring may run and load, over TLS; the page itself still refers to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a page shows of its notebook."""

    trust: bool = False
    """Keep scripts and frames of outputs."""
    no_input: bool = False
    """Leave out the code."""
    remove_tagged: bool = False
    """Leave out what the tags ``remove-cell``, ``remove-input`` and ``remove-output`` name, failures excepted."""
    interactive: bool = False
    """Keep interactive figures, each in a frame that works without a network; see `runner.stages.convert.frames`."""
    report: str | None = None
    """Address of the report that the page leads back to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedHtml:
    """A page that was written."""

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
    """Write the page of a notebook file; see `write_page` for one that is in memory.

    Raises
    ------
    BrokenInputError
        The file is not a notebook that can be read.
    RecordError
        The page cannot be written; what was there before is untouched.
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
    """Write the page of a notebook in memory, piece by piece, so that it never stands there whole.

    Parameters
    ----------
    notebook
        nbformat 4 as a mapping. It is neither validated nor changed.
    html
        Where the page goes; it appears whole or not at all.
    name
        What the page calls the notebook.
    look
        What the page shows.
    title
        Title of the page instead of the notebook's first heading.
    folder
        Where images are that the markdown names by path; None leaves them out.
    file
        Name of the notebook's file; NAME.executed.ipynb if it is not given.
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


def convert_notebook(
    notebook: dict[str, Any],
    *,
    name: str = "notebook",
    look: Look = Look(),
    title: str | None = None,
    folder: Path | None = None,
) -> str:
    """Return the page of a notebook as text; the parameters are those of `write_page`."""
    return "".join(_pieces(notebook, name, [], look=look, title=title, folder=folder))


def find_notebooks(paths: Iterable[Path]) -> list[Path]:
    """Return the notebooks that paths name: files as given, and those in each folder, sorted by name.

    Raises
    ------
    BrokenInputError
        A path does not exist, is not a notebook, or is a folder without notebooks.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_notebooks_at(path)))
    return list(found)


def notebook_name(path: Path) -> str:
    """Return the name of a notebook file without what says that it was executed."""
    return path.name.removesuffix(".ipynb").removesuffix(".executed")


def preload(cells: Iterable[Mapping[str, Any]]) -> None:
    """Import and compile what the conversion of a notebook needs, while it still runs."""
    from runner.stages.convert import html_cells, markdown

    _template()
    if any(cell.get("cell_type") == "markdown" for cell in cells):
        markdown.preload()
    html_cells.preload()


def _notebooks_at(path: Path) -> list[Path]:
    if path.is_dir():
        notebooks = sorted(item for item in path.glob("*.ipynb") if item.is_file() and not item.name.startswith("."))
        if not notebooks:
            raise BrokenInputError(f"the folder {path} holds no notebook", hint="give a folder with .ipynb files")
        return notebooks
    if not path.exists():
        raise BrokenInputError(
            f"{path} does not exist", hint=f"{did_you_mean_path(path)}give notebooks, or folders that hold some"
        )
    if path.suffix != ".ipynb":
        raise BrokenInputError(f"{path} is not a notebook", hint="give files that end in .ipynb")
    return [path]


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
