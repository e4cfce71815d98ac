# SPDX-License-Identifier: Apache-2.0
"""The answer of a command whose work is done, on stdout.

Its exit code tells how the work went. A reader that has left or a full disk behind stdout must
not change that: what was asked for lies in the files.
"""

from __future__ import annotations

import contextlib
import os
import sys

import click

from runner import log


def answer(text: str) -> None:
    """Print a line; one that cannot be printed is logged, and nothing later is tried."""
    try:
        click.echo(text, nl=not text.endswith("\n"))
    except (OSError, ValueError) as error:
        log.warning("stdout", reason=getattr(error, "strerror", None) or str(error))
        lose_stdout()


def lose_stdout() -> bool:
    """Tell whether stdout cannot be written; it then leads nowhere, for Python's last flush would change the code."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    return False
