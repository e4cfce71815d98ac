# SPDX-License-Identifier: Apache-2.0
"""Which files of the checkout a kernel read, and which hosts it looked up.

`opened_startup` runs in the kernel and writes; here is what starts it and reads what it wrote. The file is the
kernel's, so what is in it is not trusted.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from runner.core import files

_ROWS = "opened.jsonl"
_MAX_BYTES = 16 << 20
_CODE = Path(__file__).with_name("opened_startup.py")
_INSTALLED = frozenset({"site-packages", "dist-packages", ".git"})
_HERE = ("localhost", "127.", "::1", "0.0.0.0")  # noqa: S104  (compared with, not bound to)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Paths as the kernel named them, and hosts other than this one."""

    read: tuple[Path, ...] = ()
    """Not those that it wrote as well."""
    hosts: tuple[str, ...] = ()


def startup(checkout: Path) -> str:
    """Return the line that makes a kernel note what it opens, without leaving anything in the notebook's namespace."""
    names = {"__name__": "runner_opened", "CHECKOUT": str(checkout)}
    return f"exec(open({str(_CODE)!r}, encoding='utf-8').read(), {names!r})"


def read(folder: Path) -> Opened:
    """Return what a kernel noted in its private folder, as far as it is well formed."""
    rows: dict[str, dict[str, None]] = {"read": {}, "written": {}, "host": {}}
    try:
        lines = files.read(folder / _ROWS, _MAX_BYTES).splitlines()
    except OSError:
        return Opened()
    for line in lines:
        try:
            kind, what = json.loads(line)
            rows[kind][str(what)] = None
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    found = dict.fromkeys(_source(Path(path)) for path in rows["read"] if path not in rows["written"])
    return Opened(
        read=tuple(path for path in found if not _INSTALLED & set(path.parts)),
        hosts=tuple(sorted(host for host in rows["host"] if host and not host.startswith(_HERE) and host != "None")),
    )


def _source(path: Path) -> Path:
    """Return the module that a file of bytecode was made from."""
    if path.suffix == ".pyc" and path.parent.name == "__pycache__":
        try:
            return Path(importlib.util.source_from_cache(str(path)))
        except ValueError:
            return path
    return path
