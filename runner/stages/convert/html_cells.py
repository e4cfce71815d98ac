# SPDX-License-Identifier: Apache-2.0
"""The view of a notebook's cells for the page template.

Markdown is rendered first, for the title and the table of contents; outputs when the template
reaches their cell, so that only one cell's images are in memory twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from runner.core.surrogates import without_surrogates
from runner.core.units import format_seconds
from runner.stages.convert.environment import Pictures
from runner.stages.convert.figures import Figure, dict_of, figure_of, text_of
from runner.stages.convert.frames import Frames
from runner.stages.convert.html_outputs import Display, Place, displays
from runner.stages.convert.markdown import Heading, MarkdownPage
from runner.stages.convert.widgets import Widgets

if TYPE_CHECKING:
    from runner.stages.convert.page import Look

MAX_HIGHLIGHTED_CHARACTERS = 200_000
_MAX_CONTENTS = 300
_FAILED = {"failed", "interrupted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    """A cell of the page.

    ``place`` is the number of a code cell, from 1 as in the report, or ``inserted-1`` for one added
    by preparation. ``state`` is ``failed, interrupted, expected-error, dropped, not-run`` or empty.
    """

    kind: str
    body: Markup
    place: str = ""
    state: str = ""
    reason: str = ""
    label: str = ""
    seconds: str = ""
    execution_count: int | None = None
    banner: bool = False
    source_hidden: bool = False
    outputs_hidden: bool = False
    outputs: tuple[Display, ...] = ()


class NotebookView:
    """A notebook for the template.

    Parameters
    ----------
    notebook
        nbformat 4 as a mapping.
    name
        Name in the page.
    file
        Name of its file, for hints.
    look
        Options of the page.
    folder
        Base of relative image paths in Markdown.
    warnings
        List to which warnings are added.
    """

    def __init__(
        self, notebook: dict[str, Any], *, name: str, file: str, look: Look, folder: Path | None, warnings: list[str]
    ) -> None:
        self.name = without_surrogates(name)
        self._file = file
        self._look = look
        self._warnings = warnings
        self._metadata = dict_of(notebook.get("metadata"))
        cells = notebook.get("cells")
        self._cells = [cell for cell in cells if isinstance(cell, dict)] if isinstance(cells, list) else []
        self._removed = {n: self._tags(cell) for n, cell in enumerate(self._cells)} if look.remove_tagged else {}
        self._markdown = MarkdownPage(folder)
        self._widgets = Widgets(self._metadata)
        outputs = [list(self._widgets.every(cell.get("outputs"))) for cell in self._cells]
        figures, saved = _figures(outputs)
        pythons = (_python(self._metadata), sys.executable) if figures or look.interactive else ()
        self._pictures = Pictures({key: figure for key, figure in figures.items() if key not in saved}, pythons)
        self.frames = Frames(outputs, figures, pythons) if look.interactive and not look.trust else None
        """Interactive outputs, None if they are not kept."""
        self._rendered = {
            position: self._render_markdown(cell)
            for position, cell in enumerate(self._cells)
            if cell.get("cell_type") == "markdown" and "remove-cell" not in self._removed.get(position, ())
        }
        self._headings = list(self._markdown.headings)

    @property
    def title(self) -> str:
        """Text of the first heading that is not empty, else the name."""
        return next((heading.text for heading in self._headings if heading.text), self.name)

    @property
    def language(self) -> str:
        """Natural language from the notebook's metadata, English by default."""
        language = self._metadata.get("lang") or self._metadata.get("language")
        return language if isinstance(language, str) and language.isascii() and len(language) <= 12 else "en"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Facts in the page header."""
        kernel = dict_of(self._metadata.get("kernelspec"))
        info = dict_of(self._metadata.get("language_info"))
        code = sum(map(_is_code, self._cells))
        language = " ".join(str(info[key]) for key in ("name", "version") if info.get(key))
        pairs = [
            ("Status", _status(dict_of(self._metadata.get("runner")))),
            ("Kernel", str(kernel.get("display_name") or kernel.get("name") or "")),
            ("Language", language),
            ("Code cells", str(code)),
        ]
        return [(key, without_surrogates(value[:80])) for key, value in pairs if value]

    @property
    def contents(self) -> list[Heading]:
        """Headings of the first three levels, if there are more than two."""
        shown = [heading for heading in self._headings if heading.level <= 3 and heading.text]
        return shown[:_MAX_CONTENTS] if len(shown) > 2 else []

    @property
    def has_h1(self) -> bool:
        """True if the notebook has a level-1 heading."""
        return any(heading.level == 1 for heading in self._headings)

    @property
    def cells(self) -> Iterator[CellView]:
        """Cells in order, created lazily."""
        places = _places(self._cells)
        for position, cell in enumerate(self._cells):
            removed = self._removed.get(position, ())
            if position in places:
                code = self._code(cell, places[position], removed)
                if "remove-cell" not in removed or code.state in _FAILED:
                    yield code
            elif position in self._rendered:
                banner = bool(dict_of(dict_of(cell.get("metadata")).get("runner")).get("banner"))
                yield CellView(kind="markdown", body=self._rendered[position], banner=banner)
            elif "remove-cell" not in removed:
                yield CellView(kind="raw", body=Markup(escape(without_surrogates(text_of(cell.get("source"))))))  # noqa: S704

    def _render_markdown(self, cell: dict[str, Any]) -> Markup:
        source = text_of(cell.get("source"))
        try:
            return Markup(self._markdown.render(source, cell.get("attachments")))  # noqa: S704
        except Exception as error:  # noqa: BLE001  (hostile input; the source is shown instead)
            self._warnings.append(f"a markdown cell could not be rendered: {error!r:.200}")
            return Markup(f"<pre>{escape(without_surrogates(source))}</pre>")  # noqa: S704

    def _tags(self, cell: dict[str, Any]) -> list[Any]:
        tags = dict_of(cell.get("metadata")).get("tags")
        return [str(tag).replace("_", "-") for tag in tags] if isinstance(tags, list) else []

    def _code(self, cell: dict[str, Any], name: str, removed: Sequence[str]) -> CellView:
        metadata = dict_of(cell.get("metadata"))
        jupyter = dict_of(metadata.get("jupyter"))
        tags = self._tags(cell)
        place = Place(
            notebook=self.name,
            file=self._file,
            cell=name,
            markdown=self._markdown,
            widgets=self._widgets,
            trust=self._look.trust,
            frames=self.frames,
            pictures=self._pictures,
            warnings=self._warnings,
        )
        outputs = tuple(displays(cell.get("outputs"), place))
        state, reason = _state(metadata, tags, outputs)
        no_input = self._look.no_input or ("remove-input" in removed and state not in _FAILED)
        return CellView(
            kind="code",
            place=name,
            body=Markup("" if no_input else highlighted(text_of(cell.get("source")), self._lexer_name)),  # noqa: S704
            state=state,
            reason=without_surrogates(reason),
            label="Parameters of this run" if "injected-parameters" in tags else "",
            seconds=_seconds(metadata),
            execution_count=_count(cell),
            source_hidden=jupyter.get("source_hidden") is True or "hide-input" in tags,
            outputs_hidden=jupyter.get("outputs_hidden") is True or metadata.get("collapsed") is True,
            outputs=() if "remove-output" in removed and state not in _FAILED else outputs,
        )

    @property
    def _lexer_name(self) -> str:
        info, kernel = dict_of(self._metadata.get("language_info")), dict_of(self._metadata.get("kernelspec"))
        return str(info.get("pygments_lexer") or info.get("name") or kernel.get("language") or "ipython3").lower()


def highlighted(source: str, lexer_name: str) -> str:
    """Return source code as HTML with Pygments' classes."""
    source = without_surrogates(source)
    lexer = _lexer(lexer_name)
    if lexer is None or len(source) > MAX_HIGHLIGHTED_CHARACTERS:
        return escape(source, quote=False)
    from pygments import highlight

    return str(highlight(source, lexer, _formatter()))


