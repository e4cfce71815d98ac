# SPDX-License-Identifier: Apache-2.0
"""Text of notebooks that can be written.

A notebook is JSON, and JSON can hold halves of characters (lone surrogates), which neither
UTF-8 nor the sanitiser takes.
"""

from __future__ import annotations


def without_surrogates(text: str) -> str:
    """Return text that can be written as UTF-8; each half of a character becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
