# SPDX-License-Identifier: Apache-2.0
"""Earlier runs: their files are moved aside, so that nothing is overwritten, and what a killed one left is cleaned up.

On a bare host nobody ends the children of a killed kernel, and each of them may hold a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import files, log
from runner.outputs import claim

if TYPE_CHECKING:
    from runner.outputs.claim import Running

SUFFIXES = (".executed.ipynb", ".html", ".metrics.json", ".samples.csv", ".log", ".dask.htm")
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


def clean_up(output_dir: Path, dead: Running | None) -> str | None:
    """Remove temporary files of dead processes in a folder, end the processes of a dead run, and say which.

    Parameters
    ----------
    dead
        A run whose process is gone; nothing of one of another machine or namespace is touched.
    """
    for folder in (output_dir, output_dir / "reports"):
        files.remove_left_over(folder, ".*.part")
    if dead is None or not claim.died_here(dead):
        return None
    from runner.machine.processes import end_orphans

    found = end_orphans(dead.tag)
    if not found:
        return None
    listed = ", ".join(f"{process.name} (pid {process.pid}, {process.ended_by})" for process in found)
    log.warning("orphans", nb=dead.notebook, run_id=dead.run_id, processes=listed)
    return f"ended what the dead run {dead.run_id} had left running: {listed}"


def clean_up_all(output_dir: Path) -> None:
    """Do so for all runs of a folder that died; their claims stay, so that a report finds them lost."""
    clean_up(output_dir, None)
    for path in sorted(output_dir.glob("*.running")):
        clean_up(output_dir, claim.read(path))
