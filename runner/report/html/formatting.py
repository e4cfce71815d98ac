# SPDX-License-Identifier: Apache-2.0
"""Formatting of values on the page: units, times, links, and untrusted text.

A value that was not measured is a dash, never 0. Escape sequences and bidirectional control characters in notebooks
and names are made visible, so that they have no effect.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup, escape

from runner.core.surrogates import without_colours
from runner.core.units import format_bytes, format_moment, format_seconds, instant
from runner.report.summary import largest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MISSING = Markup('<span class="missing" title="not measured">&ndash;<span class="unseen"> not measured</span></span>')

_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff")
_SEPARATOR = re.compile(r"([_\-./\\])(?=.)")
_LONGEST = 20_000


def plain(value: Any) -> Any:
    """Return text without escape sequences, with invisible characters made visible.

    Other types and trusted markup are unchanged: this is the `finalize` of the templates, applied to every value.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if value.isascii() and value.isprintable() and len(value) <= _LONGEST:
        return value  # the usual case
    text = without_colours(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({len(text) - _LONGEST} more characters)"
    if text.isprintable() and not _TURNING & set(text):
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\n\t":
        return character
    if character in _TURNING or unicodedata.category(character) in {"Cc", "Cs"}:
        return f"\\u{ord(character):04x}"
    return character


def seconds(value: float | None) -> str | Markup:
    """Format a duration: `40 ms`, `3m05s`."""
    if value is None:
        return MISSING
    return f"{value * 1000:.0f} ms" if 0 < value < 0.1 else format_seconds(value)


def size(value: float | None) -> str | Markup:
    """Format a size in decimal units, as GPUs are sold."""
    return MISSING if value is None else format_bytes(value)


def percent(value: float | None) -> str | Markup:
    """Format a percentage, below 10 with one decimal."""
    if value is None:
        return MISSING
    return f"{value:.1f} %" if 0 < round(value, 1) < 10 else f"{value:.0f} %"


def energy_unit(column: Iterable[float | None]) -> str:
    """Return the unit for a column of energies: J, kJ or, from 1 MJ, kWh."""
    most = largest(column) or 0
    return "J" if round(most) < 1e3 else "kJ" if round(most / 1e3, 1) < 1e3 else "kWh"


def energy(joules: float | None, unit: str | None = None) -> str | Markup:
    """Format an energy in the unit of its column, or in a suitable one."""
    if joules is None:
        return MISSING
    unit = unit or energy_unit([joules])
    if unit == "kWh":
        return f"{joules / 3.6e6:.3f} kWh" if joules >= 1800 or not joules else "<0.001 kWh"
    return f"{joules:.0f} J" if unit == "J" else f"{joules / 1e3:.1f} kJ"


def unit_of(value: float | None, unit: str) -> str | Markup:
    """Format a value as `seconds`, `energy` or `size`."""
    writers: dict[str, Callable[[float | None], str | Markup]] = {"seconds": seconds, "energy": energy, "size": size}
    return writers[unit](value)


def moment(value: str | None) -> str | Markup:
    """Format an ISO 8601 time, with local time if the machine's time zone is not UTC."""
    seconds_ = instant(value)
    if value is None or seconds_ is None:
        return MISSING if value is None else value
    here, text = datetime.fromtimestamp(seconds_, UTC).astimezone(), format_moment(value)
    if here.utcoffset():
        text += (
            f" ({here:%Y-%m-%d %H:%M %Z})"
            if here.date() != datetime.fromtimestamp(seconds_, UTC).date()
            else f" ({here:%H:%M %Z})"
        )
    return Markup('<time datetime="{}">{}</time>').format(value, text)


def href(path: str) -> str:
    """Return the link from the page to a file of the output folder."""
    return f"../{quote(path)}"


def breakable(name: str) -> Markup:
    """Return a name with line breaks allowed after its separators."""
    return Markup(_SEPARATOR.sub(r"\1<wbr>", str(escape(plain(name)))))  # noqa: S704  (escaped just now)


def first_line(value: str, longest: int = 200) -> str:
    """Return the first non-empty line, shortened."""
    line = next((line.strip() for line in value.splitlines() if line.strip()), "")
    return line if len(line) <= longest else f"{line[:longest]}…"


def one_line(value: str, longest: int = 200) -> str:
    """Return the whole text on one line, shortened."""
    line = " ".join(value.split())
    return line if len(line) <= longest else f"{line[:longest]}…"


def tail(value: str, lines: int = 30) -> str:
    """Return the last lines, with a note on omitted ones."""
    every = value.splitlines()
    return "\n".join(every if len(every) <= lines else [f"… {len(every) - lines} lines omitted", *every[-lines:]])
