# SPDX-License-Identifier: Apache-2.0
"""Selection of figures for the report: tagged ones, then the last ones of each notebook, up to a size limit."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from runner.core import files

if TYPE_CHECKING:
    from runner.report.assemble import Entry, Report

TAG = "gallery"
"""Tag of cells whose figures come first."""
MOST_BYTES = 2_000_000
"""Limit for all figures of a page, in base64."""
_MOST_FIGURES = 60
_LARGEST_BYTES = 400_000
"""Larger figures appear only on the notebook's page."""
_LARGEST_NOTEBOOK_BYTES = 100_000_000
_MOST_READ_BYTES = 400_000_000
_BEGINS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/webp": b"RIFF",
    "image/gif": b"GIF8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A static image in the output of a cell."""

    entry: Entry
    cell: int
    """Number of the code cell, from 0."""
    title: str
    uri: Markup
    tagged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Figures shown on the report page."""

    figures: tuple[Figure, ...] = ()
    left_out: int = 0
    """Number of figures that are only on the notebooks' pages."""


def gallery(report: Report, folder: Path) -> Gallery:
    """Select figures from the executed notebooks of a report.

    Tagged ones first, then the last figure of each notebook, then the one before, until the limit is reached; they
    are shown in the order of the report.
    """
    found: list[list[Figure]] = []
    room, counted = _MOST_READ_BYTES, 0
    for entry in report.entries:
        count = entry.metrics.outputs.figures if entry.metrics else 0
        counted += count
        path = folder / entry.files.get("notebook", "")
        if not count or "notebook" not in entry.files or "html" not in entry.files:
            continue
        try:
            room -= (size := path.stat().st_size)
            if room < 0 or size > _LARGEST_NOTEBOOK_BYTES:
                continue
            document = json.loads(files.read(path, _LARGEST_NOTEBOOK_BYTES))
            found.append(list(_figures(entry, document)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # reported on the page of the notebook
    chosen = _chosen(found)
    shown = tuple(figure for figures in found for figure in figures if id(figure) in chosen)
    return Gallery(figures=shown, left_out=max(0, counted - len(shown)))


def _chosen(found: list[list[Figure]]) -> set[int]:
    """Return the ids of the figures that fit within the limits."""
    tagged = [figure for figures in found for figure in figures if figure.tagged]
    rest = [[figure for figure in reversed(figures) if not figure.tagged] for figures in found]
    turns = itertools.chain(tagged, *itertools.zip_longest(*rest))
    chosen: set[int] = set()
    room = MOST_BYTES
    for figure in turns:
        if figure is not None and len(figure.uri) <= room and len(chosen) < _MOST_FIGURES:
            room -= len(figure.uri)
            chosen.add(id(figure))
    return chosen


def _figures(entry: Entry, document: Mapping[str, Any]) -> Iterator[Figure]:
    titles = {cell.index: cell.title for cell in entry.metrics.cells} if entry.metrics else {}
    for cell in document["cells"]:
        index = cell["metadata"].get("runner", {}).get("index")
        if cell["cell_type"] != "code" or not isinstance(index, int):
            continue
        for output in cell["outputs"]:
            uri = _uri(output.get("data", {}))
            if uri is not None:
                tagged = TAG in cell["metadata"].get("tags", ())
                yield Figure(entry=entry, cell=index, title=titles.get(index) or "", uri=uri, tagged=tagged)


def _uri(data: Mapping[str, Any]) -> Markup | None:
    """Return a static image as a data URI; None if there is none, or it does not match its type."""
    for kind, begin in _BEGINS.items():
        value = data.get(kind)
        if value is None:
            continue
        text = "".join("".join(value).split())
        if len(text) > _LARGEST_BYTES:
            return None
        try:
            content = base64.b64decode(text, validate=True)
        except binascii.Error:
            return None
        return Markup(f"data:{kind};base64,{text}") if content.startswith(begin) else None  # noqa: S704  (just decoded)
    return None
