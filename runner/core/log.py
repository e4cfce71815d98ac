# SPDX-License-Identifier: Apache-2.0
"""The log: one line an event, key=value, UTC, on stderr and in the file of the run.

stdout belongs to the answer of a command. Values are quoted when they hold blanks, so that a
line stays one line whatever a notebook prints.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

_PLAIN = re.compile(r"[^\s\"=\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_lock = threading.RLock()  # a signal handler may log in the middle of a line
_sinks: list[Callable[[str], None]] = []
_masks: list[Callable[[str], str]] = []
_stream: Any = None
"""Where lines go instead of stderr; a live display takes them over."""


def utc_now() -> str:
    """Return the time as ISO 8601 with milliseconds and a Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def line(event: str, **fields: Any) -> str:
    """Return the text of one event."""
    pairs = [f"{key}={_value(value)}" for key, value in fields.items() if value is not None]
    return " ".join([utc_now(), event, *pairs])


def info(event: str, **fields: Any) -> None:
    """Log an event."""
    _emit(line(event, **fields))


def warning(event: str, **fields: Any) -> None:
    """Log an event that somebody should look at."""
    _emit(line(event, level="warning", **fields))


def error(event: str, **fields: Any) -> None:
    """Log an event that made the command fail."""
    _emit(line(event, level="error", **fields))


def add_sink(sink: Callable[[str], None]) -> Callable[[], None]:
    """Send each line to ``sink`` as well; the returned function stops that."""
    return _added(_sinks, sink)


def add_mask(mask: Callable[[str], str]) -> Callable[[], None]:
    """Pass each line through ``mask`` before anybody sees it; the returned function stops that."""
    return _added(_masks, mask)


def masked(text: str) -> str:
    """Return a text as it may be shown."""
    for mask in _masks:
        text = mask(text)
    return text


def _added(listed: list[Any], one: Any) -> Callable[[], None]:
    listed.append(one)
    return lambda: listed.remove(one) if one in listed else None


def show_on(stream: Any) -> None:
    """Print lines to ``stream`` instead of stderr; None gives stderr back."""
    global _stream  # noqa: PLW0603  (one process has one stderr)
    _stream = stream


def _emit(text: str) -> None:
    with _lock:
        text = masked(text)
        for sink in _sinks:
            sink(text)
        stream = _stream or sys.stderr
        # Nobody reads stderr any more, the disk behind it is full, its terminal is gone (all OSError), it is
        # closed (ValueError, None), or a signal came in the middle of a print (RuntimeError: reentrant call).
        # The file of the run still has the line.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if stream is not None:  # to print, None means stdout
                print(text, file=stream, flush=True)
