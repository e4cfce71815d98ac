# SPDX-License-Identifier: Apache-2.0
"""Static replacements for outputs that need scripts, and notes on removed content."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_ACTIVE = re.compile(r"<(?:script|iframe|object|embed|form|applet|frame)\b", re.IGNORECASE)
_FRAME_OF_ANIMATION = re.compile(r"frames\s*(?:\[\s*\d{1,6}\s*\]\s*)?=\s*\[?\s*[\"'](?=data:image/png;base64,)")
_ENCODED = re.compile(r"data:image/png;base64,(?:[A-Za-z0-9+/=]|\\?\s){16,}")
_LONGEST_ADDRESS = 200

_FIGURES = {
    "plotly": ("Plotly figure", "`fig.show('png')` also saves a picture"),
    "vega": ("Vega chart", "`alt.renderers.enable('png')` also saves a picture"),
    "vegalite": ("Vega-Lite chart", "`alt.renderers.enable('png')` also saves a picture"),
    "bokehjs_exec": ("Bokeh figure", "`bokeh.io.export_png` saves a picture"),
    "holoviews_exec": ("HoloViews figure", "its matplotlib backend also saves a picture"),
}
"""Kinds of figure and how to save a picture, by the vendor name in the MIME type."""
_VENDOR = re.compile(r"application/vnd\.([a-z_]{1,40})\.v\d[\d.]*\+json")


def figure_note(kind: str, keep: str) -> str:
    """Return the note for a figure's MIME type, empty for other types."""
    match = _VENDOR.fullmatch(kind)
    known = _FIGURES.get(match[1]) if match else None
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
