# SPDX-License-Identifier: Apache-2.0
"""Prints a finished command's answer to stdout.

A closed pipe or a full disk behind stdout must not change the exit code: the results are in the files.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

import click

from runner.core import log


def answer(text: str) -> None:
    """Print a line; if that fails, log it and discard all further output."""
    try:
        click.echo(text, nl=not text.endswith("\n"))
    except (OSError, ValueError) as error:
        log.warning("stdout", reason=getattr(error, "strerror", None) or str(error))
        lose_stdout()


def lose_stdout() -> bool:
    """Flush stdout and return True if that failed; stdout is then redirected to the null device."""
    return _lost(sys.stdout)


def settle_streams() -> None:
    """Flush stdout and stderr before exit.

    If the pipe is closed or the disk full, Python's own final flush of buffered text would otherwise
    replace the exit code with 120.
    """
    for stream in (sys.stdout, sys.stderr):
        _lost(stream)


def _lost(stream: TextIO | None) -> bool:
    """Flush a stream and return True if that failed; its descriptor is then redirected to the null device."""
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
