# SPDX-License-Identifier: Apache-2.0
"""A drawing area that is written as one `<svg>` for a page with a strict Content-Security-Policy.

No plotting library is used: the charts compute their own coordinates, the policy forbids `style`, and dark mode
forbids fixed colours. Only writing the elements would remain, for which matplotlib took 40 times as long (see
docs/adr/0006).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Literal

from runner.report.html.formatting import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runner.report.sample_series import Floats

    Numbers = Sequence[float] | Floats

_BASELINE = {"top": 0.8, "center": 0.35, "bottom": -0.22}
"""Offset of the baseline below the anchor point of a text, in font sizes."""
_ANCHOR = {"left": "start", "center": "middle", "right": "end"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Appearance and metadata of a mark."""

    classes: str
    colour: str = "#1b2430"
    """Colour for viewers that ignore the page's stylesheet."""
    order: float = 2
    title: str | None = None
    """Tooltip, shown without a script."""
    data: Mapping[str, str] = field(default_factory=dict)


class Canvas:
    """A drawing area in pixels, with y from the bottom.

    Parameters
    ----------
    key
        Unique on the page: ids in the SVG start with it.
    """

    def __init__(self, key: str, width: float, height: float) -> None:
        self.key, self.width, self.height = key, width, height
        self._marks: list[tuple[float, str]] = []

    def _add(self, look: Look, tag: str, attributes: Mapping[str, str], text: str | None = None) -> None:
        data = {f"data-{name}": value for name, value in look.data.items()}
        title = _element("title", {}, look.title) if look.title else ""
        mark = _element("g", {"class": look.classes, **data}, inside=title + _element(tag, attributes, text or ""))
        self._marks.append((look.order, mark))

    def _path(self, points: Iterable[tuple[float, float]]) -> str:
        height = self.height
        return "M" + "L".join([f"{x:.1f} {height - y:.1f}" for x, y in points])

    def line(
        self, xs: Numbers, ys: Numbers, look: Look, *, width: float = 1.0, dashes: Sequence[float] | None = None
    ) -> None:
        """Draw a line through points."""
        attributes = {"fill": "none", "stroke": look.colour, "stroke-width": f"{width:g}"}
        if dashes:
            attributes["stroke-dasharray"] = " ".join(f"{dash * width:g}" for dash in dashes)
        self._add(look, "path", {"d": self._path(zip(_numbers(xs), _numbers(ys), strict=True)), **attributes})

    def box(self, x: float, y: float, width: float, height: float, look: Look) -> None:
        """Fill a box, given by its lower left corner."""
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        self._add(look, "path", {"d": f"{self._path(corners)}z", "fill": look.colour})

    def area(self, xs: Numbers, ys: Numbers, floor: float, look: Look) -> None:
        """Fill the area between points and a floor with transparency."""
        corners = [(xs[0], floor), *zip(_numbers(xs), _numbers(ys), strict=True), (xs[-1], floor)]
        self._add(look, "path", {"d": f"{self._path(corners)}z", "fill": look.colour, "fill-opacity": ".25"})

    def dot(self, x: float, y: float, radius: float, look: Look) -> None:
        """Fill a circle."""
        place = {"cx": _short(x), "cy": _short(self.height - y), "r": f"{radius:g}"}
        self._add(look, "circle", {**place, "fill": look.colour})

    def text(
        self,
        x: float,
        y: float,
        text: str,
        classes: str,
        *,
        size: int = 11,
        bold: bool = False,
        title: str | None = None,
        ha: Literal["left", "center", "right"] = "left",
        va: Literal["top", "center", "bottom"] = "bottom",
    ) -> None:
        """Write text; ``ha`` and ``va`` align it relative to the point."""
        place = {"x": _short(x), "y": _short(self.height - y + _BASELINE[va] * size), "font-size": str(size)}
        weight = {"font-weight": "bold"} if bold else {}
        anchor = {"text-anchor": _ANCHOR[ha]}
        self._add(Look(classes=classes, order=4, title=title), "text", {**place, **anchor, **weight}, text)

    def svg(self, *, title: str, description: str, data: Mapping[str, str] | None = None) -> str:
        """Return the picture as one `svg` element with a name and a description."""
        marks = "".join(mark for _, mark in sorted(self._marks, key=lambda pair: pair[0]))
        name = _element("title", {"id": f"{self.key}-title"}, title)
        about = _element("desc", {"id": f"{self.key}-about"}, description)
        attributes = {
            "viewBox": f"0 0 {self.width:g} {self.height:g}",
            "role": "img",
            "class": "chart",
            "aria-labelledby": f"{self.key}-title",
            "aria-describedby": f"{self.key}-about",
            "stroke-linejoin": "round",
            "font-family": "sans-serif",
            **{f"data-{name}": value for name, value in (data or {}).items()},
        }
        return _element("svg", attributes, inside=name + about + marks)


def _element(tag: str, attributes: Mapping[str, str], text: str = "", *, inside: str = "") -> str:
    """Return an element with a text and child elements."""
    written = "".join([f' {name}="{escape(value)}"' for name, value in attributes.items()])
    return f"<{tag}{written}>{escape(plain(text))}{inside}</{tag}>"


def _numbers(values: Numbers) -> Sequence[float]:
    """Return Python numbers, as numpy's take five times as long to format."""
    return values if isinstance(values, Sequence) else values.tolist()


def _short(value: float) -> str:
    """Format a coordinate to a tenth of a pixel, which is invisible."""
    return f"{value:.1f}"
