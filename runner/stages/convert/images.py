# SPDX-License-Identifier: Apache-2.0
"""Pictures and recordings that a page holds, as data URLs: attachments, files beside the notebook, SVG.

They end in `<img>`, `<video>` or `<audio>`, where browsers neither run scripts nor load anything. There
the ids and styles of an SVG cannot meet those of other figures either.
"""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from runner.core.surrogates import without_surrogates

IMAGE_URL = re.compile(r"data:image/(?:png|jpe?g|gif|webp|avif|bmp|x-icon|svg\+xml)[;,]", re.IGNORECASE)
"""Start of a data URL that an `<img>` may show."""
MEDIA_URL = re.compile(r"data:(?:audio|video)/[\w.+-]+[;,]", re.IGNORECASE)
"""Start of a data URL that a player may play."""
MAX_BYTES = 20_000_000
"""A larger file is not taken into the page."""
_SVG = "http://www.w3.org/2000/svg"


class LocalFiles:
    """What the markdown of a page names by an address that is not of the network.

    Parameters
    ----------
    folder
        Where files are that are named by path; None leaves them out.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder.resolve() if folder else None
        self.attachments: Mapping[str, Any] = {}
        """Of the cell that is rendered."""

    def data_url(self, url: str) -> str | None:
        """Return what an address names; None where that is unavailable, or neither picture nor recording."""
        if url.startswith("attachment:"):
            return self._attached(url.removeprefix("attachment:"))
        parts = urlsplit(url)
        kind = mimetypes.guess_type(parts.path)[0] or ""
        if self._folder is None or parts.scheme or parts.netloc or not _is_shown(kind):
            return None
        try:
            file = (self._folder / unquote(parts.path)).resolve()
            # A path that leads out of the folder is not followed.
            if not file.is_relative_to(self._folder) or not file.is_file() or file.stat().st_size > MAX_BYTES:
                return None
            content = file.read_bytes()
        except (OSError, ValueError):
            return None
        if kind == "image/svg+xml":
            return svg_data_url(content.decode(errors="replace"))
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    def _attached(self, name: str) -> str | None:
        bundle = self.attachments.get(name) or self.attachments.get(unquote(name))
        for kind, content in bundle.items() if isinstance(bundle, dict) else ():
            text = "".join(map(str, content)) if isinstance(content, list) else content
            if isinstance(text, str) and _is_shown(kind):
                return f"data:{kind};base64,{text.strip()}"
        return None


def _is_shown(kind: str) -> bool:
    return any(pattern.match(f"data:{kind};") for pattern in (IMAGE_URL, MEDIA_URL))


def svg_data_url(svg: str) -> str | None:
    """Return an SVG document as a data URL; None if it is not well-formed or brings entities of its own."""
    from defusedxml.ElementTree import fromstring

    text = without_surrogates(svg)
    try:
        tag = fromstring(text).tag
    except Exception:  # noqa: BLE001  (expat, defusedxml and encoding errors share no root)
        return None
    if tag == "svg":  # an image needs the namespace that an element of a page does without
        text = re.sub(r"<svg(?=[\s>/])", f'<svg xmlns="{_SVG}"', text, count=1)
    elif tag != f"{{{_SVG}}}svg":
        return None
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
