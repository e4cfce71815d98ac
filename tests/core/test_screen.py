# SPDX-License-Identifier: Apache-2.0
"""The live display, also if the terminal is paused or closed."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.core.screen import Screen, is_screen


@contextlib.contextmanager
def terminal(*, kept: bool = True) -> Iterator[int]:
    """Put a terminal in the place of stderr and give its other side, which may be gone."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, contextlib.redirect_stderr(stream):
        if not kept:
            os.close(ours)
        yield ours
    if kept:
        os.close(ours)


def test_lines_are_shown_whole_and_above() -> None:
    """Text printed in parts is one line; cursor movements are removed."""
    with terminal() as theirs:
        with Screen(lambda width, height: ["the table"]):
            print("one, ", end="", file=sys.stderr)
            print("two \x1b[2J", file=sys.stderr)
        assert os.read(theirs, 4096).decode().split("\r")[0] == "one, two �[2J"
        print("direct", file=sys.stderr, flush=True)
        assert b"direct" in os.read(theirs, 4096)


def test_a_terminal_that_takes_nothing_holds_nobody_up() -> None:
    """Ctrl-S, or a connection that hangs: the run goes on and ends."""
    with terminal(), Screen(lambda width, height: ["x" * 70] * 20) as screen:
        for _ in range(5000):
            screen.print("y" * 70)


def test_what_a_terminal_did_not_take_goes_nowhere_else() -> None:
    """The number of a descriptor that was closed is another file's by then."""
    with terminal(), Screen(lambda width, height: ["x" * 70] * 20) as screen:
        for _ in range(5000):
            screen.print("y" * 70)
    with terminal() as theirs:
        assert not select.select([theirs], [], [], 1)[0]


def test_a_terminal_that_is_gone_holds_nobody_up() -> None:
    """Its window was closed."""
    with terminal(kept=False), Screen(lambda width, height: ["the table"]) as screen:
        screen.print("a line")


def test_in_the_background_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The person types at a shell; lines that matter are still printed."""
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp() + 1)
    with terminal() as theirs:
        with Screen(lambda width, height: ["the table"]) as screen:
            time.sleep(1)
            screen.print("a line")
        assert os.read(theirs, 4096).split() == [b"a", b"line"]


@pytest.mark.parametrize(
    ("term", "can"), [("xterm", True), ("dumb", False), ("unknown", False), ("", False), (None, False)]
)
def test_a_screen_is_a_terminal_that_moves_its_cursor(
    monkeypatch: pytest.MonkeyPatch, term: str | None, can: bool
) -> None:
    """Depending on TERM."""
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    with terminal():
        assert is_screen() is can


def test_a_file_is_no_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is nothing."""
    monkeypatch.setenv("TERM", "xterm")
    with (tmp_path / "err").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert not is_screen()
    monkeypatch.setattr(sys, "stderr", None)
    assert not is_screen()
