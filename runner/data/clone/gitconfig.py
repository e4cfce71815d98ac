# SPDX-License-Identifier: Apache-2.0
"""The configuration of a clone, cut down to what cannot run or redirect anything.

A clone lies where notebooks write. Its `.git/config` can name programs (filters, credential
helpers, proxies, transfer agents) and other addresses (`insteadOf`, push and upload commands)
that the next git in that folder would use. Settings on git's command line beat only those keys
that somebody thought of; so the file keeps what is known to be harmless and loses the rest.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.errors import BrokenInputError

if TYPE_CHECKING:
    from runner.data.clone.git import Git

REFSPEC = "+refs/heads/*:refs/remotes/origin/*"
Entry = tuple[str, str]
"""A key as git lists it, its section and last part in lower case, and its value."""

_HARMLESS = re.compile(
    r"core\.(?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|symlinks|precomposeunicode)"
    r"|extensions\.(?:objectformat|refstorage|partialclone)"
    r"|remote\.origin\.(?:url|promisor|partialclonefilter)"
    r"|branch\..+\.(?:remote|merge|rebase)"
    r"|submodule\..+\.(?:active|url)"  # the URL is set again from `.gitmodules` before it is used
    r"|user\.(?:name|email)"
    r"|lfs\.repositoryformatversion|lfs\..+\.access",
    re.DOTALL,
)


def is_harmless(key: str, value: str) -> bool:
    """Return True if an entry may stay.

    >>> is_harmless("core.bare", "false"), is_harmless("core.sshcommand", "sh")
    (True, False)
    """
    return bool(_HARMLESS.fullmatch(key)) or (key, value) == ("remote.origin.fetch", REFSPEC)


def cut_down(repository: Git, path: Path, *, worktrees: Collection[Path] = ()) -> list[Entry]:
    """Leave only what is harmless in a configuration file, and return that.

    What somebody set there by hand is kept beside it and named in the log.

    Parameters
    ----------
    worktrees
        Where the files of a submodule may be.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise BrokenInputError(f"{path} is not a file", hint="delete the folder and clone again")
    if not path.exists():
        return []
    listed = repository.run("config", "--file", str(path.absolute()), "--no-includes", "--null", "--list")
    entries = [_entry(text) for text in listed.split("\0") if text]
    kept = [
        (key, value)
        for key, value in entries
        if is_harmless(key, value) or (key == "core.worktree" and (path.parent / value).resolve() in worktrees)
    ]
    if kept == entries:
        return kept
    draft, before = path.with_name("runner-config"), path.with_name("config.before")
    draft.write_bytes(b"")
    for key, value in kept:
        repository.run("config", "--file", str(draft.absolute()), "--add", key, value)
    before.unlink(missing_ok=True)
    path.rename(before)
    draft.replace(path)
    dropped = sorted({_short(key) for key, value in entries if (key, value) not in kept})
    log.warning("clone-config", path=path, dropped=", ".join(dropped), kept_in=before)
    return kept


def _entry(text: str) -> Entry:
    key, newline, value = text.partition("\n")
    return key, value if newline else "true"  # a key alone means yes


def _short(key: str) -> str:
    """Return a key without its middle, which may be a URL with a password."""
    section, _dot, rest = key.partition(".")
    return f"{section}.….{rest.rpartition('.')[2]}" if "." in rest else key
