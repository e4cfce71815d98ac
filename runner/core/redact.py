# SPDX-License-Identifier: Apache-2.0
"""Redaction of secrets in every file and log.

A value is searched for verbatim, line by line, and in encoded forms: escaped for Python, JSON, HTML or a URL, in
base64 at any alignment (as ``user:TOKEN`` in an HTTP header), in hexadecimal, and one encoding within another. All of
these are literal strings. A single scan for short, rare substrings of them (anchors) finds the candidates, so that
the cost of a text without secrets hardly depends on their number.

Streams arrive in chunks, so a `RedactedStream` holds back trailing characters that could be the start of a secret
until the next chunk decides.

A value of very few characters occurs in every file by chance: masking ``5`` or ``"`` would destroy the record, and not
masking it would leak it. So it is refused before anything runs.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from runner.core.errors import UsageError
from runner.core.surrogates import TERMINAL_SEQUENCE

MASK = "[secret]"
SHORTEST_CHARACTERS = 4
SHORTEST_ENCODED = 5
"""Shorter parts of base64 occur in every image by chance."""
MOST_SPELLED_CHARACTERS = 1_000_000
"""Per secret; beyond it, nested encodings of a long one are omitted. Simple ones come first."""
_ANCHOR = 6
_RARE_FIRST = "\\&%#$@!~^`|{}<>?;+QZXJKVWYqzxjkUGBHPFDOMLRNCIASTEvwybgfp9876543210umhd:/'\"=,*()[]_-.lcoratinse "
"""Characters from rare to frequent in the output of notebooks: an anchor starts with the first one that occurs."""
_UNSEEN = re.compile(rf"{TERMINAL_SEQUENCE}|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Control sequences, which pages and logs omit, so that the text around them is joined."""
_LINE_BREAK = re.compile(r"[\r\n]+")
_FOR_HTML = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}

_Span = tuple[int, int]


def check_secret(name: str, value: str) -> str:
    """Return the value of a variable after checking that it can be redacted.

    Raises
    ------
    UsageError
        It is too short.
    """
    count = len(value.strip())
    if count < SHORTEST_CHARACTERS:
        raise UsageError(
            f"--secret-env {name}: a value of {count} characters cannot be redacted without destroying files; "
            f"the minimum is {SHORTEST_CHARACTERS}",
            hint="use a longer secret, or omit the option if this is not a secret",
        )
    return value


def read_secrets(names: Iterable[str], environs: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """Return the values of secret variables in all environments.

    Raises
    ------
    UsageError
        A variable is not set, or is too short.
    """
    known = [*environs]
    found = {name: tuple({environ[name] for environ in known if environ.get(name)}) for name in names}
    missing = next((name for name, values in found.items() if not values), None)
    if missing is not None:
        raise UsageError(
            f"--secret-env {missing}: the variable is not set", hint="set it in the environment of this command"
        )
    return {name: tuple(check_secret(name, value) for value in values) for name, values in found.items()}


def values_in(folder: Path | None) -> tuple[str, ...]:
    """Return the values of a mounted Secret, a folder with a file for each key; empty without such a folder.

    Values shorter than `SHORTEST_CHARACTERS` are ignored: they occur in every file by chance.

    Raises
    ------
    UsageError
        A file cannot be read.
    """
    if folder is None or not folder.is_dir():
        return ()
    # Kubernetes stores the files in a folder ..data; keys may start with one dot.
    keys = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".."))
    try:
        values = [path.read_bytes().decode(errors="surrogateescape") for path in keys]
    except OSError as error:
        raise UsageError(
            f"--secrets-dir {folder}: {error.filename} cannot be read: {error.strerror}",
            hint="its values could not be redacted; make it readable, or omit the option",
        ) from error
    return tuple(value for value in values if len(value.strip()) >= SHORTEST_CHARACTERS)


