# SPDX-License-Identifier: Apache-2.0
"""What a kernel noted: the files of the checkout that it read, hosts that it looked up, how ``!commands`` and it ended.

`opened_startup` and `shell_startup` run in the kernel and write; here is what starts them and reads what they wrote.
The files are the kernel's, so what is in them is not trusted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core import files
from runner.core.import_watch import kernel_line

if TYPE_CHECKING:
    from runner.stages.execute.outcome import CellEvent

OPENED, SHELL = "opened.jsonl", "shell.jsonl"
_MAX_BYTES = 16 << 20
_MOST_WARNINGS = 20
_INSTALLED = frozenset({"site-packages", "dist-packages", ".git"})
_HERE = ("localhost", "127.", "::1", "0.0.0.0")  # noqa: S104  (compared with, not bound to)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Paths as the kernel named them, and hosts other than this one."""

    read: tuple[Path, ...] = ()
    """Not those that it wrote as well."""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShellWarning:
    """What a person should know of a run that may be green; ``cell_id`` where it was."""

    text: str
    cell_id: str | None = None


def startup(checkout: Path) -> tuple[str, ...]:
    """Return the lines that make a kernel note this, without leaving anything in the notebook's namespace."""
    return _line("shell"), _line("opened", CHECKOUT=str(checkout)), _line("dask")


def _line(what: str, **names: str) -> str:
    return kernel_line(Path(__file__).with_name(f"{what}_startup.py"), __name__=f"runner_{what}", **names)


def opened(folder: Path) -> Opened:
    """Return what a kernel noted in its private folder of what it opened, as far as it is well formed."""
    rows: dict[str, dict[str, None]] = {"read": {}, "written": {}, "host": {}}
    for row in _rows(folder / OPENED):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            kind, what = row
            rows[kind][str(what)] = None
    found = dict.fromkeys(_source(Path(path)) for path in rows["read"] if path not in rows["written"])
    return Opened(
        read=tuple(path for path in found if not _INSTALLED & set(path.parts)),
        hosts=tuple(sorted(host for host in rows["host"] if host and not host.startswith(_HERE) and host != "None")),
    )


def warnings(folder: Path, events: Mapping[str, CellEvent]) -> tuple[ShellWarning, ...]:
    """Return what it noted of its commands and its end, as far as it is well formed.

    Parameters
    ----------
    folder
        The kernel's private folder.
    events
        When each cell ran, on the clock that kernel and runner share.
    """
    found: dict[ShellWarning, None] = {}
    ending: list[str] | None = None
    for row in _rows(folder / SHELL):
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
    listed = list(found)[:_MOST_WARNINGS]
    if more := len(found) - len(listed):
        listed.append(ShellWarning(f"and {more} more commands of the kind"))
    if ending is not None:
        what = f"the thread {ending[0]}" if ending else "an exit handler"
        listed.append(ShellWarning(f"{what} still ran when the kernel was ended: its work was cut off"))
    return tuple(listed)


def _rows(path: Path) -> Iterator[Any]:
    try:
        with files.reading(path) as stream:
            lines = stream.read(_MAX_BYTES).splitlines()
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            yield json.loads(line)


def _source(path: Path) -> Path:
    """Return the module that a file of bytecode was made from."""
    if path.suffix == ".pyc" and path.parent.name == "__pycache__":
        try:
            return Path(importlib.util.source_from_cache(str(path)))
        except ValueError:
            return path
    return path


def _cell(now: float, events: Mapping[str, CellEvent]) -> str | None:
    return next((key for key, each in events.items() if each.started_monotonic <= now <= each.ended_monotonic), None)


def _short(value: str, limit: int = 200) -> str:
    text = " ".join(value.split())
    return text if len(text) <= limit else f"{text[:limit]}…"
