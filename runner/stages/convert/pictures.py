# SPDX-License-Identifier: Apache-2.0
"""Static pictures of interactive figures, rendered by kaleido and vl-convert if installed."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runner.stages.convert.environment import ask

if TYPE_CHECKING:
    from runner.stages.convert.figures import Figure

_SECONDS = 60
_MOST = 200


class Pictures:
    """The pictures of a page, all rendered on first access.

    Parameters
    ----------
    figures
        The figures by the id of their output.
    pythons
        Python executables whose packages render.
    """

    def __init__(self, figures: Mapping[int, Figure], pythons: Sequence[str]) -> None:
        self._figures = dict(list(figures.items())[:_MOST])
        self._pythons = pythons

    def of(self, output: Mapping[str, Any]) -> str | None:
        """Return the PNG of an output in base64, None without a figure or a renderer."""
        return self._rendered.get(id(output)) if id(output) in self._figures else None

    @cached_property
    def _rendered(self) -> dict[int, str]:
        questions = [("picture", figure.library, _offline(figure)) for figure in self._figures.values()]
        answers = ask(self._pythons, questions, seconds=_SECONDS)
        return {key: answers[number] for number, key in enumerate(self._figures) if number in answers}


def png_size(encoded: str) -> tuple[int, int]:
    """Return width and height of a PNG in base64."""
    head = base64.b64decode(encoded[:64])
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def _offline(figure: Figure) -> dict[str, Any]:
    """Return a figure's content without images from files or the network."""
    layout = figure.content.get("layout")
    if figure.library != "plotly" or not isinstance(layout, dict) or not isinstance(layout.get("images"), list):
        return figure.content
    own = [one for one in layout["images"] if isinstance(one, dict) and str(one.get("source")).startswith("data:")]
    return {**figure.content, "layout": {**layout, "images": own}}
