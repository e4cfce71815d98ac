# SPDX-License-Identifier: Apache-2.0
"""Make constraints.txt anew from pyproject.toml: `python .ci/constraints.py`, with `uv` on the PATH.

One resolution for every Python version that we support, once with each CUDA, so that the other extras and one of
the GPU ones always fit together. A few CUDA packages have one name and another version for each CUDA; those are left
to the exact pins of RAPIDS itself.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("demo", "test", "lint", "docs", "jupytext", "s3", "hf", "otel")
CUDAS = ("gpu-cu12", "gpu-cu13")
ELSEWHERE = ("sys_platform == 'win32'", "sys_platform == 'darwin'", "sys_platform == 'emscripten'", "'pypy'")
PYTHON = re.compile(r"python_full_version [<>=]+ '[0-9.*]+'")
HEADER = """\
# The exact versions of everything that `make` installs: name==version and, where Python versions differ, a marker.
# Made by `python .ci/constraints.py`. No hosts, no hashes: your package index is yours to choose.
"""


def resolve(cuda: str) -> set[str]:
    """Return the pins for all extras and one CUDA, for each Python from 3.11 on, on Linux."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pins.txt"
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
        command += ["--no-annotate", "--no-header", "--no-emit-index-url", "--output-file", str(target)]
        for extra in (*EXTRAS, cuda):
            command += ["--extra", extra]
        subprocess.run([*command, str(ROOT / "pyproject.toml")], check=True)
        return set(filter(None, map(linux_pin, target.read_text(encoding="utf-8").splitlines())))


def linux_pin(line: str) -> str | None:
    """Return the pin with what its marker says of Python, or None when it never holds on Linux."""
    pin, _, marker = line.strip().partition(" ; ")
    here = [part for part in marker.split(" or ") if not any(system in part for system in ELSEWHERE)]
    if not here:
        return None
    python = PYTHON.search(" or ".join(here))
    return f"{pin} ; {python[0]}" if python else pin


def name(pin: str) -> str:
    """Return the distribution's name."""
    return pin.partition("==")[0]


def merge(first: set[str], second: set[str]) -> list[str]:
    """Return every pin of both that the other one does not contradict."""
    contradicted = {name(pin) for pin in first ^ second} & {name(pin) for pin in first} & {name(pin) for pin in second}
    return sorted(pin for pin in first | second if name(pin) not in contradicted)


if __name__ == "__main__":
    pins = merge(*(resolve(cuda) for cuda in CUDAS))
    (ROOT / "constraints.txt").write_text(HEADER + "\n".join(pins) + "\n", encoding="utf-8")
