# SPDX-License-Identifier: Apache-2.0
r"""Render Markdown of notebooks as safe HTML, with linkable headings and formulas as MathML.

The parser is nbconvert's (mistune with Jupyter's rules for formulas), so notebooks look the same.
There are three differences: `$5 and $10` is not a formula, as a dollar sign opens one only by
pandoc's rules; formulas become MathML and need no script; images come from attachments or files
beside the notebook, never from the network.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from html import escape, unescape
from pathlib import Path
from typing import Any, NamedTuple

from runner.stages.convert.images import LocalFiles
from runner.stages.convert.sanitize import Find, clean_html
from runner.stages.convert.tex import Ahead, to_mathml

_TAGS = re.compile(r"<[^<>]*+>")
_LOOKS_LIKE_TEX = re.compile(r"\\[a-zA-Z]|[=^_<>+]")
_ENVIRONMENT = r"\\begin\{(?P<math_env_name>[a-z]*\*?)\}"
_LONGEST_IMAGE = 1000
_LONGEST_FRONT_MATTER = 100
_MULTILINE = re.compile(rf"(?<!\\)\$\$|\\\\\[|{_ENVIRONMENT}")


class Heading(NamedTuple):
    """A heading for the table of contents."""

    level: int
    id: str
    text: str


class MarkdownPage:
    """Renders the Markdown of a page, with unique ids of headings.

    Parameters
    ----------
    folder
        Base of relative image paths; None: embed no files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._parser: Any = None  # import nbconvert only if there is Markdown
        self._ids: Counter[str] = Counter()
        self.headings: list[Heading] = []
        """Headings rendered so far, in order."""
        self._files = LocalFiles(folder)
        self.find = self._files.data_url
        """Looks up images beside the notebook, also for its outputs."""

    def render(self, text: str, attachments: object = None, scope: str | None = None) -> str:
        """Return Markdown text as safe HTML; ``attachments`` are those of its cell."""
        if self._parser is None:
            text = _front_matter_as_code(text)
        self._parser = self._parser or _parser(self._ids, self.headings, self.find)
        self._files.attachments = attachments if isinstance(attachments, dict) else {}
        return clean_html(self._parser.render(text), scope=scope, find=self.find)


def plain_text(html: str) -> str:
    """Return the text of rendered inline Markdown."""
    return " ".join(unescape(_TAGS.sub("", html)).split())


def _front_matter_as_code(text: str) -> str:
    """Convert the front matter of jupytext or Quarto to a code block, so it is not parsed as Markdown."""
    first, *lines = text.split("\n", _LONGEST_FRONT_MATTER)
    end = next((number for number, line in enumerate(lines) if line.rstrip() == "---"), 0)
    if first.rstrip() != "---" or not end or not lines[0].partition(":")[0].isidentifier() or ":" not in lines[0]:
        return text
    return "\n".join(["~~~yaml", *lines[:end], "~~~", *lines[end + 1 :]])


def _slug(text: str) -> str:
    """Return Jupyter's id of a heading, so that links written in Jupyter work."""
    return re.sub(r"\s+", "-", text.strip())[:100] or "section"


def _ahead(state: Any) -> Ahead:
    """Return the search index of the parser state's text."""
    ahead: Ahead | None = getattr(state, "ahead", None)
    if ahead is None or ahead.text is not state.src:
        ahead = state.ahead = Ahead(state.src)
    return ahead


# Jupyter's rules match whole formulas. Without a closing delimiter, each opening one searches the rest
# of the text, in a single regular expression that holds the GIL. So these rules match the opening
# delimiter only, and look up the end.


