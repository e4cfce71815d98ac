# SPDX-License-Identifier: Apache-2.0
"""Secrets stay out of every file we write.

A value is looked for as it is and in the spellings that printing it produces (escaped,
URL-quoted, base64). Streams arrive in pieces, so a `Redactor.stream` holds back the last
characters that could be the start of a secret until the next piece decides.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

MASK = "[secret]"


def _spellings(value: str) -> set[str]:
    encoded = base64.b64encode(value.encode()).decode()
    return {value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe=""), encoded, encoded.rstrip("=")}


class Redactor:
    """Replaces known secret values by a mask.

    Parameters
    ----------
    values
        The secrets. Empty ones are ignored: masking them would mask everything.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        spellings = sorted({s for value in values if value for s in _spellings(value)}, key=len, reverse=True)
        self._longest = len(spellings[0]) if spellings else 0
        self._spellings = spellings
        self._pattern = re.compile("|".join(map(re.escape, spellings))) if spellings else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def text(self, text: str) -> str:
        """Return the text without any secret in it."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def tree(self, value: Any) -> Any:
        """Return JSON-like data with all its strings, keys included, redacted."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.tree(key): self.tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        return value

    def stream(self) -> RedactedStream:
        """Return a redactor for text that comes in pieces."""
        return RedactedStream(self)

    def unsafe_tail(self, text: str) -> int:
        """Return how many characters at the end could be the beginning of a secret."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(len(s) > length and s.startswith(tail) for s in self._spellings):
                return length
        return 0


class RedactedStream:
    """Text in pieces in, text without secrets out."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what is safe to write now."""
        if not self._redactor:
            return text
        whole = self._redactor.text(self._held + text)
        keep = self._redactor.unsafe_tail(whole)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep]

    def flush(self) -> str:
        """Return what was held back; nothing more will come."""
        held, self._held = self._held, ""
        return self._redactor.text(held)
