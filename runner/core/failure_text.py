# SPDX-License-Identifier: Apache-2.0
"""What people read first of a notebook that did not succeed: where, what, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.core import tracebacks
from runner.core.units import format_seconds

if TYPE_CHECKING:
    from runner.core.records import Failure, Metrics

_LONGEST = 300


def error_of(failure: Failure) -> str:
    """Return name and message of an error on one line; the name once where the message begins with it."""
    name, message = failure.error_name or "", " ".join(failure.message[:500].split())
    if failure.error_name == "":  # as bash, whose error is an exit status
        return f"an error without a name: {message}"
    return message if message.startswith(f"{name}:") or not name else f"{name}: {message}".removesuffix(": ")


def failed_line(failure: Failure) -> str | None:
    """Return the line of the notebook's own code that failed, where its traceback shows one."""
    return tracebacks.failed_line(failure.traceback_tail or "", "")


def failure_lines(metrics: Metrics) -> tuple[str, ...]:
    """Return at most three lines for a terminal: cell and line, error, hint; the reason where no cell failed."""
    failure = metrics.failure
    if failure is None:
        return (_shown(metrics.reason),)
    lines = []
    if failure.cell_index is not None:
        line = failed_line(failure)
        lines.append(f"cell {failure.cell_index + 1}" + (f": {line}" if line else ""))
    lines.append(error_of(failure))
    if failure.hint:
        lines.append(f"hint: {failure.hint}")
    return tuple(map(_shown, lines))


def end_lines(metrics: Metrics) -> tuple[str, ...]:
    """Return how a notebook ended, for a terminal."""
    first = f"{metrics.notebook}: {metrics.status.value} in {format_seconds(metrics.wall_seconds)}"
    return (first, *(f"  {line}" for line in failure_lines(metrics) if metrics.exit_code))


def _shown(text: str) -> str:
    """Return one line of bounded length in which nothing moves a terminal's cursor."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
