# SPDX-License-Identifier: Apache-2.0
"""Moments in ISO 8601, as records hold them and as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def instant(moment: str | None) -> float | None:
    """Return the seconds since 1970 of an ISO 8601 time; None when it is not one."""
    try:
        parsed = datetime.fromisoformat(moment or "")
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def format_moment(moment: str) -> str:
    """Return an ISO 8601 time as `2026-11-23 14:20:31 UTC`; anything else as it is."""
    if instant(moment) is None or not moment.endswith("Z"):
        return moment
    return f"{moment[:10]} {moment[11:19]} UTC"
