# SPDX-License-Identifier: Apache-2.0
"""What a page without scripts shows of outputs that need them, and what it says of the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_ACTIVE = re.compile(r"<(?:script|iframe|object|embed|form|applet|frame)\b", re.IGNORECASE)
_FRAME_OF_ANIMATION = re.compile(r"frames\s*(?:\[\s*\d{1,6}\s*\]\s*)?=\s*\[?\s*[\"'](?=data:image/png;base64,)")
_ENCODED = re.compile(r"data:image/png;base64,(?:[A-Za-z0-9+/=]|\\?\s){16,}")
_LONGEST_ADDRESS = 200

_FIGURES = {
    "plotly": ("Plotly figure", "`fig.show('png')` saves a picture with it"),
    "vega": ("Vega chart", "`alt.renderers.enable('png')` saves a picture with it"),
    "vegalite": ("Vega-Lite chart", "`alt.renderers.enable('png')` saves a picture with it"),
    "bokehjs_exec": ("Bokeh figure", "`bokeh.io.export_png` saves a picture of it"),
    "holoviews_exec": ("HoloViews figure", "its matplotlib backend saves a picture with it"),
}
"""By the name in its MIME type: what a library of scripts draws, and what keeps a picture of it."""
_VENDOR = re.compile(r"application/vnd\.([a-z_]{1,40})\.v\d[\d.]*\+json")


def figure_note(kind: str, keep: str) -> str:
    """Return what to say of a form of an output that a library of scripts draws; empty for any other."""
    match = _VENDOR.fullmatch(kind)
    known = _FIGURES.get(match[1]) if match else None
    if known is None:
        return ""
    return f"An interactive {known[0]} ({kind}) is not shown, as it needs scripts; {keep} to keep it; {known[1]}."


def is_active(html: str) -> bool:
    """Return True if a fragment has scripts, frames or the like."""
    return _ACTIVE.search(html) is not None


@dataclass(slots=True)
class Removed:
    """What a fragment has that a page without scripts does not keep."""

    scripts: bool = False
    embedded: bool = False
    form: bool = False
    frames: list[str] = field(default_factory=list)
    """Address of each frame; empty for one that brings its content with it."""

    @property
    def anything(self) -> bool:
        """Return True if something is removed."""
        return bool(self.scripts or self.embedded or self.form or self.frames)

    def note(self, keep: str) -> str:
        """Return the sentence for the reader."""
        said = []
        if self.scripts:
            said.append(f"Scripts of this output were removed; {keep} to keep them.")
        for address in self.frames[:3]:
            what = f"the page of {address[:_LONGEST_ADDRESS]}" if address else "a page of its own"
            said.append(f"A frame with {what} is not shown; {keep} to keep it.")
        if self.embedded:
            said.append(f"An embedded object is not shown; {keep} to keep it.")
        if self.form:
            said.append("A form is shown without its function.")
        return " ".join(said)


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
    """Return what cleaning takes out of a fragment."""
    reader = _Reader()
    if is_active(html):
        reader.feed(html)
    return reader.removed


def first_frame(html: str) -> tuple[str, int] | None:
    """Return the first picture of an animation that a script would play, and how many there are.

    matplotlib's `to_jshtml` writes each into an array called `frames`, in lines that a backslash continues.
    """
    start = _FRAME_OF_ANIMATION.search(html)
    first = _ENCODED.match(html, start.end()) if start else None
    if first is None:
        return None
    return re.sub(r"[\\\s]", "", first[0]), html.count("data:image/png;base64,", first.start())
