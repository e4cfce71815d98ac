# SPDX-License-Identifier: Apache-2.0
"""Text of notebooks that can be written.

A notebook is JSON, and JSON can hold halves of characters (lone surrogates), which neither
UTF-8 nor the sanitiser takes. Tracebacks come with the colours of a terminal.
"""

from __future__ import annotations

import re

TERMINAL_SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])"
"""A colour or another control of a terminal: the one pattern for it."""
_SEQUENCE = re.compile(TERMINAL_SEQUENCE)


def without_surrogates(text: str) -> str:
    """Return text that can be written as UTF-8; each half of a character becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def without_colours(text: str) -> str:
    """Return text without terminal control sequences."""
    return _SEQUENCE.sub("", text) if "\x1b" in text else text


def printable(text: str) -> str:
    """Return text on one line, without what moves the cursor of a terminal."""
    return "".join(c if c.isprintable() else " " for c in without_colours(text)).strip()
