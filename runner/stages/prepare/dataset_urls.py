# SPDX-License-Identifier: Apache-2.0
"""Point the URLs of staged datasets in a notebook at the mirror that serves them.

The notebook's own download code then runs unchanged: what it does after downloading, and only
when it downloads, is part of the analysis. A URL is found twice:

- as text, so that literals, f-strings, `!wget` lines and cells of another language are alike;
- as the value of an expression of constants (`runner.stages.prepare.string_literals`), since the text that
  stands in a docstring or a message need not be what the code downloads.

Where the URL is rewritten as a name's value, the uses of that name stay as they are.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from runner.core.errors import BrokenInputError
from runner.stages.prepare import string_literals
from runner.stages.prepare.cell_source import edited, parse
from runner.stages.prepare.rules import change, nearest, running_cells, shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.records import Change

_ENDS = r"(?![\w\-/?&=%#~+@{]|[.:]\w)"
"""What may follow a URL: anything that would not make it a longer one."""
_WORD_BEFORE = re.compile(r"(?:\\[nrtfv]|(?<![^\s\"'`<>()\[\],;|\\]))([^\s\"'`<>()\[\],;|\\]*+)\Z")
"""What a URL is joined to on its left; an escape such as ``\\n`` is not part of it."""
_LONGER = re.compile(r"://|\?|[\w/&%#~+@.}]\Z")
"""A word that makes a URL behind it a part of another: `https://doi.org/`, `proxy?url=`; `--url=` does not."""
_LOOKED_BACK = 400
_MARK = f"dataset-{secrets.token_hex(16)}"
"""Stands for the URL until all of it is found: what is already rewritten is not found again."""


def apply(
    notebook: NotebookNode, replacements: Mapping[str, str], placed: Collection[str], name: str
) -> Iterator[Change]:
    """Replace each URL in every cell that runs and yield each change.

    Raises
    ------
    BrokenInputError
        A URL stands in no cell, and is neither placed where a library looks for it nor made by a library.
    """
    # Longest first: the text of one URL may begin another's.
    for url in sorted(replacements, key=len, reverse=True):
        cells = running_cells(notebook)
        marked = [_mark_text(cell, url) for cell in cells]
        marked = [sum(times) for times in zip(marked, _mark_values(cells, url), strict=True)]
        if not any(marked) and url not in placed:
            _refuse(notebook, url, name)
        for cell, times in zip(cells, marked, strict=True):
            if times:
                local = replacements[url]
                cell.source = cell.source.replace(_MARK, local)
                yield change("dataset", f"{shown(url)} from the cache", cell, times=times, old=url, new=local)


def _mark_text(cell: NotebookNode, url: str) -> int:
    """Mark the URL as it stands, but not in comments: what is commented out downloads nothing."""
    source: str = cell.source
    if url not in source:
        return 0
    parsed = parse(source)
    comments = parsed.comments() if parsed else []
    spans = [tuple(len(_bytes(source[:place])) for place in span) for span in _places(source, url)]
    edits = [(start, end, _MARK) for start, end in spans if not any(a <= start < b for a, b in comments)]
    cell.source = edited(_bytes(source), edits)
    return len(edits)


def _mark_values(cells: list[NotebookNode], url: str) -> list[int]:
    """Mark the URL in the expressions whose value has it; return how many they are in each cell."""

    def swap(text: str) -> str:
        for start, end in reversed(_places(text, url)):
            text = text[:start] + _MARK + text[end:]
        return text

    sources = [parse(cell.source) for cell in cells]
    known = string_literals.constants([source for source in sources if source], swap)
    found = []
    for cell, source in zip(cells, sources, strict=True):
        edits = list(string_literals.edits(source, known, swap)) if source else []
        if source and edits:
            cell.source = edited(source.data, edits)
        found.append(len(edits))
    return found


def _places(text: str, url: str) -> list[tuple[int, int]]:
    """Return where the URL stands by itself, not as a part of a longer one."""
    if url not in text:
        return []
    spans = (match.span() for match in re.finditer(re.escape(url) + _ENDS, text))
    return [(start, end) for start, end in spans if not _is_joined(text[max(0, start - _LOOKED_BACK) : start])]


def _is_joined(before: str) -> bool:
    word = _WORD_BEFORE.search(before)
    return word is not None and _LONGER.search(word.group(1)) is not None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _refuse(notebook: NotebookNode, url: str, name: str) -> None:
    near = nearest(url, [cell.source for cell in running_cells(notebook)])
    found = f"nearest text: {shown(near)}; " if near else ""
    raise BrokenInputError(
        f"notebook {name!r}, dataset {url!r}: no cell contains the URL, and the dataset has neither `place` nor `hook`",
        hint=f"{found}correct the URL, or say with `place` where a library looks for the file, "
        "or `hook: true` if a library makes the URL",
    )
