# SPDX-License-Identifier: Apache-2.0
"""Secrets stay out of every file we write.

A value is looked for as it is and in the spellings that printing it produces (escaped for
Python, JSON and HTML, URL-quoted, base64). Streams arrive in pieces, so a `Redactor.stream`
holds back the last characters that could be the start of a secret until the next piece decides.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

MASK = "[secret]"


def _spellings(value: str) -> set[str]:
    data = value.encode(errors="surrogatepass")
    encoded = {base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()}
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        html.escape(value),
        html.escape(value, quote=False),
        *(quote(data, safe=safe) for safe in ("", "/")),
        *encoded,
        *(text.rstrip("=") for text in encoded),
    }


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
        """Return JSON-like data with its strings redacted; keys are names, which stay."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        return value

    def stream(self) -> RedactedStream:
        """Return a redactor for text that comes in pieces."""
        return RedactedStream(self)

    def pieces(self, text: str) -> tuple[str, str]:
        """Return what is decided of a text that goes on, redacted, and the raw rest that is not.

        The rest starts where a secret might start that the text does not hold whole.
        """
        if self._pattern is None:
            return text, ""
        first = max(0, len(text) - self._longest + 1)
        open_at = [at for at in range(first, len(text)) if self._begins(text[at:])]
        done: list[str] = []
        position = 0
        while True:
            undecided = next((at for at in open_at if at >= position), len(text))
            match = self._pattern.search(text, position)
            if match is None or match.start() >= undecided:
                return "".join([*done, text[position:undecided]]), text[undecided:]
            done += [text[position : match.start()], MASK]
            position = match.end()

    def _begins(self, tail: str) -> bool:
        return any(len(s) > len(tail) and s.startswith(tail) for s in self._spellings)


class RedactedStream:
    """Text in pieces in, text without secrets out."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what is safe to write now."""
        done, self._held = self._redactor.pieces(self._held + text)
        return done

    def flush(self) -> str:
        """Return what was held back; nothing more will come."""
        held, self._held = self._held, ""
        return self._redactor.text(held)
