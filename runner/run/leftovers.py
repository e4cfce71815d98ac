# SPDX-License-Identifier: Apache-2.0
"""What a run that was killed could not clean up: its processes and its temporary files.

On a bare host nobody ends the children of a killed kernel, and each of them may hold a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import files, log
from runner.outputs import claim

if TYPE_CHECKING:
    from runner.outputs.claim import Running


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
