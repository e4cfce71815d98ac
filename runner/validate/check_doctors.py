# SPDX-License-Identifier: Apache-2.0
"""Preflight checks of the libraries, if installed; and ours as a plug-in for `rapids doctor`.

`rapids doctor` finds `doctor_check` by the entry point `rapids_doctor_check`.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.core.records import Check

_PROGRAMS = (("rapids", "doctor"), ("rapids-singlecell-check-kernel",))
_SECONDS = 40.0
_SHOWN_CHARS = 300


def checks(python: str) -> Iterator[Check]:
    """Run each program installed beside a kernel's Python."""
    for program, *arguments in _PROGRAMS:
        path = Path(python).parent / program
        if path.is_file():
            yield _checked(" ".join([program, *arguments]), [str(path), *arguments])


def _checked(name: str, command: list[str]) -> Check:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        hint = f"run `{name}` manually: the driver or a library hangs"
        return Check(name=name, status="warn", seen=f"still running after {_SECONDS:g} s", hint=hint)
    except OSError as error:
        return Check(name=name, status="warn", seen=f"cannot be started: {error.strerror}", hint="reinstall it")
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    printable = "".join(char for char in "; ".join(lines[-3:]) if char.isprintable())
    if done.returncode:
        hint = f"run `{name}` manually for its full output"
        seen = printable[-_SHOWN_CHARS:] or f"exit code {done.returncode}"
        return Check(name=name, status="fail", seen=seen, hint=hint)
    return Check(name=name, status="pass", seen=printable[-_SHOWN_CHARS:] or "passed")


def doctor_check(verbose: bool = False, **_options: Any) -> str:
    """Check GPUs, a Jupyter kernel, the host and the temporary folder for unattended notebooks."""
    from runner.validate.result import ValidationRequest, checks_of
    from runner.validate.show import summary
    from runner.validate.system import validate

    folder = Path(tempfile.gettempdir())
    found = validate(ValidationRequest(checkout=folder, folders={"outputs": folder}, doctors=False))
    wrong = [check for check in checks_of(found.sections) if check.status == "fail"]
    if wrong:
        raise RuntimeError("; ".join(f"{check.name}: {check.seen} ({check.hint})" for check in wrong))
    return summary(found) if verbose else ""