def hidden_values(names: Iterable[str], folder: Path | None, environs: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """Return all values to redact: those of variables and of a mounted Secret."""
    return (*(value for values in read_secrets(names, environs).values() for value in values), *values_in(folder))


def _bytes_of(text: str) -> bytes:
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


def _python(show: Callable[[str], str], apostrophe: str) -> Callable[[str], str]:
    """Return a Python escape with a given form of the apostrophe, which depends on the surrounding text."""
    return lambda text: apostrophe.join(show(part) for part in text.split("'"))


_SHOWN_BY_PYTHON: tuple[Callable[[str], str], ...] = (
    lambda text: repr(text)[1:-1],
    lambda text: ascii(text)[1:-1],
    lambda text: repr(_bytes_of(text))[2:-1],
)
_ESCAPES: tuple[Callable[[str], str], ...] = (
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1].translate(_FOR_HTML),
    *(_python(show, apostrophe) for show in _SHOWN_BY_PYTHON for apostrophe in ("'", "\\'")),
    html.escape,
    lambda text: html.escape(text, quote=False),
    lambda text: html.escape(text, quote=False).replace('"', "&#34;").replace("'", "&#39;"),
    lambda text: quote(_bytes_of(text), safe=""),
    lambda text: quote(_bytes_of(text)),
    lambda text: quote_plus(_bytes_of(text)),
)
"""Encodings that keep letters and digits."""


def _encoded(text: str) -> Iterator[str]:
    """Yield the base64 of a text at each alignment, with and without its padding, and its hex."""
    data = _bytes_of(text)
    for before in range(3):
        code = base64.b64encode(b"\0" * before + data).decode()
        first = (before * 8 + 5) // 6  # characters with bits of the preceding text
        sure = (before + len(data)) * 8 // 6
        for end in {sure, len(code.rstrip("=")), len(code)}:
            part = code[first:end]
            if len(part) >= SHORTEST_ENCODED:
                yield part
                yield part.translate({ord("+"): "-", ord("/"): "_"})
    if len(data.hex()) >= SHORTEST_ENCODED:
        yield data.hex()
        yield data.hex().upper()


def _escaped(text: str) -> Iterator[str]:
    return (escape(text) for escape in _ESCAPES)


def _spellings(secret: str) -> set[str]:
    """Return the encoded forms of a secret without surrounding blanks, which files of secrets often have.

    Its lines are secrets too: they may be indented, quoted or numbered individually.
    """
    value = secret.strip() or secret
    unix = value.replace("\r\n", "\n")
    lines = [line.strip() for line in _LINE_BREAK.split(value)]
    plain = {value, unix, unix.replace("\n", "\r\n"), *(line for line in lines if len(line) >= SHORTEST_CHARACTERS)}
    found = set(plain)
    room = MOST_SPELLED_CHARACTERS

    def spell(texts: set[str], how: Callable[[str], Iterator[str]], *, always: bool = False) -> set[str]:
        nonlocal room
        new: set[str] = set()
        for text in texts:
            if room < 0 and not always:
                break
            new |= set(how(text)) - found
            found.update(new)
            room -= sum(map(len, new)) if not always else 0
        return new

    escaped = spell(plain, _escaped, always=True)
    encoded = spell(plain | {secret}, _encoded, always=True)  # blanks at its ends are encoded with the rest
    twice = spell(escaped, _escaped)
    spell(encoded, _escaped)
    spell(escaped, _encoded)
    spell(encoded, _encoded)
    spell(twice, _escaped)
    return found


