# SPDX-License-Identifier: Apache-2.0
"""What a kernel noted about its ``!commands`` and its end, as warnings.

`shell_startup` runs in the kernel and writes; here is what starts it and reads what it wrote. The file
is the kernel's, so what is in it is not trusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.stages.execute.outcome import CellEvent

ROWS = "shell.jsonl"
_MAX_BYTES = 2**20
_MOST = 20
_CODE = Path(__file__).with_name("shell_startup.py")
# One expression with a namespace of its own, so that nothing is left in the notebook's.
STARTUP = f"exec(open({str(_CODE)!r}, encoding='utf-8').read(), {{'__name__': 'runner_shell'}})"


@dataclass(frozen=True, slots=True)
class ShellWarning:
    """What a person should know of a run that may be green; ``cell_id`` where it was."""

    text: str
    cell_id: str | None = None


def read(folder: Path, events: Mapping[str, CellEvent]) -> tuple[ShellWarning, ...]:
    """Return what the kernel noted, as far as it is well formed.

    Parameters
    ----------
    folder
        The kernel's private folder.
    events
        When each cell ran, on the clock that kernel and runner share.
    """
    found: dict[ShellWarning, None] = {}
    ending: list[str] | None = None
    for row in _rows(folder):
        try:
            match row["event"]:
                case "command":
                    text = f"`!{_short(row['command'])}` ended with exit status {int(row['code'])}"
                    found[ShellWarning(text, _cell(float(row["now"]), events))] = None
                case "program":
                    text = (
                        f"`!{_short(row['name'])}` is {_short(row['path'])}, by PATH, and not of the kernel's "
                        f"environment {_short(row['prefix'])}: use {{sys.executable}}, or %pip instead of !pip"
                    )
                    found[ShellWarning(text, _cell(float(row["now"]), events))] = None
                case "ending":
                    ending = [_short(name) for name in row["threads"]]
                case "ended":
                    ending = None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue
    warnings = list(found)
    if len(warnings) > _MOST:
        warnings = [*warnings[:_MOST], ShellWarning(f"and {len(warnings) - _MOST} more commands of the kind")]
    if ending is not None:
        what = f"the thread {ending[0]}" if ending else "an exit handler"
        warnings.append(ShellWarning(f"{what} still ran when the kernel was ended: its work was cut off"))
    return tuple(warnings)


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        with (folder / ROWS).open("rb") as stream:
            lines = stream.read(_MAX_BYTES).splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _cell(now: float, events: Mapping[str, CellEvent]) -> str | None:
    return next((key for key, each in events.items() if each.started_monotonic <= now <= each.ended_monotonic), None)


def _short(value: str, limit: int = 200) -> str:
    text = " ".join(value.split())
    return text if len(text) <= limit else f"{text[:limit]}…"
