# SPDX-License-Identifier: Apache-2.0
"""Convert outputs of a cell for the page: the richest form of each that is safe to show.

A notebook's outputs are not trusted: a MIME bundle may be empty, have wrong types or contain
scripts. Each output becomes one `Display`; a note replaces one that cannot be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from itertools import groupby
from shlex import quote
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from runner.core.surrogates import without_surrogates
from runner.stages.convert.environment import png_size
from runner.stages.convert.figures import auxiliary, dict_of, figure_note, first_frame, removed_from, text_of
from runner.stages.convert.frames import frame_of
from runner.stages.convert.images import svg_data_url
from runner.stages.convert.sanitize import clean_html, shows_something
from runner.stages.convert.terminal import HEAD_CHARACTERS, terminal_html
from runner.stages.convert.tex import mixed_to_html
from runner.stages.convert.widgets import DEEPEST, WIDGET_VIEW

if TYPE_CHECKING:
    from runner.stages.convert.environment import Pictures
    from runner.stages.convert.frames import Frame, Frames
    from runner.stages.convert.markdown import MarkdownPage
    from runner.stages.convert.widgets import Widgets


_RASTER = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")
_NOT_TRUSTED = "Make this Notebook Trusted to load map"
"""folium's placeholder for its map."""
_THEMED_MAX_CHARACTERS = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Display:
    """An output, ready for the page.

    ``kind`` is one of ``stdout, stderr, error, image, frame, html, markdown, latex, text, note``.
    """

    kind: str
    body: Markup = Markup()  # noqa: RUF009  (immutable)
    id: str = ""
    themed: bool = False
    """True for HTML without own colours, which may follow the dark theme."""
    source: str = ""
    """Data URL of an image."""
    alt: str = ""
    width: int | None = None
    height: int | None = None
    result: bool = False
    title: str = ""
    frame: Frame | None = None
    """The frame in a page with interactive figures."""
    note: str = ""


@dataclass(slots=True, kw_only=True)
class Place:
    """Context of an output, with counters for ids and alternative texts."""

    notebook: str
    file: str
    """Name of the notebook's file, for hints."""
    cell: str
    markdown: MarkdownPage
    widgets: Widgets
    trust: bool = False
    frames: Frames | None = None
    pictures: Pictures
    figures: int = 0
    outputs: int = 0
    lacking: str = ""
    """Missing package that would make the current output interactive."""
    depth: int = 0
    """Number of surrounding widgets; `opened` are those already shown."""
    opened: set[object] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)

    def keep(self, data: Mapping[str, Any]) -> str:
        """Return the instruction for keeping the scripts of a MIME bundle."""
        if self.lacking or frame_of(data):
            return self.keep_figure()
        return f"run `runner convert --trust-html {quote(self.file)}`"

    def keep_figure(self) -> str:
        """Return the instruction for keeping an interactive output."""
        if self.lacking:
            return f"install {self.lacking} in the kernel's environment"
        return f"run `runner convert --interactive {quote(self.file)}`"

    def next_id(self) -> str:
        """Return the id of the next output."""
        self.outputs += 1
        return f"cell-{self.cell}-output-{self.outputs}"

    def next_figure(self) -> str:
        """Return the alternative text of the next image."""
        self.figures += 1
        number = f"figure {self.figures}" if self.figures > 1 else "figure"
        return f"{number} from cell {self.cell} of {self.notebook}"


def displays(outputs: object, place: Place) -> Iterator[Display]:
    """Yield the displays of a cell's outputs; adjacent texts of a stream are joined."""
    listed = [item for item in outputs if isinstance(item, dict)] if isinstance(outputs, list) else []
    hidden = set() if place.trust else auxiliary(listed)
    for stream, group in groupby(listed, key=_stream_name):
        if stream:
            yield Display(kind=stream, body=Markup(terminal_html("".join(text_of(o.get("text")) for o in group))))  # noqa: S704
        else:
            for output in group:
                if id(output) in hidden:
                    continue
                held = list(_held(output, place))
                if not held or place.widgets.text(dict_of(output.get("data")).get(WIDGET_VIEW)):
                    yield _guarded(output, place)
                yield from held


