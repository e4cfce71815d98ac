# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 (scripts, no package)
"""Regenerates the lock files of the images: `python images/lock.py`, with `uv` on the PATH.

Each lock has exact versions with the hashes of their files, and no address of an index: the builder
chooses the index, but not the files. The resolution of the generations is constrained to versions that
their RAPIDS accepts (`rapids-*.txt`) and that existed when their base was built: our layer never
replaces a package of its base (see `layer.py`), so none of its packages may require a newer one. Use
`--upgrade` to update versions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

IMAGES = Path(__file__).resolve().parent
ROOT = IMAGES.parent
HEADER = "# Made by `python images/lock.py` from requirements-{name}.in and pyproject.toml. No addresses: the index is yours.\n"  # noqa: E501
VERSIONS = dict(
    line.split("=", 1) for line in (IMAGES / "versions.env").read_text().splitlines() if line and line[0] not in "# "
)

# The runner's own core dependencies: no base has them, and they should match the tests' versions.
OURS = ("latex2mathml", "nbclient", "nbconvert", "nh3", "papermill", "rocrate")


def arguments(name: str) -> list[str]:
    """Return the target of a lock: one Python on Linux, or all supported by the package."""
    if name.startswith("g"):
        python, date = VERSIONS[f"{name.upper()}_PYTHON"], VERSIONS[f"{name.upper()}_DATE"]
        constraints = ["--constraints", f"rapids-{name}.txt", "--exclude-newer", date]
        for package in OURS:
            constraints += ["--exclude-newer-package", f"{package}={VERSIONS['LOCK_DATE']}"]
        return [*constraints, "--python-version", python, "--python-platform", "x86_64-manylinux_2_28"]
    return ["--constraints", "../constraints.txt", "--universal", "--python-version", "3.11"]


def lock(name: str, more: list[str]) -> None:
    """Resolve a lock file, starting from its current pins."""
    target = IMAGES / f"requirements-{name}.lock"
    sources = [f"requirements-{name}.in", *([] if name == "build" else ["../pyproject.toml", "--extra", "otel"])]
    quiet = ["--quiet", "--no-header", "--no-annotate", "--generate-hashes", "--no-emit-index-url"]
    python = os.environ.get("LOCK_PYTHON_" + name.upper())
    interpreter = ["--python", python] if python else []
    command = ["uv", "pip", "compile", *quiet, *arguments(name), *interpreter, *more, "--output-file", target.name]
    subprocess.run([*command, *sources], cwd=IMAGES, check=True)
    text = target.read_text(encoding="utf-8").removeprefix(HEADER.format(name=name))
    target.write_text(HEADER.format(name=name) + text, encoding="utf-8")


if __name__ == "__main__":
    for which in ("build", "cpu", "g1", "g2", "g3"):
        lock(which, sys.argv[1:])
