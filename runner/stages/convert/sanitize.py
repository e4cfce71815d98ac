# SPDX-License-Identifier: Apache-2.0
"""Sanitize HTML of notebooks, so that it cannot run scripts, load or navigate.

Outputs and Markdown are hostile input. They are sanitized by nh3: the Rust library ammonia with the
HTML parser of a browser engine and an allow-list, a maintained replacement of the deprecated
bleach. The regular expressions below run before it (to reject) or after it (on its canonical
output); safety does not depend on them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from html import escape, unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from runner.core.surrogates import without_surrogates
from runner.stages.convert.images import IMAGE_URL, MEDIA_URL
from runner.stages.convert.sanitize_css import safe_declarations, safe_stylesheet

if TYPE_CHECKING:
    import nh3

_HTML_TAGS = """
    a abbr article aside audio b bdi bdo big blockquote br caption center cite code col colgroup dd del details dfn div
    dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hr i img input ins kbd label li mark meter nav ol p
    pre progress q rp rt ruby s samp section small source span strike strong sub summary sup table tbody td tfoot th
    thead time tr tt u ul var video wbr
"""
_MATH_TAGS = """
    math menclose merror mfenced mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow mspace
    msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none
"""
_SVG_TAGS = """
    svg circle clipPath defs ellipse g image line linearGradient marker mask path pattern polygon polyline
    radialGradient rect stop symbol text textPath tspan use
"""
_SVG_ATTRIBUTES = """
    clip-path clip-rule clipPathUnits cx cy d dominant-baseline dx dy fill fill-opacity fill-rule font-family font-size
    font-style font-weight fx fy gradientTransform gradientUnits height letter-spacing marker-end marker-mid
    marker-start markerHeight markerUnits markerWidth mask offset opacity orient patternTransform patternUnits
    patternContentUnits points preserveAspectRatio r refX refY rx ry spreadMethod stop-color stop-opacity stroke
    stroke-dasharray stroke-dashoffset stroke-linecap stroke-linejoin stroke-miterlimit stroke-opacity stroke-width
    text-anchor textLength transform version viewBox visibility width x x1 x2 xml:space y y1 y2
"""
_MATH_ATTRIBUTES = """
    accent accentunder align columnalign columnlines columnspacing columnspan depth display displaystyle fence form
    frame height largeop linethickness lspace mathbackground mathcolor mathsize mathvariant maxsize minsize
    movablelimits notation rowalign rowlines rowspacing rowspan rspace scriptlevel separator stretchy symmetric voffset
    width
"""
_ANYWHERE = "aria-hidden aria-label class dir id lang role style title"
_OF_TAG = {
    "a": "href name",
    "audio": "controls loop src",
    "col": "align span width",
    "colgroup": "align span width",
    "details": "open",
    "div": "align",
    "font": "color face size",
    "h1": "align",
    "h2": "align",
    "h3": "align",
    "img": "align alt height src width",
    "input": "checked disabled type",
    "label": "for",
    "li": "value",
    "math": "alttext display",
    "meter": "high low max min optimum value",
    "ol": "reversed start type",
    "p": "align",
    "progress": "max value",
    "source": "src type",
    "table": "align border cellpadding cellspacing width",
    "td": "align colspan headers height rowspan valign width",
    "th": "align colspan headers height rowspan scope valign width",
    "time": "datetime",
    "tr": "align valign",
    "video": "controls height loop muted src width",
    "image": "href",
    "use": "href",
}
_WITH_CONTENT_REMOVED = """
    annotation annotation-xml applet button datalist embed foreignObject frame frameset iframe noembed noframes noscript
    object script select style template textarea title xmp
