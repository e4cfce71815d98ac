# SPDX-License-Identifier: Apache-2.0
"""Secrets stay out of every file we write.

A value is looked for as it is and in the spellings that printing it produces (escaped for
Python, JSON and HTML, URL-quoted, base64). Streams arrive in pieces, so a `Redactor.stream`
holds back the last characters that could be the start of a secret until the next piece decides.

A value of very few characters stands in every file by chance: masking ``5`` or ``"`` would destroy
the record, and not masking it would break the promise. So it is refused before anything runs.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from runner.errors import UsageError

MASK = "[secret]"
SHORTEST_CHARACTERS = 4
_UNSEEN = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
"""Colours and other controls, which a page and a log leave out: what stands around them then stands together."""


def check_secret(name: str, value: str) -> str:
    """Return the value of a variable after checking that it can be kept out of files.

    Raises
    ------
    UsageError
        It is too short.
    """
    count = len(value.strip())
    if count < SHORTEST_CHARACTERS:
        raise UsageError(
            f"--secret-env {name}: a value of {count} characters cannot be kept out of files without destroying them; "
            f"the least is {SHORTEST_CHARACTERS}",
            hint="use a longer secret, or leave the option out when this is none",
        )
    return value


def _spellings(secret: str) -> set[str]:
    """Return what printing a secret gives; blanks at its ends, as files of secrets have, are not part of it."""
    value = secret.strip() or secret
    texts = [text.encode(errors="surrogatepass") for text in {value, secret}]
    data = value.encode(errors="surrogatepass")
    encoded = {encode(text).decode() for text in texts for encode in (base64.b64encode, base64.urlsafe_b64encode)}
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

    def shown(self, text: str) -> str:
        """Return the text without a secret, also once its colours are gone: then it has none where one shows."""
        if self._pattern is None:
            return text
        # An image of megabytes holds neither; to see that in this way takes a fraction of a search by pattern.
        masked = self._pattern.sub(MASK, text) if any(spelling in text for spelling in self._spellings) else text
        if not masked.isprintable() and _UNSEEN.search(masked):
            bare = _UNSEEN.sub("", masked)
            if self._pattern.search(bare):
                return self._pattern.sub(MASK, bare)
        return masked

    def tree(self, value: Any, *, keys: bool = False) -> Any:
        """Return JSON-like data with its strings redacted.

        Parameters
        ----------
        keys
            Redact the keys as well. Those of our own records and of nbformat are names, which stay.
        """
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self.shown(value)
        if isinstance(value, Mapping):
            return {
                self.text(key) if keys and isinstance(key, str) else key: self.tree(item, keys=keys)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.tree(item, keys=keys) for item in value]
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
