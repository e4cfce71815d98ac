# SPDX-License-Identifier: Apache-2.0
"""The demo: a plan and three single-cell notebooks that need no download, shipped with the package."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from runner.core import files

PLAN = "plan.yaml"


def copy_to(folder: Path) -> Path:
    """Copy plan and notebooks into a writable folder and return the plan's path.

    Files of the demo are overwritten; other files in the folder are kept.

    Raises
    ------
    RecordError
        The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for item in resources.files(__name__).iterdir():
            if item.name.endswith((".ipynb", ".yaml")):
                with resources.as_file(item) as source:
                    shutil.copyfile(source, folder / item.name)
    except OSError as error:
        raise files.cannot_write(folder / PLAN, error) from error
    return folder / PLAN
