# SPDX-License-Identifier: Apache-2.0
"""Notes of a kernel: files of the checkout that it read, hosts that it looked up, how ``!commands`` and it ended.

`notes_startup` runs in the kernel and writes them; this module starts it and reads the notes, which are not trusted
because the notebook can write to them.
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
    """Paths as named by the kernel, and hosts other than this one."""

    read: tuple[Path, ...] = ()
    """Without those that it also wrote."""
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShellWarning:
    """A problem that does not fail the run, with its cell if known."""

    text: str
    cell_id: str | None = None


def startup(checkout: Path) -> tuple[str, ...]:
    """Return the startup lines of a kernel that write the notes, outside of the notebook's namespace."""
    return _line("notes", CHECKOUT=str(checkout)), _line("dask")


def _line(what: str, **names: str) -> str:
    return kernel_line(Path(__file__).with_name(f"{what}_startup.py"), __name__=f"runner_{what}", **names)


def opened(folder: Path) -> Opened:
    """Return the well-formed notes in a kernel's private folder about files and hosts."""
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
    """Return the well-formed notes about a kernel's commands and its end.

    Parameters
    ----------
    folder
        The kernel's private folder.
    events
        The cells' events, on the monotonic clock that kernel and runner share.
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
                        f"`!{_short(row['name'])}` resolves to {_short(row['path'])} by PATH, outside of the kernel's "
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
        listed.append(ShellWarning(f"and {more} more such commands"))
    if ending is not None:
        what = f"the thread {ending[0]}" if ending else "an exit handler"
        listed.append(ShellWarning(f"{what} was still running when the kernel was ended: its work is incomplete"))
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
    """Return the source of a bytecode file, or the path itself."""
    if path.suffix == ".pyc" and path.parent.name == "__pycache__":
        with contextlib.suppress(ValueError):
            return Path(importlib.util.source_from_cache(str(path)))
    return path


def _cell(now: float, events: Mapping[str, CellEvent]) -> str | None:
    return next((key for key, each in events.items() if each.started_monotonic <= now <= each.ended_monotonic), None)


def _short(value: str, limit: int = 200) -> str:
    text = " ".join(value.split())
    return text if len(text) <= limit else f"{text[:limit]}…"
