# SPDX-License-Identifier: Apache-2.0
"""Submodules of a clone: fetched only from where `.gitmodules` says, by a git that does nothing else.

git works in a submodule with the configuration that it finds there. So before it does, each
repository of a submodule lies in the clone's own `.git/modules`, and its configuration is cut
down as the clone's own is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from runner.core.errors import BrokenInputError
from runner.data.clone import git, gitconfig

_PROTOCOLS = "https:ssh"


def update(repository: git.Git, folder: Path, depth: int | None, allowed_hosts: Sequence[str]) -> None:
    """Bring the submodules of the checked-out commit to their commits.

    Raises
    ------
    UsageError
        A URL is not valid, or its host is not allowed.
    BrokenInputError
        A submodule is unavailable, or something else lies in its place.
    """
    if not (folder / ".gitmodules").is_file():
        return
    for url in _listed(repository, "url"):
        if not url.startswith(("./", "../")):
            git.remote(url, allowed_hosts)
    _check(repository, folder)
    shallow = [f"--depth={depth}"] if depth is not None else []
    repository.run("submodule", "--quiet", "init")
    repository.run("submodule", "--quiet", "sync")  # an earlier URL may be anybody's
    arguments = ["submodule", "update", "--init", "--checkout", "--force", *shallow]
    repository.run(*arguments, protocols=_PROTOCOLS)


def _listed(repository: git.Git, field: str) -> list[str]:
    listed = repository.run("config", "--file", ".gitmodules", "--get-regexp", rf"^submodule\..*\.{field}$")
    return [line.partition(" ")[2] for line in listed.splitlines()]


def _check(repository: git.Git, folder: Path) -> None:
    """Refuse what is not a submodule of this clone, and cut down the configuration of those that are."""
    modules = folder / ".git" / "modules"
    worktrees = [folder.resolve() / path for path in _listed(repository, "path")]
    for worktree in worktrees:
        if worktree.resolve() != worktree or not _leads_into(modules, worktree / ".git"):
            raise BrokenInputError(f"{worktree} is not a submodule of this clone", hint="delete or move that folder")
    for path in modules.rglob("config"):
        if (path.parent / "commondir").exists():
            raise BrokenInputError(f"{path.parent} leads git elsewhere", hint="delete the folder and clone again")
        if (path.parent / "HEAD").exists():
            gitconfig.cut_down(repository, path, worktrees=worktrees)


def _leads_into(modules: Path, gitfile: Path) -> bool:
    """Return True if the `.git` of a submodule is not there yet, or leads to its repository in the clone."""
    if not os.path.lexists(gitfile):
        return True
    if gitfile.is_symlink() or not gitfile.is_file():
        return False
    target = gitfile.read_text(encoding="utf-8", errors="replace").strip().removeprefix("gitdir: ")
    return (gitfile.parent / target).resolve().is_relative_to(modules.resolve())
