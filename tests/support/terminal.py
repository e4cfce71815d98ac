# SPDX-License-Identifier: Apache-2.0
"""A command on a terminal of its own, and what stands on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import cli, warm

_ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b.")


@dataclass(frozen=True)
class Seen:
    """What a command showed."""

    code: int
    text: str

    @property
    def screen(self) -> list[str]:
        """The lines that stay, as a terminal shows them that is long enough."""
        return self.screens[-1]

    @property
    def screens(self) -> list[list[str]]:
        """The same after each drawing."""
        found, lines = [], [""]
        for part in re.split(r"(\r\x1b\[\d+A\x1b\[J)", self.text):
            if part.startswith("\r\x1b["):
                found.append(lines)
                lines = [*lines[: -1 - int(part[3 : part.index("A")])], ""]
            else:
                new = _ESCAPE.sub("", part).replace("\r\n", "\n").split("\n")
                lines = [*lines[:-1], lines[-1] + new[0], *new[1:]]
        return [*found, lines]

    @property
    def escapes(self) -> set[str]:
        """The kinds of control sequences in it."""
        return {match[2] or match[0] for match in _ESCAPE.finditer(self.text)}


def on_terminal(
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    under: Sequence[str] = (),
    when: str | None = None,
    do: Callable[[subprocess.Popen[bytes], int], None] | None = None,
) -> Seen:
    """Run a command to its end on a terminal of 100 by 30, ``under`` another one; once it shows ``when``, call ``do``."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    variables = cli.environment({"TERM": "xterm-256color", **(env or {})})
    options: Any = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "env": variables, "cwd": cwd}
    process: Any
    if not under and warm.fits(variables):
        process = warm.Process(list(map(str, arguments)), start_new_session=True, **options)
    else:
        process = subprocess.Popen(
            [*under, *cli.RUNNER, *map(str, arguments)],
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  (no thread of ours holds a lock)
            **options,
        )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + cli.PATIENCE
    while time.monotonic() < deadline:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        shown += piece
        if do and when and when.encode() in shown:
            do(process, ours)
            do = None
    os.close(ours)
    return Seen(process.wait(cli.PATIENCE), shown.decode(errors="replace"))
