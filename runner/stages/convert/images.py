# SPDX-License-Identifier: Apache-2.0
"""Images, audio and video of a page as data URLs: attachments, files beside the notebook, SVG.

In `<img>`, `<video>` and `<audio>` browsers neither run scripts nor load anything, and the ids and
styles of an SVG cannot clash with those of other figures.
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
"""Prefix of a data URL allowed in `<img>`."""
MEDIA_URL = re.compile(r"data:(?:audio|video)/[\w.+-]+[;,]", re.IGNORECASE)
"""Prefix of a data URL allowed in a player."""
MAX_BYTES = 20_000_000
"""Larger files are not embedded."""
_SVG = "http://www.w3.org/2000/svg"


class LocalFiles:
    """Local files and attachments in the Markdown of a page.

    Parameters
    ----------
    folder
        Base of relative paths; None: embed no files.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder.resolve() if folder else None
        self.attachments: Mapping[str, Any] = {}
        """Attachments of the current cell."""

    def data_url(self, url: str) -> str | None:
        """Return the data URL of a local address, None if it is unavailable or not an image, audio or video."""
        if url.startswith("attachment:"):
            return self._attached(url.removeprefix("attachment:"))
        parts = urlsplit(url)
        kind = mimetypes.guess_type(parts.path)[0] or ""
        if self._folder is None or parts.scheme or parts.netloc or not _is_shown(kind):
            return None
        try:
            file = (self._folder / unquote(parts.path)).resolve()
            # Paths that lead out of the folder are rejected.
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
    """Return an SVG document as a data URL, None if it is not well-formed or defines entities."""
    from defusedxml.ElementTree import fromstring

    text = without_surrogates(svg)
    try:
        tag = fromstring(text).tag
    except Exception:  # noqa: BLE001  (expat, defusedxml and encoding errors share no root)
        return None
    if tag == "svg":  # the namespace is optional in a page but required in an image
        text = re.sub(r"<svg(?=[\s>/])", f'<svg xmlns="{_SVG}"', text, count=1)
    elif tag != f"{{{_SVG}}}svg":
        return None
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
