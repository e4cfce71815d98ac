# SPDX-License-Identifier: Apache-2.0
"""Earlier runs of a name: moved aside before a new one writes, so that nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

from runner.core import files

SUFFIXES = (".executed.ipynb", ".html", ".metrics.json", ".samples.csv", ".log")
SUMS = ".sha256"
"""The sums of these, see `runner.outputs.sums`."""


def set_aside(folder: Path, name: str) -> Path | None:
    """Move the files of an earlier run to ``attempts/NAME/<n>/`` and return that folder.

    Raises
    ------
    RecordError
        They cannot be moved; they stay as they are.
    """
    earlier = [path for suffix in (*SUFFIXES, SUMS) if (path := folder / f"{name}{suffix}").exists()]
    if not earlier:
        return None
    try:
        target = _next(folder / "attempts" / name)
        for path in earlier:
            path.rename(target / path.name)
    except OSError as error:
        raise files.cannot_write(folder / "attempts" / name, error) from error
    return target


def folders(folder: Path, name: str) -> tuple[Path, ...]:
    """Return the folders of earlier runs, oldest first."""
    try:
        numbered = [path for path in (folder / "attempts" / name).iterdir() if path.name.isdigit()]
    except OSError:
        return ()
    return tuple(sorted(numbered, key=lambda path: int(path.name)))


def _next(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=0) + 1
    target = parent / str(number)
    target.mkdir()
    return target