class Redactor:
    """Replaces secrets with a mask.

    Parameters
    ----------
    values
        The secrets. Empty ones are ignored: they would mask everything.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        spellings = {spelling for value in values if value for spelling in _spellings(value)}
        self._longest = max(map(len, spellings), default=0)
        shortest = min(map(len, spellings), default=0)
        self._size = min(shortest, _ANCHOR)
        self._anchors: dict[str, list[tuple[int, str]]] = {}
        """Encoded forms by anchor, with the position of the anchor in them."""
        self._starts: dict[str, list[str]] = {}
        """Encoded forms by their first characters."""
        for spelling in spellings:
            at = self._rarest(spelling)
            self._anchors.setdefault(spelling[at : at + self._size], []).append((at, spelling))
            self._starts.setdefault(spelling[: self._size], []).append(spelling)
        self._beginnings = {start[:size] for start in self._starts for size in range(1, self._size)}
        self._pattern = _any_of(self._anchors) if spellings else None
        self._opening = _any_of(self._starts) if spellings else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def _rarest(self, spelling: str) -> int:
        """Return the position of the anchor in an encoded form."""
        last = len(spelling) - self._size + 1
        return next((at for c in _RARE_FIRST if (at := spelling.find(c, 0, last)) >= 0), 0)

    def text(self, text: str) -> str:
        """Return the text with all secrets masked."""
        spans = self.spans(text)
        if not spans:
            return text
        ends = [0, *(end for _, end in spans)]
        gaps = [text[a:b] for a, b in zip(ends, [start for start, _ in spans] + [len(text)], strict=True)]
        return MASK.join(gaps)

    def spans(self, text: str) -> list[_Span]:
        """Return the positions of secrets in a text, in order; overlapping ones are merged."""
        if self._pattern is None:
            return []
        found = []
        for match in self._pattern.finditer(text):
            place = match.start()
            for at, spelling in self._anchors.get(text[place : place + self._size], ()):
                if place >= at and text.startswith(spelling, place - at):
                    found.append((place - at, place - at + len(spelling)))
        return _merged(found)

    def open_from(self, text: str) -> int:
        """Return the position of the first possibly incomplete secret at the end of a text; its length if none."""
        count = len(text)
        first = max(0, count - self._longest + 1)
        whole = (match.start() for match in self._opening.finditer(text, first)) if self._opening else iter(())
        for at in itertools.chain(whole, range(max(first, count - self._size + 1), count)):
            rest = text[at:]
            if rest in self._beginnings or any(
                len(spelling) > len(rest) and spelling.startswith(rest)
                for spelling in self._starts.get(rest[: self._size], ())
            ):
                return at
        return count

    def shown(self, text: str) -> str:
        """Return the text redacted even after its colours are removed; they are removed if a secret then appears."""
        if self._pattern is None:
            return text
        masked = self.text(text)
        if not masked.isprintable() and _UNSEEN.search(masked):
            bare = _UNSEEN.sub("", masked)
            if self.spans(bare):
                return self.text(bare)
        return masked

    def tree(self, value: Any, *, keys: bool = False) -> Any:
        """Return JSON-like data with its strings redacted.

        Parameters
        ----------
        keys
            Redact keys as well; not for records and notebooks, whose keys are field names.
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
        """Return a redactor for text that arrives in chunks."""
        return RedactedStream(self)


class RedactedStream:
    """Redacts text that arrives in chunks."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""
        self._masked = 0
        """Number of held characters that belong to a secret whose mask is already written."""

    def feed(self, text: str) -> str:
        """Add a chunk and return the text that can be written."""
        held = self._held + text
        return self._decide(held, self._redactor.open_from(held) if self._redactor else len(held))

    def flush(self) -> str:
        """Return the rest at the end of the stream."""
        return self._decide(self._held, len(self._held))

    def _decide(self, text: str, end: int) -> str:
        """Return the redacted text up to a position, and hold the rest."""
        spans = self._redactor.spans(text)
        if self._masked:
            spans = _merged([(0, self._masked), *spans])
        out, at = [], 0
        for start, stop in spans:
            under_way = bool(self._masked) and start == 0
            if start >= end and not under_way:
                break
            out.append(text[at:start])
            if not under_way:
                out.append(MASK)
            at = stop
        out.append(text[at:end])
        self._held, self._masked = text[end:], max(0, at - end)
        return "".join(out)


def _merged(spans: list[_Span]) -> list[_Span]:
    """Return spans in order, with overlapping ones merged."""
    merged: list[_Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _any_of(anchors: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches the first character of each anchor, including overlapping ones."""
    groups = itertools.groupby(sorted(anchors), key=lambda anchor: anchor[0])
    parts = (f"{re.escape(c)}(?={'|'.join(re.escape(anchor[1:]) for anchor in group)})" for c, group in groups)
    return re.compile("|".join(parts))
