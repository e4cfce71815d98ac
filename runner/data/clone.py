# SPDX-License-Identifier: Apache-2.0
"""A repository at one commit: fetched into a new folder, or an earlier clone brought up to date.

Untracked files of the folder are products of notebooks and stay. Tracked files with local
changes are somebody's work: nothing is touched then, and the refusal names them. A clone that
was killed is finished by the next one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from runner import files, log
from runner.data import git
from runner.data.locks import locked
from runner.errors import BrokenInputError, NetworkError

Result = TypeVar("Result")

_ATTEMPTS = 3
_SUBMODULE_PROTOCOLS = "https:ssh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloned:
    """What is in the folder now; also in ``.git/runner-clone.json``."""

    url: str
    revision: str
    commit: str
    folder: str
    updated: bool
    """The folder was a clone already."""
    lfs: bool
    """Files of Git LFS were fetched."""
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
    """Bring ``folder`` to a revision of the repository at ``url``.

    Parameters
    ----------
    revision
        Branch, tag or commit; HEAD is the repository's default branch.
    depth
        How much history; all of it when None.
    submodules
        Fetch submodules as well, over https and ssh only.
    allowed_hosts
        The only hosts that may be asked; empty means any.

    Raises
    ------
    UsageError
        URL or revision is none, or its host is not allowed.
    BrokenInputError
        The repository or revision is not to be had, or the folder holds something else.
    NetworkError
        The network failed after all retries.
    """
    source = git.remote(url, allowed_hosts)
    git.check_revision(revision)
    has_lfs = shutil.which("git-lfs") is not None
    folder.mkdir(parents=True, exist_ok=True)
    repository = _Clone(folder, git.Git(folder, source, lfs=has_lfs), source)
    _check_folder(folder)
    (folder / ".git").mkdir(exist_ok=True)
    with locked(folder / ".git" / "runner.lock", waiting=lambda: log.info("clone-waits", folder=folder)):
        updated = repository.prepare()
        log.info("clone", url=source.url, revision=revision, folder=folder)
        commit = _retried(lambda: repository.fetch(revision, depth), backoff_seconds)
        repository.check_unchanged()
        _retried(lambda: repository.checkout(commit), backoff_seconds)
        if submodules:
            _retried(lambda: repository.submodules(depth, allowed_hosts), backoff_seconds)
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
        files.write(folder / ".git" / "runner-clone.json", json.dumps(asdict(cloned), indent=1) + "\n")
    log.info("cloned", url=source.url, commit=commit)
    return cloned


class _Clone:
    """One folder on its way to a commit."""

    def __init__(self, folder: Path, repository: git.Git, source: git.Remote) -> None:
        self._folder, self._git, self._source = folder, repository, source
        self._unfinished = folder / ".git" / "runner-checkout"
        """Exists while files are being written: what differs then is nobody's work."""

    def prepare(self) -> bool:
        """Make the folder a repository of this remote; return whether it was one already."""
        exists = (self._folder / ".git" / "HEAD").exists()
        if not exists:
            self._unfinished.touch()
            self._git.run("init", "--quiet", "--template=", "--initial-branch=main")
        for stale in ("index.lock", "shallow.lock", "HEAD.lock", "config.lock"):
            path = self._folder / ".git" / stale
            if self._unfinished.exists() and path.exists():
                log.warning("clone-stale-lock", path=path)
                path.unlink()
        known = self._configured("remote.origin.url")
        if known is None:
            self._git.run("config", "--local", "remote.origin.url", self._source.url)
            self._git.run("config", "--local", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")
        elif known != self._source.url:
            raise BrokenInputError(
                f"{self._folder} is a clone of {git.remote(known).url}, not of {self._source.url}",
                hint="give another folder",
            )
        return exists and self._git.succeeds("rev-parse", "--quiet", "--verify", "HEAD^{commit}")

    def _configured(self, key: str) -> str | None:
        try:
            return self._git.run("config", "--local", "--get", key).strip()
        except BrokenInputError:
            return None

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
        shallow = ["--unshallow"] if (self._folder / ".git" / "shallow").exists() else []
        self._git.run("fetch", "--quiet", "--tags", "--force", "--prune", *shallow, "--", "origin")
        if revision == "HEAD":
            self._git.run("fetch", "--quiet", "--", "origin", "HEAD")
            return self._commit("FETCH_HEAD")
        for name in (f"refs/remotes/origin/{revision}", f"refs/tags/{revision}", revision if _is_hex(revision) else ""):
            if name and self._git.succeeds("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"):
                return self._commit(name)
        self._git.run("fetch", "--quiet", "--", "origin", revision)  # a commit that no branch has, or an error
        return self._commit("FETCH_HEAD")

    def _commit(self, name: str) -> str:
        return self._git.run("rev-parse", "--verify", f"{name}^{{commit}}").strip()

    def check_unchanged(self) -> None:
        """Refuse to touch tracked files that somebody changed."""
        if self._unfinished.exists() or not self._git.succeeds("rev-parse", "--quiet", "--verify", "HEAD^{commit}"):
            return
        changed = self._git.run("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all").splitlines()
        if changed:
            names = ", ".join(line[3:] for line in changed[:5]) + (", …" if len(changed) > 5 else "")
            raise BrokenInputError(
                f"{self._folder} has local changes in {len(changed)} tracked files: {names}",
                hint="commit or undo them, or give another folder; notebooks are changed by rules of the plan",
            )

    def checkout(self, commit: str) -> None:
        """Put the commit's files into the folder; untracked files that are in the way stop it."""
        interrupted = self._unfinished.exists()
        force = ["--force"] if interrupted else []
        self._unfinished.touch()
        try:
            self._git.run("checkout", "--quiet", "--detach", "--no-overwrite-ignore", *force, commit)
        except BrokenInputError:
            if not interrupted:  # git refuses before it writes
                self._unfinished.unlink()
            raise
        self._unfinished.unlink()

    def submodules(self, depth: int | None, allowed_hosts: Sequence[str]) -> None:
        """Fetch what `.gitmodules` names, after checking each of its URLs."""
        if not (self._folder / ".gitmodules").is_file():
            return
        listed = self._git.run("config", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.url$")
        for line in listed.splitlines():
            url = line.partition(" ")[2]
            if not url.startswith(("./", "../")):
                git.remote(url, allowed_hosts)
        shallow = [f"--depth={depth}"] if depth is not None else []
        arguments = ["submodule", "update", "--init", "--checkout", "--force", *shallow]
        self._git.run(*arguments, protocols=_SUBMODULE_PROTOCOLS)

    def uses_lfs(self) -> bool:
        """Tell whether the commit keeps files in Git LFS."""
        return self._git.succeeds("grep", "--quiet", "filter=lfs", "HEAD", "--", ":(glob)**/.gitattributes")


def _check_folder(folder: Path) -> None:
    if not (folder / ".git").exists() and any(folder.iterdir()):
        raise BrokenInputError(f"{folder} is not empty and no clone", hint="give an empty or a new folder")
    if (folder / ".git").is_file():
        raise BrokenInputError(f"{folder} is a worktree or submodule of another clone", hint="give another folder")


def _retried(step: Callable[[], Result], backoff_seconds: float) -> Result:
    """Run a step, and again after a while if the network failed."""
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
