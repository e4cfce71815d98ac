# SPDX-License-Identifier: Apache-2.0
"""Removal of lone surrogates and terminal control sequences from the text of notebooks.

JSON allows lone surrogates, which neither UTF-8 nor the sanitizer accepts. Tracebacks contain terminal colours.
"""

from __future__ import annotations

import re

TERMINAL_SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])"
"""Pattern of a colour or another terminal control sequence."""
_SEQUENCE = re.compile(TERMINAL_SEQUENCE)


def without_surrogates(text: str) -> str:
    """Return text that can be written as UTF-8; each lone surrogate becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def without_colours(text: str) -> str:
    """Return text without terminal control sequences."""
    return _SEQUENCE.sub("", text) if "\x1b" in text else text


def printable(text: str) -> str:
    """Return text on one line, without terminal control sequences."""
    return "".join(c if c.isprintable() else " " for c in without_colours(text)).strip()
