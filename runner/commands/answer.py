# SPDX-License-Identifier: Apache-2.0
"""The answer of a command whose work is done, on stdout.

Its exit code tells how the work went. A reader that has left or a full disk behind stdout must
not change that: what was asked for lies in the files.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

import click

from runner.core import log


def answer(text: str) -> None:
    """Print a line; one that cannot be printed is logged, and nothing later is tried."""
    try:
        click.echo(text, nl=not text.endswith("\n"))
    except (OSError, ValueError) as error:
        log.warning("stdout", reason=getattr(error, "strerror", None) or str(error))
        lose_stdout()


def lose_stdout() -> bool:
    """Flush stdout and return True if that failed; stdout then leads to the null device."""
    return _lost(sys.stdout)


def settle_streams() -> None:
    """Flush stdout and stderr before the exit.

    Python's own last flush would otherwise replace the exit code by 120 where the reader has left or
    the disk is full, for text that an earlier, failed write has left in a buffer.
    """
    for stream in (sys.stdout, sys.stderr):
        _lost(stream)


def _lost(stream: TextIO | None) -> bool:
    """Flush a stream; if that fails, lead its descriptor to the null device, which takes what is left."""
    if stream is None or stream.closed:
        return False
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
        return True
    return False
