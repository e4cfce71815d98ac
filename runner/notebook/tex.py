# SPDX-License-Identifier: Apache-2.0
r"""TeX as MathML, so that formulas are readable without a network and without a script.

MathJax, which Jupyter uses, is a script of some megabytes from a content network. Browsers show
MathML natively, and latex2mathml is a maintained, pure Python translation of the TeX that
notebooks contain. Whatever it does not know stays as TeX in a `<code>`, which a reader can
still read; it is never dropped. Its result is not escaped everywhere (`\text{<b>}` comes back
as a tag), so it is only ever used behind the sanitiser of `runner.notebook.safe_html`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

MAX_FORMULA_CHARACTERS = 20_000
"""Longer TeX is shown as it is; no formula for people is that long."""

_ENVIRONMENTS = {
    # Numbers would start again with each formula, and Jupyter shows none either.
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
    # A table of one column: browsers ignore the line breaks that latex2mathml makes of these.
    "gather": "matrix",
    "gather*": "matrix",
    "gathered": "matrix",
    "multline": "matrix",
    "multline*": "matrix",
}
_ENVIRONMENT = re.compile(r"\\(begin|end)\{([a-zA-Z]+\*?)\}")
_NOT_SHOWN = re.compile(r"\\label\s*\{[^{}]*\}|\\(?:nonumber|notag)(?![a-zA-Z])")
_LESS_THAN = "\ue000"
"""Stands in for `<` inside latex2mathml, which does not escape it in text."""

SEGMENT = re.compile(
    r"(?s)(?<!\\)\$\$(?P<display_tex>.+?)(?<!\\)\$\$"
    r"|\\\[(?P<display_latex>.+?)\\\]"
    r"|\\\((?P<inline_latex>.+?)\\\)"
    r"|(?P<environment>\\begin\{(?P<name>[a-zA-Z]+\*?)\}.*?\\end\{(?P=name)\})"
    r"|(?<![\\$])\$(?P<inline_tex>(?:[^$\\]|\\.)+)\$(?!\$)"
)
"""A formula inside the text of a `text/latex` output."""


def to_mathml(tex: str, *, display: bool) -> str:
    """Return a formula without its delimiters as MathML, or as readable TeX where that fails."""
    tex = tex.strip()
    mathml = _translate(tex, "block" if display else "inline")
    if mathml is not None:
        return mathml
    return f'<code class="tex{" display" if display else ""}">{escape(tex)}</code>'


def mixed_to_html(text: str) -> str:
    """Return a `text/latex` output, formulas between prose, as HTML."""
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    end = 0
    for match in SEGMENT.finditer(text):
        yield escape(text[end : match.start()])
        end = match.end()
        inline = match["inline_latex"] or match["inline_tex"]
        alone = not (text[: match.start()].strip() or text[end:].strip())
        tex = inline or match["display_tex"] or match["display_latex"] or match["environment"]
        yield to_mathml(tex, display=alone or not inline)
    yield escape(text[end:])


def _translate(tex: str, display: str) -> str | None:
    if not tex or len(tex) > MAX_FORMULA_CHARACTERS:
        return None
    from latex2mathml.converter import convert

    prepared = _NOT_SHOWN.sub("", _ENVIRONMENT.sub(_known_environment, tex)).replace("<", _LESS_THAN)
    try:
        mathml = str(convert(prepared, display=display))
    except Exception:  # noqa: BLE001  (its errors share no root, and deep nesting is a RecursionError)
        return None
    if "<mi>\\" in mathml or "<mi>&</mi>" in mathml:
        return None  # a command or an alignment it does not know: the TeX reads better
    mathml = mathml.replace(f"<mi>{_LESS_THAN}</mi>", "<mo>&lt;</mo>").replace(_LESS_THAN, "&lt;")
    return mathml.replace("<math ", f'<math alttext="{escape(tex)}" ', 1)


def _known_environment(match: re.Match[str]) -> str:
    return f"\\{match[1]}{{{_ENVIRONMENTS.get(match[2], match[2])}}}"
