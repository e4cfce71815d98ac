# SPDX-License-Identifier: Apache-2.0
"""Parsing and formatting of durations, times, sizes and counts.

The largest unit of a formatted duration is the hour: GPU time is counted in hours, and plans write `72h`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from runner.core.errors import UsageError

_DURATION = re.compile(r"(?<!\d)(?P<number>\d++(?:\.\d++)?)\s*+(?P<unit>s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_HOLD_SECONDS = 30 * 24 * 3600.0
_SIZE = re.compile(r"(?P<number>[0-9.]++(?:e[+-]?\d++)?)\s*+(?:(?P<unit>[kmgt])(?P<binary>i)?b?|b)?", re.IGNORECASE)


def duration_seconds(text: str) -> float:
    """Return the seconds of a duration such as ``90s``, ``15m``, ``2h``, ``1h30m`` or ``30d``.

    Raises
    ------
    UsageError
        The text is not a valid duration.
    """
    compact = text.replace(" ", "")
    parts = list(_DURATION.finditer(compact))
    if not parts or "".join(part.group(0) for part in parts) != compact:
        raise UsageError(f"{text!r} is not a valid duration", hint="write it like 90s, 15m, 2h or 1h30m")
    return sum(float(part["number"]) * _SECONDS[part["unit"]] for part in parts)


def gigabytes(text: str) -> float:
    """Return a size in decimal GB, the default unit: ``24``, ``24GB``, ``0.5TB``, ``22.5GiB``.

    Raises
    ------
    ValueError
        The text is not a valid size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text[:100]!r} is not a valid size; write it like 24, 24GB or 22.5GiB")
    number, power = float(found["number"]), " kmgt".index((found["unit"] or " ").lower())
    if not power and text.strip()[-1] not in "bB":
        power = 3
    return number * float((1024 if found["binary"] else 1000) ** power) / 1e9


def hold_seconds(text: str) -> float:
    """Return how long a failed notebook waits for its repair: 0 for ``end``, 1 h for ``hold``, else as ``hold=2h``.

    Raises
    ------
    UsageError
        The text has none of these forms.
    """
    word, _, duration = text.partition("=")
    if text in {"end", "hold"}:
        return {"end": 0.0, "hold": 3600.0}[text]
    seconds = duration_seconds(duration) if word == "hold" else 0.0
    if not 0 < seconds <= _LONGEST_HOLD_SECONDS:
        most = format_seconds(_LONGEST_HOLD_SECONDS)
        what = f"{text!r:.80} is not one of end, hold, hold=DURATION with a duration of at most {most}"
        raise UsageError(what, hint="write end, hold (the same as hold=1h) or hold=2h")
    return seconds


def format_seconds(seconds: float) -> str:
    """Format a duration as ``0.4s``, ``12s``, ``3m05s`` or ``2h10m``.

    The unit is chosen after rounding: 59.6 is ``1m00s`` and never ``60s``.
    """
    tenths, whole = round(seconds, 1), round(seconds)
    if tenths < 10:
        return f"{tenths:.1f}s"
    if whole < 60:
        return f"{whole}s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{whole % 60:02d}s"


def format_bytes(count: float | None) -> str:
    """Format a size in decimal units, as GPUs are sold: ``24.0 GB``, ``312.5 MB``; ``unknown`` for None.

    The unit is chosen after rounding: 999,999,999 are ``1.0 GB`` and never ``1000.0 MB``.
    """
    if count is None:
        return "unknown"
    if abs(round(count)) < 1000:
        return f"{round(count)} B"
    scaled = [(round(count / 1000**power, 1), unit) for power, unit in enumerate(("kB", "MB", "GB", "TB"), 1)]
    value, unit = next((pair for pair in scaled if abs(pair[0]) < 1000), scaled[-1])
    return f"{value:.1f} {unit}"


def format_count(number: int, noun: str) -> str:
    """Format a number with its noun: ``1 cell``, ``3 cells``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def instant(moment: str | None) -> float | None:
    """Return an ISO 8601 time in seconds since 1970; None if it is not valid."""
    try:
        parsed = datetime.fromisoformat(moment or "")
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def format_moment(moment: str) -> str:
    """Format an ISO 8601 time as `2026-11-23 14:20:31 UTC`; other texts are unchanged."""
    if instant(moment) is None or not moment.endswith("Z"):
        return moment
    return f"{moment[:10]} {moment[11:19]} UTC"
