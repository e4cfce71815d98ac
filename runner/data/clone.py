# SPDX-License-Identifier: Apache-2.0
"""Clones a repository at a commit into a new folder, or updates an existing clone.

Untracked files in the folder are products of notebooks and are kept. Local changes to tracked files are
somebody's work: the clone then refuses, lists them and changes nothing. An interrupted clone is completed
by the next one.

git uses the configuration it finds in a submodule. So each submodule's repository must be in the clone's
own `.git/modules`, and its configuration is sanitized like the clone's before git uses it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from runner.core import files, log
from runner.core.errors import BrokenInputError, NetworkError
from runner.data import git
from runner.data.locks import locked

Result = TypeVar("Result")

_ATTEMPTS = 3
_LOCK = "runner.lock"
_PROTOCOLS = "https:ssh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloned:
    """State of the folder, also in ``.git/runner-clone.json``."""

    url: str
    revision: str
    commit: str
    folder: str
    updated: bool
    """The folder was already a clone."""
    lfs: bool
    """Git LFS files were fetched."""
    cloned_at: str


def clone(
    url: str,
    folder: Path,
    *,
    revision: str = "HEAD",
    depth: int | None = None,
    submodules: bool = False,
    allowed_hosts: Sequence[str] = (),
    backoff_seconds: float = 2.0,
) -> Cloned:
    """Clone or update ``folder`` to a revision of the repository at ``url``.

    Parameters
    ----------
    revision
        Branch, tag or commit; HEAD is the repository's default branch.
    depth
        Number of commits of history; None means all.
    submodules
        Fetch submodules too, over https and ssh only.
    allowed_hosts
        The only hosts allowed; empty means any.

    Raises
    ------
    UsageError
        URL or revision is not valid, or the host is not allowed.
    BrokenInputError
        The repository or revision is unavailable, or the folder contains something else.
    NetworkError
        The network failed after all retries.
    """
    source = git.remote(url, allowed_hosts)
    git.check_revision(revision)
    has_lfs = shutil.which("git-lfs") is not None
    folder.mkdir(parents=True, exist_ok=True)
    commands = git.Git(folder, source, lfs=has_lfs)
    repository = _Clone(folder, commands, source)
    _check_folder(folder)
    (folder / ".git").mkdir(exist_ok=True)
    with locked(folder / ".git" / _LOCK, waiting=lambda: log.info("clone-waits", folder=folder)):
        updated = repository.prepare()
        log.info("clone", url=source.url, revision=revision, folder=folder)
        commit = _retried(lambda: repository.fetch(revision, depth), backoff_seconds)
        repository.check_unchanged()
        _retried(lambda: repository.checkout(commit), backoff_seconds)
        if submodules:
            _retried(lambda: update_submodules(commands, folder, depth, allowed_hosts), backoff_seconds)
        uses_lfs = repository.uses_lfs()
        if uses_lfs and not has_lfs:
            log.warning("clone-without-lfs", folder=folder, hint="install git-lfs; its files are pointers now")
        cloned = Cloned(
            url=source.url,
            revision=revision,
            commit=commit,
            folder=str(folder),
            updated=updated,
            lfs=uses_lfs and has_lfs,
            cloned_at=log.utc_now(),
        )
        repository.record(cloned)
    log.info("cloned", url=source.url, commit=commit)
    return cloned


class _Clone:
    """A folder being updated to a commit."""

    def __init__(self, folder: Path, repository: git.Git, source: git.Remote) -> None:
        self._folder, self._git, self._source = folder, repository, source
        self._dot_git = folder / ".git"
        self._record = self._dot_git / "runner-clone.json"
        self._unfinished = self._dot_git / "runner-checkout"
        """Exists during a checkout: differences are then not local changes."""

    def prepare(self) -> bool:
        """Initialize the folder as a repository of this remote; return True if it already was."""
        self._remove_stale_locks()
        entries = git.sanitize(self._git, self._dot_git / "config")
        urls = [value for key, value in entries if key == "remote.origin.url"]
        other = next((url for url in urls if url != self._source.url), None)
        if other is not None and self._never_succeeded():
            log.info("clone-restarts", folder=self._folder, before=git.shown(other))
            self._clear()
            entries, other = [], None
        if other is not None:
            raise BrokenInputError(
                f"{self._folder} is a clone of {git.shown(other)}, not of {self._source.url}",
                hint="give another folder",
            )
        exists = (self._dot_git / "HEAD").exists()
        if not exists:
            self._unfinished.touch()
            self._git.run("init", "--quiet", "--template=", "--initial-branch=main")
        for entry in (("remote.origin.url", self._source.url), ("remote.origin.fetch", git.REFSPEC)):
            if entry not in entries:
                self._git.run("config", "--local", *entry)
        return exists and self._has_commit()

    def _remove_stale_locks(self) -> None:
        """Remove lock files of a git that was killed with its runner, whose lock we now hold."""
        for stale in ("index.lock", "shallow.lock", "HEAD.lock", "config.lock"):
            path = self._dot_git / stale
            if self._unfinished.exists() and path.exists():
                log.warning("clone-stale-lock", path=path)
                path.unlink()

    def _never_succeeded(self) -> bool:
        """Return True if the folder contains only a failed attempt of ours, such as with a wrong URL."""
        alone = [path.name for path in self._folder.iterdir()] == [".git"]
        return alone and self._unfinished.exists() and not self._record.exists() and not self._has_commit()

    def _clear(self) -> None:
        """Discard everything fetched from another URL: its tags could be mistaken for this one's."""
        for path in self._dot_git.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in {_LOCK, self._unfinished.name}:
                path.unlink()

    def _has_commit(self) -> bool:
        return self._git.succeeds("rev-parse", "--quiet", "--verify", "HEAD^{commit}")

    def record(self, cloned: Cloned) -> None:
        """Write the record of the clone."""
        files.write(self._record, json.dumps(asdict(cloned), indent=1) + "\n")

    def fetch(self, revision: str, depth: int | None) -> str:
        """Fetch a revision and return its commit."""
        if depth is not None:
            try:
                self._git.run("fetch", "--quiet", "--no-tags", f"--depth={depth}", "--", "origin", revision)
                return self._commit("FETCH_HEAD")
            except BrokenInputError as error:
                if not _is_hex(revision):
                    raise
                log.info("clone-deepens", revision=revision, reason=error.message.splitlines()[-1])
        shallow = ["--unshallow"] if (self._dot_git / "shallow").exists() else []
        self._git.run("fetch", "--quiet", "--tags", "--force", "--prune", *shallow, "--", "origin")
        if revision == "HEAD":
            self._git.run("fetch", "--quiet", "--", "origin", "HEAD")
            return self._commit("FETCH_HEAD")
        for name in (f"refs/remotes/origin/{revision}", f"refs/tags/{revision}", revision if _is_hex(revision) else ""):
            if name and self._git.succeeds("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"):
                return self._commit(name)
        self._git.run("fetch", "--quiet", "--", "origin", revision)  # a commit on no branch, or an error
        return self._commit("FETCH_HEAD")

    def _commit(self, name: str) -> str:
        return self._git.run("rev-parse", "--verify", f"{name}^{{commit}}").strip()

    def check_unchanged(self) -> None:
        """Refuse if tracked files have local changes."""
        if self._unfinished.exists() or not self._has_commit():
            return
        changed = self._git.run("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all").splitlines()
        if changed:
            names = ", ".join(line[3:] for line in changed[:5]) + (", …" if len(changed) > 5 else "")
            raise BrokenInputError(
                f"{self._folder} has local changes in {len(changed)} tracked files: {names}",
                hint="commit or revert them, or give another folder; use rules in the plan to change notebooks",
            )

    def checkout(self, commit: str) -> None:
        """Check out the commit; fail rather than overwrite untracked files."""
        interrupted = self._unfinished.exists()
        force = ["--force"] if interrupted else []
        self._unfinished.touch()
        try:
            self._git.run("checkout", "--quiet", "--detach", "--no-overwrite-ignore", *force, commit)
        except BrokenInputError:
            if not interrupted:  # git fails before it writes anything
                self._unfinished.unlink()
            raise
        self._unfinished.unlink()

    def uses_lfs(self) -> bool:
        """Return True if the commit has files in Git LFS."""
        return self._git.succeeds("grep", "--quiet", "filter=lfs", "HEAD", "--", ":(glob)**/.gitattributes")


