# SPDX-License-Identifier: Apache-2.0
"""What of a checkout is somebody's work or in use, and so no leftover that may be moved away.

A pattern of products may be wider than it was meant: `notebooks/**` matches the folder with the
notebooks in it. What is found is held against this before anything moves, in a run and in
`runner plan check` alike.
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
    """Paths that no product may be, or hold.

    Parameters
    ----------
    named
        Paths and what each is; relative ones start from the checkout. The repository's own files,
        as git lists them, are added.
    """

    def __init__(self, checkout: Path, named: Mapping[Path, str]) -> None:
        self._root = checkout.resolve()
        self._named = _with_parents((form, what) for path, what in named.items() for form in self._forms(path))

    @classmethod
    def of(cls, plan: Plan, checkout: Path, also: Mapping[Path, str] | None = None) -> Sources:
        """Return the sources of a plan: its notebooks, datasets put in the checkout, what is named in ``also``."""
        named = {Path(notebook.path): f"the notebook {notebook.path}" for notebook in plan.notebooks}
        named |= {Path(data.place.path): f"the dataset {name}" for name, data in plan.datasets.items() if data.place}
        return cls(checkout, {**named, **(also or {})})

    def within(self, path: Path) -> str | None:
        """Describe what would move away with a path of the checkout; None when it is not a source and holds none."""
        place = _place(self._root / path)
        return self._named.get(place) or self._tracked.get(place)

    @cached_property
    def _tracked(self) -> dict[Path, str]:
        names = _tracked_files(self._root)
        return _with_parents((self._root / name, f"{name}, a file of the repository,") for name in names)

    def _forms(self, path: Path) -> set[Path]:
        """Return every place whose move would take a path away: through links, and where they lead."""
        path = self._root / path
        return {path.resolve(), *(_place(holder) for holder in (path, *path.parents))}


def _place(path: Path) -> Path:
    """Return where a path lies, with the folders above it resolved: a rename moves a link and not its target."""
    return path.parent.resolve() / path.name


def _with_parents(named: Iterable[tuple[Path, str]]) -> dict[Path, str]:
    held: dict[Path, str] = {}
    for path, what in named:
        for holder in (path, *path.parents):
            held.setdefault(holder, what)
    return held


def _tracked_files(root: Path) -> list[str]:
    """Return the repository's own files; none where there is no repository, or no git to ask."""
    # A mounted checkout belongs to another uid, which is no reason not to read its index; its
    # configuration is a stranger's and must not start programs.
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