def preload() -> None:
    """Import the highlighter and the sanitiser."""
    from runner.stages.convert.sanitize import clean_html

    highlighted("a = 1", "ipython3")
    clean_html("<p style='color:red'>")


@cache
def _formatter() -> Any:
    from pygments.formatters.html import HtmlFormatter

    return HtmlFormatter(nowrap=True)


@cache
def _lexer(name: str) -> Any:
    """Return the lexer of a language; skip the slow search over plugins for Python."""
    if name in {"python", "python3", "ipython", "ipython3"}:
        try:
            from ipython_pygments_lexers import IPython3Lexer
        except ImportError:
            from pygments.lexers.python import PythonLexer as IPython3Lexer
        return IPython3Lexer(stripnl=False)
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(name, stripnl=False)
    except ClassNotFound:
        return None


def _python(metadata: dict[str, Any]) -> str:
    """Return the Python executable of the notebook's kernel, else this one."""
    from jupyter_client.kernelspec import NoSuchKernel

    from runner.machine.kernel_specs import Kernels

    try:
        spec = Kernels().get_kernel_spec(str(dict_of(metadata.get("kernelspec")).get("name")))
    except (NoSuchKernel, OSError, ValueError):
        return sys.executable
    program = str(spec.argv[0]) if spec.argv and spec.language.lower() == "python" else ""
    return program if Path(program).is_absolute() else sys.executable  # Jupyter resolves a plain `python` so


