# SPDX-License-Identifier: Apache-2.0
"""Every error a user can meet, with its exit code and what to do next.

One root, so that the command line needs one handler. A message names the value, the limit
and the next step; the last of these goes into ``hint``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

_MOST_NAMES = 2_000
"""Of a folder are compared with a name that is not in it."""


class RunnerError(Exception):
    """Root of the errors that are shown to users without a traceback.

    Parameters
    ----------
    message
        What is wrong, naming the value and the limit.
    hint
        What to do next.
    """

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(RunnerError):
    """The command was called in a way that cannot work; nothing ran, nothing was written."""

    exit_code = 2


class PlanError(UsageError):
    """The plan is not one: names file, key path and what is allowed."""


class AlreadyRunningError(UsageError):
    """Another live process runs a notebook of this name in the same folder."""


class RefusedError(RunnerError):
    """The machine does not have what was asked for."""

    exit_code = 3


class BrokenInputError(RunnerError):
    """Notebook, rule, parameter or dataset is not what it was said to be."""

    exit_code = 9


class RecordError(RunnerError):
    """The record of a run cannot be written (EX_IOERR)."""

    exit_code = 74


class NetworkError(RunnerError):
    """The network failed after all retries (EX_TEMPFAIL)."""

    exit_code = 75


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'NAME'? `` for the known name nearest to a value; empty if none is near.

    Letter case and the ending ``.ipynb``, which people leave out, do not count as differences.
    """
    import difflib

    names = {name.casefold().removesuffix(".ipynb"): name for name in known}
    near = difflib.get_close_matches(value.casefold().removesuffix(".ipynb"), names, n=1)
    return f"did you mean {names[near[0]]!r}? " if near else ""


def did_you_mean_path(path: Path) -> str:
    """Return the same for a path that does not exist: a name beside it."""
    with suppress(OSError):
        return did_you_mean(path.name, [one.name for one in islice(path.parent.iterdir(), _MOST_NAMES)])
    return ""
