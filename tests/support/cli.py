# SPDX-License-Identifier: Apache-2.0
"""The real command line in a process of its own, and what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from support import warm

RUNNER = [sys.executable, "-m", "runner"]
PATIENCE = 600.0
"""Seconds after which something that should happen is called missing; generous, for slow machines."""


@dataclass(frozen=True)
class Ended:
    """What a command answered."""

    code: int
    out: str
    err: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment without options of a surrounding run.

    Without pytest's variables too: in their presence ipykernel does not capture what processes print.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RUNNER_", "PYTEST_"))}
    return {**inherited, **(extra or {})}


def runner(*arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
    """Run a command to its end."""
    return _ended(start(*arguments, env=env, cwd=cwd))


def python(script: str, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ended:
    """Run a script that puts a stand-in somewhere and then runs the command line, to its end."""
    return _ended(start(*arguments, env=env, cwd=cwd, script=script))


def _ended(started: subprocess.Popen[str]) -> Ended:
    with started as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.kill()
            raise
    return Ended(process.returncode, out, err)


def start(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None, script: str | None = None
) -> subprocess.Popen[str]:
    """Start a command, or a script that runs it with a stand-in in place, and return its process."""
    command, variables = list(map(str, arguments)), environment(env)
    starter: Any = warm.Process
    if script is not None or not warm.fits(variables):
        starter, command = subprocess.Popen, [*(RUNNER if script is None else [sys.executable, "-c", script]), *command]
    return starter(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=variables,
        cwd=cwd,
    )


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def metrics(folder: Path, name: str) -> dict[str, Any]:
    """Return the metrics of a notebook, checked against the schema."""
    from runner.core.records import read_metrics

    content = (folder / f"{name}.metrics.json").read_bytes()
    read_metrics(content)
    return json.loads(content)


def executed(folder: Path, name: str) -> Any:
    """Return the executed notebook, checked against nbformat's schema."""
    notebook = nbformat.read(folder / f"{name}.executed.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def source_cells(notebook: Any) -> list[Any]:
    """Return the code cells of an executed notebook that its source has."""
    return [c for c in notebook.cells if c.cell_type == "code" and not c.metadata.get("runner", {}).get("inserted")]


def text_of(notebook: Any) -> str:
    """Return everything a notebook's outputs print, in one text."""
    parts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            parts += [output.get("text", ""), *output.get("traceback", []), *map(str, output.get("data", {}).values())]
    return "\n".join(parts)
