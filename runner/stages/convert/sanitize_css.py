# SPDX-License-Identifier: Apache-2.0
"""Sanitize styles of outputs, so that they affect only the appearance of their output.

Tables of pandas, xarray and anndata include styles, without which they would be hard to read. They
are parsed with tinycss2 (the CSS parser of WeasyPrint and bleach); allowed properties are kept,
below a selector that restricts them to their output. Values that load something, position outside
the box or could close the `<style>` element are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_PROPERTIES = """
    align-content align-items align-self aspect-ratio background background-color background-image
    background-position background-repeat background-size border border-bottom border-bottom-color
    border-bottom-left-radius border-bottom-right-radius border-bottom-style border-bottom-width border-collapse
    border-color border-left border-left-color border-left-style border-left-width border-radius border-right
    border-right-color border-right-style border-right-width border-spacing border-style border-top border-top-color
    border-top-left-radius border-top-right-radius border-top-style border-top-width border-width box-shadow
    box-sizing caption-side clear clip-path color color-scheme column-count column-gap columns content cursor direction
    display empty-cells fill fill-opacity flex flex-basis flex-direction flex-flow flex-grow flex-shrink flex-wrap
    float font font-family font-feature-settings font-size font-stretch font-style font-variant
    font-variant-numeric font-weight gap grid grid-area grid-auto-columns grid-auto-flow grid-auto-rows grid-column
    grid-column-end grid-column-gap grid-column-start grid-gap grid-row grid-row-end grid-row-gap grid-row-start
    grid-template grid-template-areas grid-template-columns grid-template-rows height hyphens inline-size
    justify-content justify-items justify-self left letter-spacing line-height list-style list-style-position
    list-style-type margin margin-bottom margin-left margin-right margin-top max-height max-width min-height
    min-width object-fit opacity order outline overflow overflow-wrap overflow-x overflow-y padding padding-bottom
    padding-left padding-right padding-top position right row-gap stroke stroke-dasharray stroke-linecap
    stroke-linejoin stroke-opacity stroke-width tab-size table-layout text-align text-anchor text-decoration
    text-indent text-overflow text-shadow text-transform top bottom transform transform-origin vertical-align
    visibility white-space width word-break word-spacing word-wrap writing-mode z-index
"""
PROPERTIES = frozenset(_PROPERTIES.split())
_FUNCTIONS_THAT_LOAD = frozenset(
    {"url", "src", "image", "image-set", "-webkit-image-set", "cross-fade", "element", "expression", "attr", "paint"}
)
_LOCAL = re.compile(r"#[\w:.-]+|data:image/(?:png|jpe?g|gif|webp|svg\+xml)[;,][^\\<>\"']*", re.IGNORECASE)
_ROOT = re.compile(
    r"^\s*(?::root|:host|html|body)(?![\w-])(?P<state>[\[.:#(][^\s>+~]*)?(?:\s+body(?![\w-]))?", re.IGNORECASE
)
_CONDITIONS = frozenset({"media", "supports"})
MAX_CHARACTERS = 500_000
_MAX_DEPTH = 4


@lru_cache(maxsize=4096)
def safe_declarations(css: str) -> str:
    """Return the safe declarations of a `style` attribute."""
    import tinycss2

    if len(css) > MAX_CHARACTERS:
        return ""
    return _declarations(tinycss2.parse_blocks_contents(css, skip_comments=True, skip_whitespace=True))


@lru_cache(maxsize=256)
def safe_stylesheet(css: str, scope: str) -> str:
    """Return the safe rules of a stylesheet, restricted to descendants of ``scope``.

    Parameters
    ----------
    css
        Text of `<style>` elements.
    scope
        Selector of the element that contains the output, such as ``#cell-3-output-1``.
    """
    import tinycss2

    if len(css) > MAX_CHARACTERS:
        return ""
    return _rules(tinycss2.parse_stylesheet(css, skip_comments=True, skip_whitespace=True), scope, 0)


def _rules(rules: Iterable[Any], scope: str, depth: int) -> str:
    """Return style rules and conditional groups; drop all others, such as imports, fonts and namespaces."""
    import tinycss2

    kept: list[str] = []
    for rule in rules:
        if rule.type == "qualified-rule":
            body = _declarations(tinycss2.parse_blocks_contents(rule.content, skip_comments=True, skip_whitespace=True))
            selectors = _scoped(rule.prelude, scope)
            if body and selectors:
                kept.append(f"{selectors}{{{body}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in _CONDITIONS and rule.content and depth < _MAX_DEPTH:
            inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            condition = tinycss2.serialize(rule.prelude).strip()
            body = _rules(inner, scope, depth + 1)
            if body and _is_plain(condition):
                kept.append(f"@{rule.lower_at_keyword} {condition}{{{body}}}")
    return "\n".join(kept)


def _scoped(prelude: list[Any], scope: str) -> str:
    """Restrict each selector of a list to the scope; `:root` and `body` become the scope itself.

    A state of the root, such as ``html[theme=dark]``, never applies in the page and is dropped.
    """
    import tinycss2

    selectors: list[list[Any]] = [[]]
    for token in prelude:
        if token.type == "literal" and token.value == ",":
            selectors.append([])
        else:
            selectors[-1].append(token)
    texts = [tinycss2.serialize(tokens).strip() for tokens in selectors]
    if not all(text and _is_plain(text) for text in texts):
        return ""
    roots = [_ROOT.match(text) for text in texts]
    kept = [
        f"{scope} {text[root.end() if root else 0 :].strip()}".strip()
        for text, root in zip(texts, roots, strict=True)
        if not (root and root["state"])
    ]
    return ",".join(kept)


def _declarations(nodes: Iterable[Any]) -> str:
    import tinycss2

    kept: list[str] = []
    for node in nodes:
        if node.type != "declaration" or not _is_safe(node):
            continue
        value = tinycss2.serialize(node.value).strip()
        if _is_plain(value.replace(";", "")):  # allowed inside a string or a data URL
            kept.append(f"{node.name}:{value}{' !important' if node.important else ''}")
    return ";".join(kept)


def _is_safe(declaration: Any) -> bool:
    name = declaration.lower_name
    if name not in PROPERTIES and not name.startswith("--"):
        return False
    if name == "position" and not _is_contained(declaration.value):
        return False
    # A variable may become the value of any property, so the same rules apply.
    return name == declaration.name.lower() and _is_plain(name) and all(map(_loads_nothing, declaration.value))


def _is_contained(value: list[Any]) -> bool:
    words = [token for token in value if token.type != "whitespace"]
    return len(words) == 1 and words[0].type == "ident" and words[0].lower_value in {"static", "relative", "absolute"}


def _loads_nothing(token: Any) -> bool:
    if token.type == "url":
        return _LOCAL.fullmatch(token.value.strip()) is not None
    if token.type == "function":
        if token.lower_name == "url":
            return all(
                _LOCAL.fullmatch(part.value.strip()) if part.type == "string" else part.type == "whitespace"
                for part in token.arguments
            )
        return token.lower_name not in _FUNCTIONS_THAT_LOAD and all(map(_loads_nothing, token.arguments))
    if token.type in {"() block", "[] block", "{} block"}:
        return all(map(_loads_nothing, token.content))
    return token.type not in {"error", "at-keyword"}


def _is_plain(text: str) -> bool:
    """Return True if text cannot close the `<style>` element or its rule, or open another."""
    return not any(character in text for character in "<{};@\\\0")
