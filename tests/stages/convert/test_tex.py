# SPDX-License-Identifier: Apache-2.0
"""Formulas become MathML, money stays money, and what is unknown stays readable."""

from __future__ import annotations

import pytest
from support.pages import Page, dangers

from runner.stages.convert.markdown import MarkdownPage
from runner.stages.convert.sanitize import clean_html
from runner.stages.convert.tex import mixed_to_html, to_mathml


def rendered(text: str) -> Page:
    return Page(MarkdownPage().render(text))


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("so $x^2$ is", "inline"),
        ("so $ x^2 $ is", "inline"),
        (r"so $ \alpha$ is", "inline"),
        (r"so $f'(x) = \dfrac{1}{x} $ is", "inline"),
        ("the $n$th of $k$NN", "inline"),
        ("$$\nx = 1\n$$", "block"),
        ("text $$x = 1$$ more", "block"),
        (r"so \\(x^2\\) is", "inline"),
        (r"so \(x^2\) is", "inline"),
        (r"\\[x = 1\\]", "block"),
        (r"\[x = 1\]", "block"),
        ("\\begin{align}\na &= 1 \\\\\nb &= 2\n\\end{align}", "block"),
        ("\\begin{equation*}x\\end{equation*}", "block"),
        ("$$\\begin{aligned} a &= 1 \\\\ b &= 2 \\end{aligned}$$", "block"),
    ],
)
def test_formulas_of_markdown_become_mathml(text, display):
    """Every delimiter that Jupyter knows gives MathML with the TeX as its alternative text."""
    formulas = rendered(text).all("math")
    assert {formula.attributes["display"] for formula in formulas} == {display}
    assert all(formula.attributes["alttext"] for formula in formulas)
    assert "$" not in rendered(text).html.replace("\\$", "")


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10 per hour.",
        "$5, $6 and $7",
        "US$5/US$10",
        "a $ b",
        "from 5$ to 10$ each",
        r"from $5 to \alpha and $ 10",
        r"a $ \alpha$5",
        "set $HOME and `$PATH`",
        "`$x$`",
        "    $x$ in code",
        "```\n$$x$$\n```",
        r"\$x\$",
        r"see \[1\] and \(below\)",
        "",
    ],
)
def test_money_and_code_are_no_formulas(text):
    """Dollar amounts, variables, code and escaped brackets stay as they are."""
    assert rendered(text).all("math") == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a $x =\n y$ b", ["x=y"]),
        ("a \\\\(x =\n y\\\\) b", ["x=y"]),
        (r"$\arg\max_x f$ and $\arg x$", ["argmaxxf", "argx"]),
        (r"$\underset{x}{\arg\min}$", ["argminx"]),
        (r"$\ref{eq:a} = \eqref{b}$", ["(eq:a)=(b)"]),
        ("\\begin{align}\n[a] &= b \\\\\n[c] &= d\n\\end{align}", ["[a]=b[c]=d"]),
        (r"$$\begin{aligned} a \\[2ex] [b] \\* c \end{aligned}$$", ["a[b]c"]),
        (r"$\ce{2H2 + O2 -> 2H2O} x$ and $\ce{Fe^{2+}_{(aq)}}$", ["2H2+O2->2H2Ox", "Fe^2+_(aq)"]),
    ],
)
def test_what_people_write_is_a_formula(text, shown):
    """Over line breaks, with operators, references, rows that begin with a bracket, and chemistry as text."""
    page = rendered(text)
    assert ["".join(formula.text.split()) for formula in page.all("math")] == shown
    assert page.all("code") == []


def test_one_upright_letter_stays_upright():
    """A browser slants a single letter otherwise."""
    letters = rendered(r"$\int f\,\mathrm{d}x$ and $\alpha$").all("mi")
    assert [letter.text for letter in letters if letter.attributes.get("mathvariant") == "normal"] == ["d"]


def test_a_reference_in_a_text_names_its_label():
    """No formula has a number, so the label stands for it."""
    assert rendered(r"see \ref{eq:a}, \eqref{b} and `\ref{c}`").one("p").text == r"see (eq:a), (b) and \ref{c}"


def test_money_reads_as_written():
    """The sentence is unchanged."""
    assert rendered("It costs $5 and $10.").one("p").text == "It costs $5 and $10."


@pytest.mark.parametrize(
    "tex",
    [r"\foobar{x}", r"\frac", "x^", r"\left( x", "{" * 3000, "x" * 30_000, r"\begin{tabular}{l} a & b \end{tabular}"],
)
def test_unknown_tex_stays_readable(tex):
    """An error of the translation shows the TeX itself."""
    page = Page(clean_html(to_mathml(tex, display=True)))
    assert page.all("math") == []
    assert page.one("code").text == tex.strip()


def test_alignment_is_a_table_without_numbers():
    """Rows and columns of an aligned formula are rows and columns of MathML."""
    page = Page(to_mathml(r"\begin{align} a &= 1 \\ b &= 2 \label{eq:b} \end{align}", display=True))
    assert len(page.all("mtr")) == 2
    assert "(1)" not in page.html
    assert "label" not in page.one("mtable").text


@pytest.mark.parametrize(
    "tex",
    [
        r"\text{<script>alert(1)</script>}",
        r"\text{<img src=x onerror=alert(1)>}",
        r"\href{javascript:alert(1)}{x}",
        r"\style{background:url(https://evil.example)}{x}",
        r'\class{"><script>alert(1)</script>}{x}',
        r"x</math><script>alert(1)</script>",
    ],
)
def test_tex_cannot_bring_html(tex):
    """What latex2mathml passes through does not pass the page's sanitiser."""
    for text in (f"${tex}$", f"$${tex}$$"):
        assert dangers(MarkdownPage().render(text)) == []
        assert dangers(clean_html(mixed_to_html(text))) == []


def test_smaller_than_is_kept_in_formulas_and_their_text():
    """A relation sign is neither a tag nor lost."""
    assert Page(clean_html(to_mathml(r"a < b \text{ if } x<y \text{ (p<0.05)}", display=False))).one(
        "math"
    ).text.replace("\xa0", " ") == ("a<b if x<y (p<0.05)")


def test_prose_and_formulas_of_latex_outputs_are_told_apart():
    """Text between formulas is text; a formula alone is displayed as a block."""
    page = Page(clean_html(mixed_to_html(r"mean <b> $\mu$ and \(x\), then \[y\]")))
    assert [f.attributes["display"] for f in page.all("math")] == ["inline", "inline", "block"]
    assert "mean <b> " in page.html.replace("&lt;", "<").replace("&gt;", ">")
    assert Page(clean_html(mixed_to_html(r"$\displaystyle x$"))).one("math").attributes["display"] == "block"