def _held(output: dict[str, Any], place: Place) -> Iterator[Display]:
    """Show the outputs in the widgets of an output."""
    if place.depth >= DEEPEST:
        return
    place.opened = place.opened if place.depth else set()
    place.depth += 1
    yield from displays(place.widgets.held(output, place.opened), place)
    place.depth -= 1


def _stream_name(output: dict[str, Any]) -> str:
    if output.get("output_type") != "stream":
        return ""
    return "stderr" if output.get("name") == "stderr" else "stdout"


def _guarded(output: dict[str, Any], place: Place) -> Display:
    """Show an output, or a note if its conversion fails."""
    try:
        return _error(output) if output.get("output_type") == "error" else _bundle(output, place)
    except Exception as error:  # noqa: BLE001  (hostile input must not prevent the page)
        place.warnings.append(f"cell {place.cell}: an output could not be shown: {error!r:.200}")
        return Display(kind="note", note=f"This output could not be shown ({type(error).__name__}).")


def _error(output: dict[str, Any]) -> Display:
    name, message = text_of(output.get("ename")) or "Error", text_of(output.get("evalue"))
    traceback = output.get("traceback")
    lines = [text_of(line) for line in traceback] if isinstance(traceback, list) else [text_of(traceback)]
    text = "\n".join(lines) if any(line.strip() for line in lines) else f"{name}: {message}"
    return Display(kind="error", title=name, body=Markup(terminal_html(text)))  # noqa: S704


