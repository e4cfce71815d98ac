# SPDX-License-Identifier: Apache-2.0
"""`--on-end COMMAND`: a notification hook called with a run's outcome, for mail, chat and webhooks."""

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
    """Return the words of the command, after checking that its program exists."""
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
            f"command not found: {words[0] if words else repr(value)}; give a path, or a program on the PATH"
        )
    return words


option = help_sections.outputs(
    "--on-end",
    metavar="COMMAND",
    callback=_arguments,
    default=None,
    help="Command to call at the end, with the path of the record and the status as its last arguments and as "
    "RUNNER_END_RECORD and RUNNER_END_STATUS. It runs without a shell; a failure is only a warning.",
)


def call(
    words: tuple[str, ...], record: Path | None, status: str, exit_code: int, *, seconds: float = _MOST_SECONDS
) -> None:
    """Call the command and wait for it; its result never changes the run's.

    Parameters
    ----------
    words
        The command; if empty, nothing is called.
    record
        A notebook's record, or the summary of a plan.
    seconds
        Time limit.
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
            log.warning("on-end", command=program, reason=f"killed: still running after {seconds:.0f} s")
            return
    except OSError as error:
        log.warning("on-end", command=program, reason=f"cannot be started: {error.strerror or error}")
        return
    if code:
        log.warning("on-end", command=program, exit_code=code)
