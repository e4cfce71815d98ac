# SPDX-License-Identifier: Apache-2.0
r"""Convert TeX to MathML, so that formulas need neither network nor scripts.

Jupyter's MathJax is a script of several megabytes from a CDN. Browsers render MathML natively, and
latex2mathml is a maintained pure Python converter. Unsupported TeX is shown as `<code>`, never
dropped. The output is not escaped everywhere (`\text{<b>}` becomes a tag), so it must be sanitized
by `runner.stages.convert.sanitize`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from html import escape

MAX_FORMULA_CHARACTERS = 20_000
"""Longer TeX is shown as source."""

_ENVIRONMENTS = {
    # Numbering would restart with each formula, and Jupyter shows no numbers either.
    "align": "align*",
    "alignat": "align*",
    "aligned": "align*",
    "alignedat": "align*",
    "eqnarray": "align*",
    "eqnarray*": "align*",
    "flalign": "align*",
    "flalign*": "align*",
    "split": "align*",
    "equation": "equation*",
    # A table of one column: browsers ignore the line breaks that latex2mathml writes for these.
    "gather": "matrix",
    "gather*": "matrix",
    "gathered": "matrix",
    "multline": "matrix",
    "multline*": "matrix",
}
_INSIDE = r"(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+"
_REWRITTEN = re.compile(
    r"\\(?:(?P<edge>begin|end)\{(?P<name>[a-zA-Z]+\*?)\}"
    rf"|(?P<command>label|ref|eqref|ce|pu)\s*+\{{(?P<inside>{_INSIDE})\}}"
    r"|(?P<word>nonumber|notag|arg)(?![a-zA-Z])"
    r"|(?P<newline>\\)\*?(?:\[\s*+-?[\d.]+\s*+[a-z]{2}\s*+\])?(?=(?P<bracket>\s*+\[)?))"
)
"""Commands that latex2mathml does not support or misinterprets."""
_BRACES = str.maketrans("", "", "{}")
_LESS_THAN = "\ue000"
"""Replaces `<` inside latex2mathml, which does not escape it in text."""

_OPENER = re.compile(
    r"(?s)(?<!\\)\$\$|\\[\[(]|\\begin\{(?P<name>[a-zA-Z]+\*?)\}"
    r"|(?<![\\$])\$(?P<inline>(?:[^$\\]|\\.)++)\$(?!\$)"
)
"""The start of a formula in a `text/latex` output."""
_CLOSERS = {
    "$$": re.compile(r"(?<!\\)\$\$"),
    r"\[": re.compile(r"\\\]"),
    r"\(": re.compile(r"\\\)"),
    r"\\[": re.compile(r"(?<!\\)\\\\\]"),
    r"\\(": re.compile(r"(?<!\\)\\\\\)"),
}
_END = re.compile(r"\\end\{([a-zA-Z]*\*?)\}")


class Ahead:
    """Cached forward searches in a text, so that many unclosed formulas take linear time."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._found: dict[re.Pattern[str], tuple[int, re.Match[str] | None]] = {}
        self._ends: dict[str, list[int]] | None = None

    def next(self, pattern: re.Pattern[str], start: int) -> re.Match[str] | None:
        """Return the first match at or after a position."""
        since, found = self._found.get(pattern, (len(self.text) + 1, None))
        if since <= start and (found is None or found.start() >= start):
            return found
        found = pattern.search(self.text, start)
        self._found[pattern] = (start, found)
        return found

    def closing(self, opener: str, environment: str | None, start: int) -> tuple[int, int] | None:
        """Return start and end of the delimiter that closes a formula, None if it is not closed."""
        if environment is None:
            found = self.next(_CLOSERS[opener], start)
            return found.span() if found else None
        if self._ends is None:
            self._ends = {}
            for match in _END.finditer(self.text):
                self._ends.setdefault(match[1], []).append(match.start())
        ends = self._ends.get(environment, [])
        place = bisect_left(ends, start)
        return (ends[place], ends[place] + len(environment) + len(r"\end{}")) if place < len(ends) else None


def to_mathml(tex: str, *, display: bool) -> str:
    """Return a formula, given without delimiters, as MathML, or as TeX source if that fails."""
    tex = tex.strip()
    mathml = _translate(tex, "block" if display else "inline")
    if mathml is not None:
        return mathml
    return f'<code class="tex{" display" if display else ""}">{escape(tex)}</code>'


def mixed_to_html(text: str) -> str:
    """Return a `text/latex` output, prose with formulas, as HTML."""
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    shown = 0
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    for start, end, tex, inline in _formulas(text):
        yield escape(text[shown:start])
        shown = end
        alone = start <= first and end >= last
        yield to_mathml(tex, display=alone or not inline)
    yield escape(text[shown:])


def _formulas(text: str) -> Iterator[tuple[int, int, str, bool]]:
    """Yield start, end and TeX of each formula, and True if it is inline."""
    ahead = Ahead(text)
    position = 0
    while match := _OPENER.search(text, position):
        start, position = match.start(), match.start() + 1
        if match["inline"] is not None:
            position = match.end()
            yield start, position, match["inline"], True
        elif found := ahead.closing(match[0], match["name"], match.end()):
            body = text[match.end() : found[0]]
            if body or match["name"]:
                position = found[1]
                yield start, position, text[start:position] if match["name"] else body, match[0] == r"\("


def _translate(tex: str, display: str) -> str | None:
    if not tex or len(tex) > MAX_FORMULA_CHARACTERS:
        return None
    from latex2mathml.converter import convert

    prepared = _REWRITTEN.sub(_rewritten, tex).replace("<", _LESS_THAN)
    try:
        mathml = str(convert(prepared, display=display))
    except Exception:  # noqa: BLE001  (its errors have no common base; deep nesting raises RecursionError)
        return None
    if "<mi>\\" in mathml or "<mi>&</mi>" in mathml:
        return None  # an unsupported command or alignment: the TeX source is more readable
    mathml = mathml.replace("<mi>&#x000", '<mi mathvariant="normal">&#x000')  # a single letter in \mathrm
    mathml = mathml.replace(f"<mi>{_LESS_THAN}</mi>", "<mo>&lt;</mo>").replace(_LESS_THAN, "&lt;")
    return mathml.replace("<math ", f'<math alttext="{escape(tex)}" ', 1)


def _rewritten(match: re.Match[str]) -> str:
    if name := match["name"]:
        known = _ENVIRONMENTS.get(name)
        # A row may begin with a bracket that is not an option.
        return f"\\{match['edge']}{{{known or name}}}" + (
            "{}" if known == "align*" and match["edge"] == "begin" else ""
        )
    if match["newline"]:
        return "\\\\" + ("{}" if match["bracket"] else "")
    if match["command"] in {"ce", "pu"}:
        return "\\text{" + match["inside"].translate(_BRACES) + "}"  # latex2mathml ends text at the first brace
    if match["command"] in {"ref", "eqref"}:
        return f"\\text{{({match['inside']})}}"
    return r"\operatorname{arg}" if match["word"] == "arg" else ""
