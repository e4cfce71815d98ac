# SPDX-License-Identifier: Apache-2.0
"""A page as tests look at it: parsed by a parser of its own, never searched as text."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from runner.stages.convert.page import write_page

VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
)
RUNS = frozenset(
    {"script", "iframe", "frame", "object", "embed", "applet", "form", "base", "template", "noscript", "portal"}
)
LOADS = {"src", "srcset", "data", "poster", "background", "action", "formaction", "ping", "manifest", "xlink:href"}


def html_of(notebook: dict[str, Any], *, name: str = "notebook", **options: Any) -> str:
    """Return the page of a notebook; the options are those of `write_page`."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        write_page(notebook, page, name=name, **options)
        return page.read_text(encoding="utf-8")


@dataclass
class Element:
    """An element with its attributes and all text below it."""

    tag: str
    attributes: dict[str, str]
    path: tuple[str, ...] = ()
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())


class Page(HTMLParser):
    """All elements of a page in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        path = tuple(element.tag for element in self._open)
        element = Element(tag, {name: value or "" for name, value in attrs}, path)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if any(element.tag == tag for element in self._open):
            while self._open.pop().tag != tag:
                pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.parts.append(data)

    def all(self, tag: str | None = None, *, having: str | None = None) -> list[Element]:
        """Return elements by tag and class."""
        return [e for e in self.elements if tag in {None, e.tag} and (having is None or having in e.classes)]

    def one(self, tag: str | None = None, *, having: str | None = None) -> Element:
        found = self.all(tag, having=having)
        assert len(found) == 1, f"{len(found)} of {tag or ''}.{having or ''} in {self.html[:2000]}"
        return found[0]

    def by_id(self, name: str) -> Element:
        found = [element for element in self.elements if element.attributes.get("id") == name]
        assert len(found) == 1, f"{len(found)} elements have the id {name}"
        return found[0]

    @property
    def text(self) -> str:
        """Text of the body."""
        return self.one("body").text


def dangers(html: str) -> list[str]:
    """Return everything in a page that could run, load or navigate by itself."""
    found: list[str] = []
    for element in Page(html).elements:
        found += [f"<{element.tag}>"] if element.tag in RUNS else []
        found += [f"{element.tag} {name}={value}" for name, value in _bad_attributes(element)]
        if element.tag == "style":
            found += [f"style: {word}" for word in _loads_of(element.text)]
        if element.tag == "meta" and element.attributes.get("http-equiv", "").lower() not in {
            "",
            "content-security-policy",
        }:
            found.append(f"meta {element.attributes}")
    return found


def _bad_attributes(element: Element) -> list[tuple[str, str]]:
    return [(name, value) for name, value in element.attributes.items() if _is_bad(element.tag, name, value)]


def _is_bad(tag: str, name: str, value: str) -> bool:
    plain = re.sub(r"[\x00-\x20]", "", value).lower()
    if name.startswith("on") or name == "srcdoc":
        return True
    if name == "style" or ("url(" in plain and name not in {"alt", "title", "alttext"}):
        return bool(_loads_of(value)) or "position:fixed" in plain
    if name == "href" and tag == "a":
        return plain.startswith(("javascript:", "vbscript:", "data:", "file:", "blob:"))
    if name in LOADS or name == "href":
        allowed = plain.startswith("#") or re.match(r"data:(?:image/|audio/|video/|,$)", plain)
        return bool(plain) and not allowed
    return False


def _loads_of(css: str) -> list[str]:
    lowered = css.lower()
    found = [
        word for word in ("@import", "expression(", "behavior:", "-moz-binding", "http:", "https:") if word in lowered
    ]
    return found + [
        f"url({u}" for u in re.findall(r"url\(\s*['\"]?([^)]*)", lowered) if not u.startswith(("#", "data:image/"))
    ]
