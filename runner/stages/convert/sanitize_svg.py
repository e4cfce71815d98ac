# SPDX-License-Identifier: Apache-2.0
"""SVG images of notebooks as data URLs.

An SVG document can hold scripts and references. It goes through an XML parser that refuses
entities (defusedxml, which nbconvert's parsers need as well), is cleaned, and ends in an
`<img>`, where browsers neither run scripts nor load anything. There its ids and styles cannot
meet those of other figures either, and it looks exactly as it was drawn.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from runner.core.surrogates import without_surrogates

IMAGE_URL = re.compile(r"data:image/(?:png|jpe?g|gif|webp|avif|bmp|x-icon|svg\+xml)[;,]", re.IGNORECASE)
"""Start of a data URL that an `<img>` may show."""

_REMOVED = frozenset(
    {
        "animate",
        "animatemotion",
        "animatetransform",
        "audio",
        "embed",
        "foreignobject",
        "handler",
        "iframe",
        "listener",
        "object",
        "script",
        "set",
        "video",
    }
)


def svg_data_url(svg: str) -> str | None:
    """Return an SVG document without scripts and references as a data URL; None if it is not well-formed.

    Inside `<img>` nothing of it would run or load anyway; it is cleaned as well for the reader
    who opens the image by itself.
    """
    from xml.etree import ElementTree as ET

    from defusedxml.ElementTree import fromstring

    try:
        root = fromstring(without_surrogates(svg))
    except Exception:  # noqa: BLE001  (expat, defusedxml and encoding errors share no root)
        return None
    if _local(root.tag) != "svg":
        return None
    _clean_svg(root)
    ET.register_namespace("", "http://www.w3.org/2000/svg")
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return "data:image/svg+xml;base64," + base64.b64encode(ET.tostring(root)).decode()


def _local(name: object) -> str:
    return str(name).rpartition("}")[2]


def _clean_svg(element: Any) -> None:
    """Take scripts, foreign content, event handlers and references to elsewhere out of an SVG tree."""
    stack = [element]
    while stack:
        parent = stack.pop()
        for name, value in list(parent.attrib.items()):
            if not _svg_attribute_stays(_local(name).lower(), value):
                del parent.attrib[name]
        for child in list(parent):
            if _svg_element_stays(child):
                stack.append(child)
            else:
                parent.remove(child)


def _svg_element_stays(child: Any) -> bool:
    tag = _local(child.tag).lower()
    if tag == "style":
        text = (child.text or "").lower()
        return not any(word in text for word in ("url", "@import", "\\", "image-set"))
    return isinstance(child.tag, str) and tag not in _REMOVED


def _svg_attribute_stays(name: str, value: str) -> bool:
    if name.startswith("on") or name == "base":
        return False
    if name in {"href", "src"}:
        return value.strip().startswith("#") or IMAGE_URL.match(value.strip()) is not None
    return "url(" not in value.lower() or all(part.startswith("#") for part in _url_parts(value))


def _url_parts(value: str) -> list[str]:
    return [part.strip(" '\"") for part in re.split(r"url\(", value, flags=re.IGNORECASE)[1:]]
