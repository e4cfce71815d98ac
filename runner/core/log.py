# SPDX-License-Identifier: Apache-2.0
"""The log: one line per event, key=value, UTC, on stderr and in the log file of the run.

stdout is for the result of a command. Values with blanks or control characters are quoted, so that an event stays on
one line whatever a notebook prints. It is built on `logging`, so that messages of libraries appear in the same form.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

_PLAIN = re.compile(r"[^\s\"=\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_MESSAGE_CHARACTERS = 2_000
_REPEATS = 10
"""How often one message of a library is logged."""


def utc_now() -> str:
    """Return the time as ISO 8601 with milliseconds and a Z."""
    return _iso(datetime.now(UTC))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class Logfmt(logging.Formatter):
    """``TIME EVENT key=value ...``; a library's message becomes an event named ``library``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of an event."""
        level = None if record.levelno < logging.WARNING else record.levelname.lower()
        event, fields = record.msg, getattr(record, "fields", None)
        if fields is None:
            event, fields = "library", {"logger": record.name, "message": _message(record)}
        pairs = [f"{key}={_value(value)}" for key, value in {"level": level, **fields}.items() if value is not None]
        return " ".join([_iso(datetime.fromtimestamp(record.created, UTC)), event, *pairs])


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001  (arguments that do not fit the message are the library's fault, not the run's)
        text = str(record.msg)
    if record.exc_info and record.exc_info[1] is not None:
        text += f": {record.exc_info[1]!r}"
    text = " ".join(text[: _MESSAGE_CHARACTERS + 1].split())
    return text if len(text) <= _MESSAGE_CHARACTERS else f"{text[:_MESSAGE_CHARACTERS]}…"


class _Output(logging.Handler):
    """Writes lines to the run's log file first, then to stderr if the level is shown there."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(Logfmt())
        self.sinks: list[Callable[[str], None]] = []
        self.masks: list[Callable[[str], str]] = []
        self.least = logging.INFO

    def emit(self, record: logging.LogRecord) -> None:
        text = masked(self.format(record))
        for sink in self.sinks:
            sink(text)
        ours = hasattr(record, "fields")
        if record.levelno - (0 if ours else logging.WARNING - logging.INFO) < self.least:
            return
        # The reader of stderr is gone, its disk full or its terminal closed (all OSError), it is closed
        # (ValueError, None), or a signal came during a print (RuntimeError: reentrant call).
        # The log file of the run still has the line.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            if sys.stderr is not None:  # print(file=None) writes to stdout
                print(f"{text}\n", end="", file=sys.stderr, flush=True)


_output = _Output()
_logger = logging.getLogger("runner")
_logger.setLevel(logging.INFO)
_logger.propagate = False
_logger.addHandler(_output)


def info(event: str, **fields: Any) -> None:
    """Log an event."""
    _logger.info(event, extra={"fields": fields})


def warning(event: str, **fields: Any) -> None:
    """Log an event that needs attention."""
    _logger.warning(event, extra={"fields": fields})


def error(event: str, **fields: Any) -> None:
    """Log an event that makes the command fail."""
    _logger.error(event, extra={"fields": fields})


class _Libraries(logging.Handler):
    """Forwards log messages of libraries; one that recurs with each request of a long run, only ten times."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: Counter[tuple[str, int, str]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        # Python's own warnings are all logged in one place.
        place = (record.pathname, record.lineno, str(record.msg)[:100] if record.name == "py.warnings" else "")
        self._seen[place] += 1
        if self._seen[place] == _REPEATS:
            last = f"{_message(record)} (no more of these are logged)"
            record = logging.makeLogRecord({**vars(record), "msg": last, "args": (), "exc_info": None})
        if self._seen[place] <= _REPEATS:
            _output.handle(record)


@contextlib.contextmanager
def of_libraries() -> Iterator[None]:
    """Log the warnings and errors of libraries as well within the block."""
    root, libraries = logging.getLogger(), _Libraries()
    root.addHandler(libraries)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(libraries)


def add_sink(sink: Callable[[str], None]) -> Callable[[], None]:
    """Send each line to ``sink`` as well; the returned function removes it."""
    return _added(_output.sinks, sink)


def add_mask(mask: Callable[[str], str]) -> Callable[[], None]:
    """Pass each line through ``mask`` before it is written; the returned function removes it."""
    return _added(_output.masks, mask)


def masked(text: str) -> str:
    """Return a text with all masks applied."""
    for mask in _output.masks:
        text = mask(text)
    return text


def _added(listed: list[Any], one: Any) -> Callable[[], None]:
    listed.append(one)
    return lambda: listed.remove(one) if one in listed else None


@contextlib.contextmanager
def showing(least: int) -> Iterator[None]:
    """Print only lines of at least this level within the block; those of libraries count one level less."""
    before, _output.least = _output.least, least
    try:
        yield
    finally:
        _output.least = before