def _figures(outputs: list[list[dict[str, Any]]]) -> tuple[dict[int, Figure], set[int]]:
    """Return the figures by the id of their output, and the ids of those that have a saved picture."""
    figures, saved = {}, set()
    for output in chain.from_iterable(outputs):
        data = output.get("data")
        if figure := figure_of(data):
            figures[id(output)] = figure
            saved |= {id(output)} if any(str(kind).startswith("image/") for kind in data or ()) else set()
    return figures, saved


def _places(cells: list[dict[str, Any]]) -> dict[int, str]:
    """Return the names of the code cells by position: if prepared by runner, numbers in the source notebook."""
    code = {position: dict_of(cell.get("metadata")) for position, cell in enumerate(cells) if _is_code(cell)}
    indices = {position: dict_of(metadata.get("runner")).get("index") for position, metadata in code.items()}
    known = {position: index for position, index in indices.items() if type(index) is int and index >= 0}
    if len(set(known.values())) < len(known) or not known:
        return {position: str(number) for number, position in enumerate(code, 1)}
    inserted = (position for position in code if position not in known)
    names = {position: f"inserted-{number}" for number, position in enumerate(inserted, 1)}
    return names | {position: str(index + 1) for position, index in known.items()}


def _status(mark: dict[str, Any]) -> str:
    """Return the notebook's status, which is provisional if its run was killed before the last stages."""
    status = str(mark.get("status") or "")
    return (
        f"provisional: {status}, but expectations and release were not checked" if mark.get("provisional") else status
    )


def _is_code(cell: dict[str, Any]) -> bool:
    return cell.get("cell_type") == "code"


def _state(metadata: dict[str, Any], tags: list[Any], outputs: tuple[Display, ...]) -> tuple[str, str]:
    """Return the state of a code cell and its reason."""
    mark = dict_of(metadata.get("runner"))
    dropped, status = mark.get("dropped"), mark.get("status")
    if dropped:
        return "dropped", dropped if isinstance(dropped, str) else ""
    errors = [display.title for display in outputs if display.kind == "error"]
    if errors:
        expected = "raises-exception" in tags and status not in {"failed", "interrupted"}
        return ("expected-error" if expected else "failed"), errors[0]
    if status in {"failed", "interrupted"}:
        return str(status), ""
    if status == "not-run" or dict_of(metadata.get("papermill")).get("status") == "pending":
        return "not-run", ""
    return "", ""


def _seconds(metadata: dict[str, Any]) -> str:
    duration = dict_of(metadata.get("papermill")).get("duration")
    return format_seconds(duration) if isinstance(duration, int | float) and 0 <= duration < 1e8 else ""


def _count(cell: dict[str, Any]) -> int | None:
    count = cell.get("execution_count")
    return count if isinstance(count, int) else None
