# SPDX-License-Identifier: Apache-2.0
"""Starts a probe in a process of its own and reads its findings, a JSON object a line.

Libraries of CUDA may crash, hang or keep GPU memory for the life of their process, so none of
them is loaded into ours.
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

HERE = Path(__file__).resolve().parent / "standalone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a probe printed, and how it ended: ``ended`` is empty for a normal end."""

    found: tuple[dict[str, Any], ...]
    ended: str = ""
    last_words: str = ""

    @property
    def merged(self) -> dict[str, Any]:
        """All findings as one mapping."""
        return {key: value for finding in self.found for key, value in finding.items()}


def run(python: str, probe: str, arguments: Sequence[str] = (), *, seconds: float, cwd: Path | None = None) -> Findings:
    """Run a probe with a Python, at most so long, and return what it found until then."""
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
        ended = f"no end after {seconds:g} s"
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
    if not ended and process.returncode:
        code = process.returncode
        ended = f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
    last = errors.decode(errors="replace").strip().splitlines()
    return Findings(found=tuple(_objects(output)), ended=ended, last_words=last[-1][:300] if last else "")


def _objects(output: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects among the lines; libraries print other things as well."""
    found = []
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                found.append(value)
    return found


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