@cache
def _block_class() -> type[Any]:
    from nbconvert.filters.markdown_mistune import MathBlockParser

    class Block(MathBlockParser):  # type: ignore[misc]
        """Jupyter's block rules, in linear time."""

        SPECIFICATION = {**MathBlockParser.SPECIFICATION, "multiline_math": _MULTILINE.pattern}  # noqa: RUF012

        def parse_multiline_math(self, match: re.Match[str], state: Any) -> int | None:
            """Keep the first closed formula of a line in one paragraph."""
            line_end = state.find_line_end()
            opener: re.Match[str] | None = match
            while opener is not None and opener.start() < line_end:
                found = _ahead(state).closing(opener[0], opener["math_env_name"], opener.end())
                if found:
                    state.add_paragraph(state.src[match.start() : found[1]])
                    return found[1]
                opener = _MULTILINE.search(state.src, opener.end(), line_end)
            return None

    return Block


def _image_with_blanks(match: re.Match[str], state: Any, find: Find) -> int | None:
    """Parse an image whose name contains blanks if it exists: Jupyter's menu writes such names."""
    line = state.src[match.end() : match.end() + _LONGEST_IMAGE].partition("\n")[0]
    alt, _, rest = line.partition("](")
    url, closed, _ = rest.partition(")")
    if match[0] != "![" or not closed or " " not in url.strip() or not find(url.strip()):
        return None
    children = [{"type": "text", "raw": alt}]
    state.append_token({"type": "image", "children": children, "attrs": {"url": url.strip()}})
    return match.end() + len(alt) + len("](") + len(url) + len(")")


def _reference(_: Any, match: re.Match[str], state: Any) -> int:
    r"""Show the label of a `\ref` in text, as formulas have no numbers."""
    state.append_token({"type": "text", "raw": f"({match['label']})"})
    return match.end()


@cache
def _inline_class() -> type[Any]:
    """Build the inline rules on first use: importing nbconvert takes a tenth of a second."""
    from nbconvert.filters.markdown_mistune import MathInlineParser

    class Inline(MathInlineParser):  # type: ignore[misc]
        """Jupyter's inline rules, except those that parse dollar amounts as formulas."""

        # As in pandoc: no blank inside the delimiters, no digit after them; or blanks at both ends, or a command.
        tight = r"(?<![$\\])\$(?=[^\s$])(?P<math_inline_tex>(?:[^$\\`]|\\.)+?)(?<=\S)\$(?![\d$])"
        blank = r"(?=\s)(?:[^$\\`]|\\.)+?(?<=\s)"
        command = r"(?:[^$\\`\n]|\\[^a-zA-Z])*\\[a-zA-Z](?:[^$\\`\n]|\\.)*"
        loose = rf"(?<![$\\])\$(?P<math_inline_loose>{blank}|{command})\$(?![\d$]|\s*\d)"
        SPECIFICATION = {  # noqa: RUF012  (as in the base class)
            **MathInlineParser.SPECIFICATION,
            "block_math_tex": r"(?<!\\)\$\$",
            "block_math_latex": r"(?<!\\)\\\\\[",
            "inline_math_latex": r"(?<!\\)\\\\\(",
            "inline_math_tex": f"(?s:{tight})",
            "inline_math_loose": f"(?s:{loose})",
            "single_backslash_math": r"(?<!\\)\\[\[(]",
            "latex_environment": _ENVIRONMENT,
            "reference": r"\\(?:eq)?ref\{(?P<label>[^{}\n]{1,200})\}",
        }
        DEFAULT_RULES = (
            "block_math_tex",
            "block_math_latex",
            "inline_math_tex",
            "inline_math_loose",
            "inline_math_latex",
            "single_backslash_math",
            "reference",
            *[rule for rule in MathInlineParser.DEFAULT_RULES if "math" not in rule],
        )

        find: Find

        def parse_link(self, match: re.Match[str], state: Any) -> int | None:
            end: int | None = _image_with_blanks(match, state, self.find) or super().parse_link(match, state)
            return end

        parse_reference = _reference

        def parse_inline_math_loose(self, match: re.Match[str], state: Any) -> int:
            state.append_token({"type": "inline_math", "raw": match["math_inline_loose"]})
            return match.end()

        def parse_block_math_tex(self, match: re.Match[str], state: Any) -> int | None:
            """Parse the text between two matching delimiters as a formula."""
            found = _ahead(state).closing(match[0], None, match.end())
            if found is None:
                return self._as_text(match, state)
            kind = "inline_math" if match[0].endswith("(") else "block_math"
            state.append_token({"type": kind, "raw": state.src[match.end() : found[0]]})
            return found[1]

        parse_block_math_latex = parse_inline_math_latex = parse_block_math_tex

        def parse_single_backslash_math(self, match: re.Match[str], state: Any) -> int | None:
            r"""Parse `\(a^2\)` as a formula, but `\[1\]` and `\(see below\)` as escaped brackets."""
            found = _ahead(state).closing(match[0], None, match.end())
            sign = _ahead(state).next(_LOOKS_LIKE_TEX, match.end())
            if found is None or sign is None or sign.start() >= found[0]:
                return self._as_text(match, state)
            return self.parse_block_math_tex(match, state)

        def parse_latex_environment(self, match: re.Match[str], state: Any) -> int | None:
            found = _ahead(state).closing(match[0], match["math_env_name"], match.end())
            if found is None:
                return None
            attrs = {"name": match["math_env_name"], "body": state.src[match.end() : found[0]]}
            state.append_token({"type": "latex_environment", "attrs": attrs})
            return found[1]

        def _as_text(self, match: re.Match[str], state: Any) -> int | None:
            """Parse a delimiter without a formula as plain Markdown: an escaped bracket or text."""
            escaped = re.compile(self.specification["escape"]).match(state.src, match.start())
            return self.parse_escape(escaped, state) if escaped else None

    return Inline


