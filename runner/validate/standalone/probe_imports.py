# SPDX-License-Identifier: Apache-2.0
"""Run by the kernel's Python, alone in a process: what is installed, and which modules import.

It imports nothing of `runner`, which that Python may not have. The first JSON line is the list
of distributions; then comes one line before and one after each import, so that a module that
crashes the process or hangs is known.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import platform
import sys
import time
from importlib import metadata

ANSWERS = sys.stdout


def tell(**finding: object) -> None:
    """Print one finding at once."""
    print(json.dumps(finding), flush=True, file=ANSWERS)


def distributions() -> list[object]:
    """Return name, version and requirements of everything installed."""
    return [
        [one.metadata["Name"], one.version, one.requires or []]
        for one in metadata.distributions()
        if one.metadata is not None and one.metadata["Name"]
    ]


def main(modules: list[str], seconds: float) -> None:
    """Look for every module first, then import them until the time is up."""
    tell(python=platform.python_version(), distributions=distributions())
    present = {}
    for name in modules:
        try:
            present[name] = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            present[name] = False
    tell(present=present)
    sys.stdout = sys.stderr  # what a library prints on import is no finding
    deadline = time.monotonic() + seconds
    for name, there in present.items():
        if there and time.monotonic() < deadline:
            tell(importing=name)
            try:
                importlib.import_module(name)
                tell(imported=name)
            except BaseException as error:  # noqa: BLE001  (SystemExit too)
                tell(broken=name, reason=f"{type(error).__name__}: {error}"[:300])


if __name__ == "__main__":
    main(sys.argv[2:], float(sys.argv[1]))
