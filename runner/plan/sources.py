# SPDX-License-Identifier: Apache-2.0
"""Files of a checkout that are sources or in use, so that they must not be moved away as old products.

A product pattern may match more than intended: `notebooks/**` matches the folder with the notebooks. Matches are
checked here before anything is moved, both in a run and in `runner plan check`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import log

if TYPE_CHECKING:
    from runner.plan.model import Plan


class Sources:
    """Paths that no product may be or contain.

    Parameters
    ----------
    named
        Descriptions by path, relative to the checkout or absolute. Files tracked by git are added.
    """

    def __init__(self, checkout: Path, named: Mapping[Path, str]) -> None:
        self._root = checkout.resolve()
        self._named = _with_parents((form, what) for path, what in named.items() for form in self._forms(path))

    @classmethod
    def of(cls, plan: Plan, checkout: Path, also: Mapping[Path, str] | None = None) -> Sources:
        """Return the sources of a plan: its notebooks, datasets placed in the checkout, and ``also``."""
        named = {Path(notebook.path): f"the notebook {notebook.path}" for notebook in plan.notebooks}
        named |= {Path(data.place.path): f"the dataset {name}" for name, data in plan.datasets.items() if data.place}
        return cls(checkout, {**named, **(also or {})})

    def within(self, path: Path) -> str | None:
        """Return a description of the source that a path of the checkout is or contains; None if there is none."""
        place = _place(self._root / path)
        return self._named.get(place) or self._tracked.get(place)

    @cached_property
    def _tracked(self) -> dict[Path, str]:
        names = _tracked_files(self._root)
        return _with_parents((self._root / name, f"{name}, a file of the repository,") for name in names)

    def _forms(self, path: Path) -> set[Path]:
        """Return every place whose move would remove a path, both of links and of their targets."""
        path = self._root / path
        return {path.resolve(), *(_place(holder) for holder in (path, *path.parents))}


def _place(path: Path) -> Path:
    """Return a path with its parent folders resolved: a rename moves a link and not its target."""
    return path.parent.resolve() / path.name


def _with_parents(named: Iterable[tuple[Path, str]]) -> dict[Path, str]:
    held: dict[Path, str] = {}
    for path, what in named:
        for holder in (path, *path.parents):
            held.setdefault(holder, what)
    return held


def _tracked_files(root: Path) -> list[str]:
    """Return the files tracked by git; none without a repository or without git."""
    # A mounted checkout may belong to another uid; its index is read all the same, but its untrusted configuration
    # must not start programs.
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(root), "ls-files", "-z"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}
    try:
        listing = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment)
        problem = listing.stderr.decode("utf-8", "replace").strip() if listing.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        problem = str(error)
    if not problem:
        return [name for name in os.fsdecode(listing.stdout).split("\0") if name]
    if any((folder / ".git").exists() for folder in (root, *root.parents)):
        log.warning("repository-not-read", folder=root, reason=problem)
    return []
