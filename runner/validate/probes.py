# SPDX-License-Identifier: Apache-2.0
"""Runs a probe in a separate process and reads its findings, one JSON object per line.

CUDA libraries may crash, hang or hold GPU memory for the life of their process, so they are never loaded into ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.stages.execute.outcome import signal_name

HERE = Path(__file__).resolve().parent / "standalone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Findings of a probe; ``ended`` is empty if it exited normally."""

    found: tuple[dict[str, Any], ...]
    ended: str = ""
    last_words: str = ""

    @property
    def merged(self) -> dict[str, Any]:
        """All findings as one mapping."""
        return {key: value for finding in self.found for key, value in finding.items()}


def run(python: str, probe: str, arguments: Sequence[str] = (), *, seconds: float, cwd: Path | None = None) -> Findings:
    """Run a probe with a Python and a time limit, and return its findings."""
    command = [python, str(HERE / probe), *arguments]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            start_new_session=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except OSError as error:
        return Findings(found=(), ended=f"cannot start {python}: {error.strerror}")
    ended = ""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        ended = f"still running after {seconds:g} s"
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
    if not ended and process.returncode:
        code = process.returncode
        ended = f"killed by {signal_name(code)}" if code < 0 else f"exit code {code}"
    last = errors.decode(errors="replace").strip().splitlines()
    return Findings(found=tuple(_objects(output)), ended=ended, last_words=last[-1][:300] if last else "")


def _objects(output: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects among the lines; libraries print other text too."""
    found = []
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    return found
