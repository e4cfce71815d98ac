# SPDX-License-Identifier: Apache-2.0
"""`--on-end COMMAND`: a command that is called with how a run ended, for mail, chat and webhooks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import click

from runner.commands import help_sections
from runner.core import log

_MOST_SECONDS = 60.0


def _arguments(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Return the words of the command, once it is known that there is one."""
    import shlex
    import shutil

    if value is None:
        return ()
    try:
        words = tuple(shlex.split(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} cannot be split into words: {str(error).lower()}") from error
    if not words or shutil.which(words[0]) is None:
        raise click.BadParameter(
            f"{words[0] if words else value!r} is not a command that can be found; give a path, or a name in PATH"
        )
    return words


option = help_sections.outputs(
    "--on-end",
    metavar="COMMAND",
    callback=_arguments,
    default=None,
    help="Command to call at the end, with the path of the record and the status as its last arguments and as "
    "RUNNER_END_RECORD and RUNNER_END_STATUS. No shell; if it fails, that is a warning.",
)


def call(
    words: tuple[str, ...], record: Path | None, status: str, exit_code: int, *, seconds: float = _MOST_SECONDS
) -> None:
    """Call the command and wait for it; whatever it does, the run has ended as it has.

    Parameters
    ----------
    words
        The command; nothing is called where it is empty.
    record
        What there is to read: a notebook's record, or the summary of a plan.
    seconds
        How long it may take.
    """
    if not words:
        return
    path = str(record.resolve()) if record else ""
    outcome = {"RUNNER_END_RECORD": path, "RUNNER_END_STATUS": status, "RUNNER_END_EXIT_CODE": str(exit_code)}
    program = Path(words[0]).name  # its arguments may hold the secret of a webhook
    seconds = min(seconds, _MOST_SECONDS)
    try:
        process = subprocess.Popen(
            [*words, path, status],
            env={**os.environ, **outcome},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            process_group=0,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.warning("on-end", command=program, reason=f"ended after {seconds:.0f} s without an answer")
            return
    except OSError as error:
        log.warning("on-end", command=program, reason=f"cannot be started: {error.strerror or error}")
        return
    if code:
        log.warning("on-end", command=program, exit_code=code)
