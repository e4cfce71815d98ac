# SPDX-License-Identifier: Apache-2.0
"""Convert terminal text to HTML, with colours, redrawn lines and a length limit."""

from __future__ import annotations

import re
from html import escape

from runner.core.units import format_bytes

HEAD_CHARACTERS = 400_000
TAIL_CHARACTERS = 200_000
_PIECE_CHARACTERS = 8_192
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_OTHER_SEQUENCES = re.compile(
    r"\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)"  # window titles and links
    r"|\x1b\[[0-?]{0,64}[ -/]{0,8}(?![m])[@-~]"  # cursor movements
    r"|\x1b[()#][0-9A-Za-z]|\x1b[=>78cDEHMNOZ]"
)
_TEXT_COLOUR = re.compile(r'style="color: (rgb\(\d+,\d+,\d+\))"')
_CONTROLS = {code: None for code in range(32) if code not in {9, 10, 27}} | {127: None}
_RESETS = {"\x1b[m", "\x1b[0m"}


def terminal_html(text: str) -> str:
    """Return text with ANSI colours as HTML for a `<pre>`."""
    plain = _OTHER_SEQUENCES.sub("", last_states(_bounded(text))).translate(_CONTROLS)
    if "\x1b" not in plain:
        return escape(plain, quote=False)
    return _coloured(plain)


def last_states(text: str) -> str:
    r"""Return text with only the last state of lines redrawn with ``\r``, as of progress bars."""
    if "\r" not in text:
        return text
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def _bounded(text: str) -> str:
    """Return a text, or its head and tail if it is too long for a browser."""
    left_out = len(text) - HEAD_CHARACTERS - TAIL_CHARACTERS
    if left_out <= 0:
        return text
    note = f"\x1b[0m\n[... {format_bytes(left_out)} omitted from this page; see the executed notebook ...]\n"
    return text[:HEAD_CHARACTERS] + note + text[-TAIL_CHARACTERS:]


def _coloured(text: str) -> str:
    """Convert in pieces, because nbconvert's filter copies the rest of its text at each colour code.

    Codes since the last reset are repeated at the start of each piece.
    """
    from nbconvert.filters.ansi import ansi2html

    html: list[str] = []
    codes: list[str] = []
    start = 0
    while start < len(text):
        end = _piece_end(text, start)
        piece = text[start:end]
        html.append(str(ansi2html("".join(codes) + piece)))
        for code in _COLOUR.findall(piece):
            codes = [] if code in _RESETS else [*codes[-16:], code]
        start = end
    # A variable, so that the stylesheet can adapt it to light and dark backgrounds.
    return _TEXT_COLOUR.sub(r'style="--ansi: \1"', "".join(html).replace("\x1b", ""))


def _piece_end(text: str, start: int) -> int:
    end = start + _PIECE_CHARACTERS
    if end >= len(text):
        return len(text)
    cut = text.rfind("\x1b", start + 1, end)  # never inside a code
    newline = text.rfind("\n", start + 1, end)
    return max(cut, newline) if max(cut, newline) > start else end