def _bundle(output: dict[str, Any], place: Place) -> Display:
    """Show the richest form that is safe, with a note on richer ones."""
    data = dict_of(output.get("data"))
    result = output.get("output_type") == "execute_result"
    metadata = dict_of(output.get("metadata"))
    if place.frames and (frame := place.frames.of(output)):
        return Display(kind="frame", frame=frame, title=f"Interactive {place.next_figure()}")
    if not place.trust and (picture := place.pictures.of(output)):
        width, height = png_size(picture)
        note = f"Static picture; run `runner convert --interactive {quote(place.file)}` to keep the figure interactive."
        source, alt = f"data:image/png;base64,{picture}", place.next_figure()
        return Display(kind="image", source=source, alt=alt, width=width // 2, height=height // 2, note=note)
    place.lacking = place.frames.lacking(output) if place.frames else ""
    note = next((note for kind in data if (note := figure_note(str(kind), place.keep_figure()))), "")
    for kind, show in _SHOWN:
        if kind not in data:
            continue
        display = show(kind, data[kind], place, metadata)
        if display.kind != "note":
            return replace(display, result=result, note=display.note or note)
        note = note or display.note
    note = note or f"No format of this output can be shown here ({', '.join(map(str, data)) or 'it is empty'})."
    return Display(kind="note", note=note[:1000], result=result)


def _damaged(kind: str) -> Display:
    return Display(kind="note", note=f"The {kind} data of this output is damaged and was omitted.")


def _html(_: str, value: object, place: Place, __: object) -> Display:
    source, name = text_of(value), place.next_id()
    if place.trust:
        return Display(kind="html", id=name, body=Markup(without_surrogates(source)))  # noqa: S704
    if frame := first_frame(source):
        url, count = frame
        which = f"The first of {count} frames" if count > 1 else "The only frame"
        note = f"{which} of an animation; {place.keep({'text/html': source})} to play it."
        return Display(kind="image", source=url, alt=place.next_figure(), note=note)
    cleaned = clean_html(source, scope=f"#{name}", find=place.markdown.find)
    removed = removed_from(source)
    note = removed.note(place.keep({"text/html": source})) if removed.anything else ""
    if note:
        place.warnings.append(f"cell {place.cell}: scripts or frames of an output were removed")
    if not shows_something(cleaned) or _NOT_TRUSTED in cleaned:
        return Display(kind="note", note=note)
    return Display(kind="html", id=name, themed=_is_themed(cleaned), body=Markup(cleaned), note=note)  # noqa: S704


def _is_themed(cleaned: str) -> bool:
    """Return True if HTML has no own colours and so can be dark; other HTML gets a white background."""
    lowered = cleaned[:_THEMED_MAX_CHARACTERS].lower()
    own = ("<svg", "color", "background", "fill:", "<img")
    return not any(word in lowered for word in own)


def _script(_: str, value: object, place: Place, __: object) -> Display:
    if not place.trust:
        place.warnings.append(f"cell {place.cell}: a script output was removed")
        return Display(
            kind="note", note=f"A script is not run; run `runner convert --trust-html {quote(place.file)}` to keep it."
        )
    return Display(kind="html", body=Markup(f"<script>{without_surrogates(text_of(value))}</script>"))  # noqa: S704


def _markdown(_: str, value: object, place: Place, __: object) -> Display:
    name = place.next_id()
    return Display(kind="markdown", id=name, body=Markup(place.markdown.render(text_of(value), scope=f"#{name}")))  # noqa: S704


def _svg(kind: str, value: object, place: Place, metadata: Mapping[str, Any]) -> Display:
    source = svg_data_url(text_of(value))
    return _image(kind, source, place, metadata) if source else _damaged(kind)


def _raster(kind: str, value: object, place: Place, metadata: Mapping[str, Any]) -> Display:
    # Neither decoded nor parsed: the template escapes it into an attribute, which is cheap.
    content = text_of(value)
    return _image(kind, f"data:{kind};base64,{content}", place, metadata) if content.strip() else _damaged(kind)


def _image(kind: str, source: str, place: Place, metadata: Mapping[str, Any]) -> Display:
    own = metadata.get(kind)
    size = own if isinstance(own, dict) else metadata
    width, height = (_pixels(size.get(name)) for name in ("width", "height"))
    return Display(kind="image", source=source, alt=place.next_figure(), width=width, height=height)


def _pixels(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 < value < 20_000 else None


def _latex(_: str, value: object, place: Place, __: object) -> Display:
    return Display(kind="latex", id=place.next_id(), body=Markup(clean_html(mixed_to_html(text_of(value)))))  # noqa: S704


def _text(kind: str, value: object, __: Place, ___: object) -> Display:
    text = text_of(value)
    return Display(kind="text", body=Markup(terminal_html(text))) if text.strip() else _damaged(kind)  # noqa: S704


def _widget(_: str, value: object, place: Place, __: object) -> Display:
    text = place.widgets.text(value)
    if text:
        return Display(kind="text", body=Markup(escape(text)))  # noqa: S704
    name = place.widgets.name(value)
    why = "its state was not saved with the notebook" if name is None else "it needs scripts"
    return Display(kind="note", note=f"A widget{f' ({name})' if name else ''} is not shown: {why}.")


def _json(_: str, value: object, __: Place, ___: object) -> Display:
    import json

    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    return Display(kind="text", body=Markup(terminal_html(text[: 2 * HEAD_CHARACTERS])))  # noqa: S704


_Show = Callable[[str, Any, Place, Mapping[str, Any]], Display]
_SHOWN: Iterable[tuple[str, _Show]] = (
    (WIDGET_VIEW, _widget),
    ("text/html", _html),
    ("text/markdown", _markdown),
    ("image/svg+xml", _svg),
    *((kind, _raster) for kind in _RASTER),
    ("text/latex", _latex),
    ("application/javascript", _script),
    ("text/plain", _text),
    ("application/json", _json),
)
"""Richest first. A format that cannot be shown yields a note, which is added to the one shown instead."""