def _check_folder(folder: Path) -> None:
    if not (folder / ".git").exists() and any(folder.iterdir()):
        raise BrokenInputError(f"{folder} is not empty and not a clone", hint="give an empty or a new folder")
    if (folder / ".git").is_file() or (folder / ".git").is_symlink() or (folder / ".git" / "commondir").exists():
        raise BrokenInputError(f"{folder} is a worktree or submodule of another clone", hint="give another folder")


def _retried(step: Callable[[], Result], backoff_seconds: float) -> Result:
    """Run a step, with retries after network failures."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return step()
        except NetworkError as error:
            pause = backoff_seconds * 2 ** (attempt - 1)
            log.warning("clone-retry", reason=error.message, again_in_seconds=pause)
            time.sleep(pause)
    return step()


def _is_hex(revision: str) -> bool:
    return 4 <= len(revision) <= 64 and all(c in "0123456789abcdefABCDEF" for c in revision)


def update_submodules(repository: git.Git, folder: Path, depth: int | None, allowed_hosts: Sequence[str]) -> None:
    """Update the submodules of the checked-out commit.

    Raises
    ------
    UsageError
        A URL is not valid, or its host is not allowed.
    BrokenInputError
        A submodule is unavailable, or its folder contains something else.
    """
    if not (folder / ".gitmodules").is_file():
        return
    for url in _listed(repository, "url"):
        if not url.startswith(("./", "../")):
            git.remote(url, allowed_hosts)
    _check(repository, folder)
    shallow = [f"--depth={depth}"] if depth is not None else []
    repository.run("submodule", "--quiet", "init")
    repository.run("submodule", "--quiet", "sync")  # an earlier URL is untrusted
    arguments = ["submodule", "update", "--init", "--checkout", "--force", *shallow]
    repository.run(*arguments, protocols=_PROTOCOLS)


def _listed(repository: git.Git, field: str) -> list[str]:
    listed = repository.run("config", "--file", ".gitmodules", "--get-regexp", rf"^submodule\..*\.{field}$")
    return [line.partition(" ")[2] for line in listed.splitlines()]


def _check(repository: git.Git, folder: Path) -> None:
    """Refuse folders that are not submodules of this clone, and sanitize the configuration of submodules."""
    modules = folder / ".git" / "modules"
    worktrees = [folder.resolve() / path for path in _listed(repository, "path")]
    for worktree in worktrees:
        if worktree.resolve() != worktree or not _points_into(modules, worktree / ".git"):
            raise BrokenInputError(f"{worktree} is not a submodule of this clone", hint="delete or move that folder")
    for path in modules.rglob("config"):
        if (path.parent / "commondir").exists():
            raise BrokenInputError(
                f"{path.parent} points git to another folder", hint="delete the folder and clone again"
            )
        if (path.parent / "HEAD").exists():
            git.sanitize(repository, path, worktrees=worktrees)


def _points_into(modules: Path, gitfile: Path) -> bool:
    """Return True if the `.git` of a submodule is missing, or points to its repository in the clone."""
    if not os.path.lexists(gitfile):
        return True
    if gitfile.is_symlink() or not gitfile.is_file():
        return False
    target = gitfile.read_text(encoding="utf-8", errors="replace").strip().removeprefix("gitdir: ")
    return (gitfile.parent / target).resolve().is_relative_to(modules.resolve())
