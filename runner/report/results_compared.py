# SPDX-License-Identifier: Apache-2.0
"""What the notebooks of a report show, compared with those of a baseline: verdicts, and figures where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.compare.notebooks import compare_notebooks
from runner.compare.page import view
from runner.compare.verdict import FileComparison, Tolerance

if TYPE_CHECKING:
    from runner.report.assemble import Report

_MOST_READ_BYTES = 400_000_000


def compare_results(report: Report, folder: Path, baselines: Sequence[Path]) -> dict[str, Any] | None:
    """Return what `partials/verdicts.html` shows; None where the newest baseline holds none of the notebooks."""
    if not baselines:
        return None
    place = baselines[-1] if baselines[-1].is_dir() else baselines[-1].parent
    before = place.parent if place.name == "reports" else place
    found, room = [], _MOST_READ_BYTES
    for entry in report.entries:
        new, old = folder / entry.files.get("notebook", ""), before / f"{entry.name}.executed.ipynb"
        if "notebook" not in entry.files or not old.is_file() or old.samefile(new):
            continue
        room -= new.stat().st_size + old.stat().st_size
        if room > 0:
            found.append(FileComparison(path=entry.name, verdicts=tuple(compare_notebooks(old, new, Tolerance()))))
    return view(tuple(found)) if found else None