"""
_MISSING = "runner-missing"
"""Scheme that marks a missing image for `_Placeholders`."""

_LINK = re.compile(r"(?:https?://|mailto:|#|\?|\.{0,2}/(?![/\\])|[^/\\:?#]+(?:[/?#]|$))", re.IGNORECASE)
_FRAGMENT = re.compile(r"\s*url\(\s*['\"]?#[\w:.-]+['\"]?\s*\)\s*", re.IGNORECASE)
_IMG = re.compile(r'<(img|input|a)((?: [a-zA-Z:-]+="[^"]*")*)>|</a>')
_EMPTY_HEAD = re.compile(r"<th((?: (?!scope)[a-zA-Z:-]+=\"[^\"]*\")*)(?: scope=\"[^\"]*\")?>(?:\s|&nbsp;)*</th>")
"""An empty table corner, as in a DataFrame, which screen readers would announce as a heading."""
_BLOCK_MATH = re.compile(r'<math(?=(?: [a-zA-Z:-]+="[^"]*")* display="block")')
"""A wide formula scrolls, so it must be focusable by keyboard."""
_ATTRIBUTE = re.compile(r' ([a-zA-Z:-]+)="([^"]*)"')
_TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_SHOWS = re.compile(r"<(?:img|svg|input|hr|audio|video|progress|meter|math)\b|>[^<]*[^<\s]|^[^<]*[^<\s]")
_WITHOUT_CONTENT = "br circle col ellipse hr img input line link meta path polygon polyline rect source stop use wbr"
_NO_DEPTH = frozenset(_WITHOUT_CONTENT.split())
_MANY_TAGS = 10_000
_MAX_DEPTH = 1_000


Find = Callable[[str], str | None]
"""Return the data URL of a local address, None if unavailable."""


def clean_html(html: str, *, scope: str | None = None, find: Find | None = None) -> str:
    """Return a fragment that runs nothing, loads nothing and does not navigate.

    Parameters
    ----------
    html
        Output or rendered Markdown.
    scope
        Selector of the element that contains the fragment, to which its `<style>` elements are
        restricted. Without it they are dropped.
    find
        Looks up local images, audio and video; without it there are none.
    """
    html = without_surrogates(html)
    if _is_too_deep(html):
        note = '<p class="nb-note">This HTML is nested too deeply to be shown; its source:</p>'
        return f"{note}<pre>{escape(html[:100_000])}</pre>"
    cleaned = _IMG.sub(_Placeholders(), _cleaner(find).clean(html))
    cleaned = _BLOCK_MATH.sub('<math tabindex="0"', _EMPTY_HEAD.sub(r"<td\1></td>", cleaned))
    css = safe_stylesheet(_styles_of(html), scope) if scope and "<style" in html.lower() else ""
    return f"<style>{css}</style>{cleaned}" if css else cleaned


def shows_something(cleaned: str) -> bool:
    """Return True if a cleaned fragment has text or an image."""
    return _SHOWS.search(re.sub(r"<style>[^<]*</style>", "", cleaned)) is not None


def missing_image(url: str, alt: str = "", *, in_link: bool = False) -> str:
    """Return the visible placeholder of a missing image; its URL is shown but never loaded.

    A badge ``in_link`` is already inside a link and gets no other.
    """
    remote = url.startswith(("http://", "https://", "//"))
    what = "Remote image, not loaded" if remote else "Image that is not part of the notebook"
    text = escape(alt or url)
    if remote and not in_link:
        address = f"https:{url}" if url.startswith("//") else url
        text = f'<a href="{escape(address)}" rel="noopener noreferrer">{text}</a>'
    return f'<span class="nb-missing">{what}: {text}</span>'


@lru_cache(maxsize=2)
def _cleaner(find: Find | None) -> nh3.Cleaner:
    import nh3

    svg, math = set(_SVG_TAGS.split()), set(_MATH_TAGS.split())
    attributes = {tag: set(names.split()) for tag, names in _OF_TAG.items()}
    attributes["*"] = set(_ANYWHERE.split())
    for tags, names in ((svg, _SVG_ATTRIBUTES), (math, _MATH_ATTRIBUTES)):
        for tag in tags:
            attributes[tag] = attributes.get(tag, set()) | set(names.split())

    def filtered(tag: str, name: str, value: str) -> str | None:
        """Return the safe value of an attribute, None to drop it."""
        if name == "style":
            return safe_declarations(value) or None
        if name in {"href", "src"}:
            url = value.strip()
            return _filtered_url(tag, (find(url) if find and name == "src" else None) or url)
        lowered = value.lower()
        if ("url(" in lowered or "\\" in value) and name not in {"alt", "title", "alttext", "aria-label"}:
            return value if _FRAGMENT.fullmatch(value) else None
        return value

    return nh3.Cleaner(
        tags=set(_HTML_TAGS.split()) | svg | math,
        clean_content_tags=set(_WITH_CONTENT_REMOVED.split()),
        attributes=attributes,
        attribute_filter=filtered,
        link_rel="noopener noreferrer",
        url_schemes={"http", "https", "mailto", "data", "attachment", "file", "blob", _MISSING},
    )


def _filtered_url(tag: str, url: str) -> str | None:
    if tag == "a":
        return url if _LINK.match(url) else None
    if tag == "img":
        return url if IMAGE_URL.match(url) else f"{_MISSING}:{quote(url[:2000], safe='')}"
    if tag == "image":
        return url if IMAGE_URL.match(url) else None
    if tag == "use":
        return url if url.startswith("#") else None
    return url if MEDIA_URL.match(url) else None


class _Placeholders:
    """Replaces missing images by placeholders, and drops inputs.

    Check boxes are kept, because xarray folds its sections with them.
    """

    def __init__(self) -> None:
        self._in_link = False

    def __call__(self, match: re.Match[str]) -> str:
        attributes = {name: unescape(value) for name, value in _ATTRIBUTE.findall(match[2] or "")}
        if match[1] == "input":
            return match[0] if attributes.get("type", "").lower() == "checkbox" else ""
        if match[1] != "img":
            self._in_link = match[1] == "a"
            return match[0]
        source = attributes.get("src")
        if source is None:
            alt = escape(attributes.get("alt", ""))
            return f'<span class="nb-missing">Image without an address: {alt}</span>' if alt else ""
        if source.startswith(f"{_MISSING}:"):
            url = unquote(source.removeprefix(f"{_MISSING}:"))
            return missing_image(url, attributes.get("alt", ""), in_link=self._in_link)
        return match[0]


class _StyleReader(HTMLParser):
    """Collects the text of `<style>` elements for `safe_stylesheet`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.styles: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "style"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.styles.append(data)


def _styles_of(html: str) -> str:
    reader = _StyleReader()
    reader.feed(html)
    return "\n".join(reader.styles)


def _is_too_deep(html: str) -> bool:
    """Return True if elements are nested so deeply that parsing, in quadratic time, takes minutes."""
    if html.count("<") < _MANY_TAGS:
        return False
    still_open: Counter[str] = Counter()
    depth = 0
    for closing, name in _TAG.findall(html):
        tag = name.lower()
        if closing and still_open[tag]:
            still_open[tag] -= 1
            depth -= 1
        elif not closing and tag not in _NO_DEPTH:
            still_open[tag] += 1
            depth += 1
            if depth > _MAX_DEPTH:
                return True
    return False
