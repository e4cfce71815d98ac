# SPDX-License-Identifier: Apache-2.0
"""Errors shown to users, with their exit codes.

They share one root, so that the command line needs one handler. A message names the value and the limit; ``hint``
gives the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

_MOST_NAMES = 2_000
"""Entries of a folder that are compared with a missing name."""


class RunnerError(Exception):
    """Base class of the errors that are shown to users without a traceback.

    Parameters
    ----------
    message
        The problem, with the value and the limit.
    hint
        The next step.
    """

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(RunnerError):
    """Invalid use of a command; nothing ran and nothing was written."""

    exit_code = 2


class PlanError(UsageError):
    """Invalid plan; the message names file, key path and allowed values."""


class AlreadyRunningError(UsageError):
    """Another live process is running a notebook of this name in the same folder."""


class RefusedError(RunnerError):
    """The machine does not meet the requirements."""

    exit_code = 3


class BrokenInputError(RunnerError):
    """Notebook, rule, parameter or dataset is missing, damaged or does not match the plan."""

    exit_code = 9


class RecordError(RunnerError):
    """The record of a run cannot be written (EX_IOERR)."""

    exit_code = 74


class NetworkError(RunnerError):
    """The network failed after all retries (EX_TEMPFAIL)."""

    exit_code = 75


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'NAME'? `` for the known name nearest to a value; empty if none is near.

    Letter case and the suffix ``.ipynb``, which people omit, are ignored.
    """
    import difflib

    names = {name.casefold().removesuffix(".ipynb"): name for name in known}
    near = difflib.get_close_matches(value.casefold().removesuffix(".ipynb"), names, n=1)
    return f"did you mean {names[near[0]]!r}? " if near else ""


def did_you_mean_path(path: Path) -> str:
    """Return the same hint for a path that does not exist, from the names in its folder."""
    with suppress(OSError):
        return did_you_mean(path.name, [one.name for one in islice(path.parent.iterdir(), _MOST_NAMES)])
    return ""
