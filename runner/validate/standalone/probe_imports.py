# SPDX-License-Identifier: Apache-2.0
"""Run by the kernel's Python in a separate process: lists distributions and imports modules.

It imports nothing from `runner`, which that Python may not have. The first JSON line is the list
of distributions; then follows one line before and one after each import, to identify a module that
crashes the process or hangs.
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


def emit(**finding: object) -> None:
    """Print a finding immediately."""
    print(json.dumps(finding), flush=True, file=ANSWERS)


def distributions() -> list[object]:
    """Return name, version and requirements of each installed distribution."""
    return [
        [one.metadata["Name"], one.version, one.requires or []]
        for one in metadata.distributions()
        if one.metadata is not None and one.metadata["Name"]
    ]


def main(modules: list[str], seconds: float) -> None:
    """Find every module first, then import them until the time is up."""
    emit(python=platform.python_version(), distributions=distributions())
    present = {}
    for name in modules:
        try:
            present[name] = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            present[name] = False
    emit(present=present)
    sys.stdout = sys.stderr  # output of a library on import is not a finding
    deadline = time.monotonic() + seconds
    for name, found in present.items():
        if found and time.monotonic() < deadline:
            emit(importing=name)
            try:
                importlib.import_module(name)
                emit(imported=name)
            except BaseException as error:  # noqa: BLE001  (SystemExit too)
                emit(broken=name, reason=f"{type(error).__name__}: {error}"[:300])


if __name__ == "__main__":
    main(sys.argv[2:], float(sys.argv[1]))
