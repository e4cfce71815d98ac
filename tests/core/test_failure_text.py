# SPDX-License-Identifier: Apache-2.0
"""A failure is described in three lines: place, error and hint."""

from __future__ import annotations

import dataclasses

from support import records as made

from runner.core.endings import failure_lines
from runner.core.records import Failure, Status


def failed(**changes):
    record = made.metrics("a", status=Status.FAILED, failed_cell=9)
    failure = Failure(message="bad value", cell_index=2, error_name="ValueError", hint="mend it")
    return dataclasses.replace(record, failure=dataclasses.replace(failure, **changes))


def test_cell_line_error_and_hint_are_three_lines():
    """Cells are counted from 1, with the failed line."""
    lines = failure_lines(failed(traceback_tail="Cell In[1], line 1\n----> 1 f(2)\n\nValueError: bad value"))
    assert lines == ("cell 3: f(2)", "ValueError: bad value", "hint: mend it")


def test_what_is_not_known_is_left_out():
    """Without a cell, a traceback or a hint there are fewer lines; without a failure the reason is all."""
    assert failure_lines(failed(cell_index=None, hint=None)) == ("ValueError: bad value",)
    assert failure_lines(dataclasses.replace(failed(), failure=None, reason="no GPU")) == ("no GPU",)


def test_a_message_moves_no_cursor_and_floods_no_terminal():
    """Escape sequences and line breaks of a notebook reach the terminal as blanks, in bounded lines."""
    lines = failure_lines(failed(message="a\x1b[2J\r\nValue" + "x" * 10_000, hint="h\x1b]0;t\x07" * 1000))
    assert all(line.isprintable() and len(line) <= 301 for line in lines)
