# SPDX-License-Identifier: Apache-2.0
"""Durations and memory as users write and read them."""

from __future__ import annotations

import re

from runner.errors import UsageError

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def duration_seconds(text: str) -> float:
    """Return the seconds of a duration such as ``90s``, ``15m``, ``2h`` or ``1h30m``.

    Raises
    ------
    UsageError
        The text is no duration.
    """
    compact = text.replace(" ", "")
    parts = list(_DURATION.finditer(compact))
    if not parts or "".join(part.group(0) for part in parts) != compact:
        raise UsageError(f"{text!r} is no duration", hint="write it like 90s, 15m, 2h or 1h30m")
    return sum(float(part["number"]) * _SECONDS[part["unit"]] for part in parts)


def format_seconds(seconds: float) -> str:
    """Return a short text such as ``0.4s``, ``12s``, ``3m05s`` or ``2h10m``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{whole % 60:02d}s"


def format_bytes(count: float | None) -> str:
    """Return decimal units, as GPUs are sold: ``24.0 GB``, ``312 MB``; ``unknown`` for None."""
    if count is None:
        return "unknown"
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"
