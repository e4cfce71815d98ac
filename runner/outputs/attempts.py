# SPDX-License-Identifier: Apache-2.0
"""Files of earlier runs, which are moved aside instead of overwritten, and cleanup after killed runs.

On a bare host nothing ends the child processes of a killed kernel, and each of them may hold a GPU.
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
"""Checksums of these files, see `runner.outputs.sums`."""


def set_aside(folder: Path, name: str) -> Path | None:
    """Move the files of an earlier run to ``attempts/NAME/<n>/`` and return that folder.

    Raises
    ------
    RecordError
        They cannot be moved.
    """
    earlier = [path for suffix in (*SUFFIXES, SUMS) if (path := folder / f"{name}{suffix}").exists()]
    if not earlier:
        return None
    try:
        number = max((int(path.name) for path in folders(folder, name)), default=0) + 1
        target = folder / "attempts" / name / str(number)
        target.mkdir(parents=True)
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


def clean_up(output_dir: Path, dead: Running | None) -> str | None:
    """Remove temporary files of dead processes in a folder, end the processes of a dead run, and return a summary.

    Parameters
    ----------
    dead
        A run whose process has ended; ignored if it was on another machine or in another pid namespace.
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
    return f"ended orphaned processes of the dead run {dead.run_id}: {listed}"


def clean_up_all(output_dir: Path) -> None:
    """Clean up after all dead runs of a folder; their claims stay, so that a report marks them lost."""
    clean_up(output_dir, None)
    for path in sorted(output_dir.glob("*.running")):
        clean_up(output_dir, claim.read(path))
