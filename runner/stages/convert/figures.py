# SPDX-License-Identifier: Apache-2.0
"""Find figures of plotly, Vega/Altair and animations in outputs, and note content that needs scripts.

They are saved as JSON under a MIME type, or as HTML with a script that renders them and loads the library from the
network: the default of Altair and of plotly's notebook renderers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any, NamedTuple

_PLOTLY = "application/vnd.plotly.v1+json"
_VEGA = re.compile(r"application/vnd\.vega(?:lite)?\.v\d[\d.]{0,10}\+json")
_LOADERS = {"application/vnd.bokehjs_load.v0+json", "application/vnd.holoviews_load.v0+json"}
_BOKEH_PLACE = re.compile("data-root-id|bk-plotdiv")  # the second before Bokeh 1.0
_CALLS = 20
_DECODER = json.JSONDecoder()
_ACTIVE = re.compile(r"<(?:script|iframe|object|embed|form|applet|frame)\b", re.IGNORECASE)
_FRAME_OF_ANIMATION = re.compile(r"frames\s*(?:\[\s*\d{1,6}\s*\]\s*)?=\s*\[?\s*[\"'](?=data:image/png;base64,)")
_ENCODED = re.compile(r"data:image/png;base64,(?:[A-Za-z0-9+/=]|\\?\s){16,}")
_LONGEST_ADDRESS = 200

_KINDS = {
    "plotly": ("Plotly figure", "`fig.show('png')` also saves a picture"),
    "vega": ("Vega chart", "`alt.renderers.enable('png')` also saves a picture"),
    "vegalite": ("Vega-Lite chart", "`alt.renderers.enable('png')` also saves a picture"),
    "bokehjs_exec": ("Bokeh figure", "`bokeh.io.export_png` saves a picture"),
    "holoviews_exec": ("HoloViews figure", "its matplotlib backend also saves a picture"),
}
"""Kinds of figure and how to save a picture, by the vendor name in the MIME type."""
_VENDOR = re.compile(r"application/vnd\.([a-z_]{1,40})\.v\d[\d.]*\+json")


class Figure(NamedTuple):
    """A figure."""

    library: str
    """``plotly`` or ``vega``."""
    content: dict[str, Any]
    """``data`` and ``layout`` of plotly, or a Vega or Vega-Lite specification."""


def figure_of(data: object) -> Figure | None:
    """Return the figure in a MIME bundle, None if it has none."""
    if not isinstance(data, dict):
        return None
    if isinstance(figure := data.get(_PLOTLY), dict):
        return Figure("plotly", {"data": figure.get("data", []), "layout": figure.get("layout", {})})
    vega = next((value for kind, value in data.items() if _VEGA.fullmatch(str(kind))), None)
    if isinstance(vega, dict):
        return Figure("vega", vega)
    html = text_of(data.get("text/html"))
    for arguments in _calls(html, "Plotly.newPlot("):
        if [type(argument) for argument in arguments] == [str, list, dict]:
            return Figure("plotly", {"data": arguments[1], "layout": arguments[2]})
    if "function(spec, embedOpt)" in html:
        for arguments in _calls(html, "})("):
            if arguments and isinstance(arguments[0], dict):
                return Figure("vega", arguments[0])
    return None


def auxiliary(outputs: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the ids of outputs without content: they load a library or are the placeholder of the next one."""
    found = set()
    for before, output in pairwise([{}, *outputs]):
        data, earlier = dict_of(output.get("data")), dict_of(before.get("data"))
        html, place = text_of(data.get("text/html")).strip(), text_of(earlier.get("text/html"))
        if not _LOADERS.isdisjoint(data):
            found |= {id(output), *([id(before)] if place.startswith("<script") or "bk-notebook-logo" in place else [])}
        elif "application/vnd.holoviews_exec.v0+json" in data and "panel.models.browser.BrowserInfo" in html:
            found.add(id(output))
        elif html.startswith("<script") and ("plotly.js v" in html or "cdn.plot.ly/plotly" in html):
            found |= {id(output)} if html.endswith("</script>") and figure_of(data) is None else set()
        elif "application/vnd.bokehjs_exec.v0+json" in data and not html and _BOKEH_PLACE.search(place):
            found.add(id(before))
    return found


def text_of(value: object) -> str:
    """Return a text field of a notebook, which may be stored as a list of lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return "" if value is None else str(value)


def dict_of(value: object) -> dict[str, Any]:
    """Return a mapping of a notebook, empty if it has another type."""
    return value if isinstance(value, dict) else {}


def _calls(script: str, opener: str) -> Iterator[list[Any]]:
    """Yield the JSON arguments, at most three, of the last calls of a function."""
    end = len(script)
    for _ in range(_CALLS):
        end = script.rfind(opener, 0, end)
        if end < 0:
            return
        position = end + len(opener)
        arguments: list[Any] = []
        try:
            while len(arguments) < 3:
                position += len(script[position : position + 1000]) - len(script[position : position + 1000].lstrip())
                argument, position = _DECODER.raw_decode(script, position)
                arguments.append(argument)
                position += script[position : position + 1] == ","
        except (ValueError, RecursionError):
            pass
        yield arguments


def figure_note(kind: str, keep: str) -> str:
    """Return the note for a figure's MIME type, empty for other types."""
    match = _VENDOR.fullmatch(kind)
    known = _KINDS.get(match[1]) if match else None
    if known is None:
        return ""
    return f"An interactive {known[0]} ({kind}) is not shown, as it needs scripts; {keep} to keep it; {known[1]}."


@dataclass(slots=True)
class Removed:
    """Parts of a fragment that a page without scripts does not keep."""

    scripts: bool = False
    embedded: bool = False
    form: bool = False
    frames: list[str] = field(default_factory=list)
    """URL of each frame, empty for inline content."""

    @property
    def anything(self) -> bool:
        """True if something is removed."""
        return bool(self.scripts or self.embedded or self.form or self.frames)

    def note(self, keep: str) -> str:
        """Return the note for the reader."""
        notes = []
        if self.scripts:
            notes.append(f"Scripts of this output were removed; {keep} to keep them.")
        for address in self.frames[:3]:
            what = f"A frame with {address[:_LONGEST_ADDRESS]}" if address else "An inline frame"
            notes.append(f"{what} is not shown; {keep} to keep it.")
        if self.embedded:
            notes.append(f"An embedded object is not shown; {keep} to keep it.")
        if self.form:
            notes.append("A form is shown without its function.")
        return " ".join(notes)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.removed = Removed()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        removed, found = self.removed, dict(attrs)
        if tag in {"iframe", "frame"}:
            address = (found.get("src") or "").strip()
            removed.frames.append("" if address.startswith(("data:", "about:")) else address)
        removed.scripts = removed.scripts or tag == "script"
        removed.embedded = removed.embedded or tag in {"object", "embed", "applet"}
        removed.form = removed.form or tag == "form"


def removed_from(html: str) -> Removed:
    """Return the parts that cleaning removes from a fragment."""
    reader = _Reader()
    if _ACTIVE.search(html):
        reader.feed(html)
    return reader.removed


def first_frame(html: str) -> tuple[str, int] | None:
    """Return the first frame of an animation played by a script, and the number of frames; None for other HTML.

    matplotlib's `to_jshtml` writes them into an array called `frames`, with lines continued by backslashes.
    """
    start = _FRAME_OF_ANIMATION.search(html)
    first = _ENCODED.match(html, start.end()) if start else None
    if first is None:
        return None
    return re.sub(r"[\\\s]", "", first[0]), html.count("data:image/png;base64,", first.start())