@cache
def _renderer_class() -> type[Any]:
    from nbconvert.filters.markdown_mistune import IPythonRenderer

    class Renderer(IPythonRenderer):  # type: ignore[misc]
        """Writes MathML, linkable headings and images; its output is sanitized afterwards."""

        ids: Counter[str]
        headings: list[Heading]

        def heading(self, text: str, level: int, **_: Any) -> str:
            title = plain_text(text)
            name = self.new_id(_slug(title))
            self.headings.append(Heading(level, name, title))
            anchor = f'<a class="nb-anchor" href="#{escape(name)}" aria-label="Link to this heading">#</a>'
            return f'<h{level} id="{escape(name)}">{text}{anchor}</h{level}>\n'

        def new_id(self, wanted: str) -> str:
            """Return an id that is unique in the page."""
            name = wanted
            while self.ids[name]:
                self.ids[wanted] += 1
                name = f"{wanted}-{self.ids[wanted]}"
            self.ids[name] += 1
            return name

        def image(self, text: str, url: str, title: str | None = None) -> str:
            hint = f' title="{escape(title)}"' if title else ""
            return f'<img src="{escape(url)}" alt="{escape(plain_text(text))}"{hint}>'

        def inline_math(self, body: str) -> str:
            return to_mathml(body, display=False)

        def block_math(self, body: str) -> str:
            return to_mathml(body, display=True)

        def latex_environment(self, name: str, body: str) -> str:
            return to_mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", display=True)

        def block_mermaidjs(self, code: str) -> str:
            return f"<pre><code>{escape(code.strip())}</code></pre>"  # rendered by a script in Jupyter

    return Renderer


def _parser(ids: Counter[str], headings: list[Heading], find: Find) -> Any:
    """Return a parser that adds to ``ids`` and ``headings``, and looks up images with ``find``."""
    from nbconvert.filters.markdown_mistune import MarkdownWithMath

    renderer = _renderer_class()(escape=False)
    renderer.ids, renderer.headings = ids, headings
    block, inline = _block_class()(), _inline_class()(hard_wrap=False)
    inline.find = find
    return MarkdownWithMath(renderer=renderer, block=block, inline=inline)


def preload() -> None:
    """Import the parser and compile its expressions."""
    MarkdownPage().render("# a $x$")
