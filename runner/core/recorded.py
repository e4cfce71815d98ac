# SPDX-License-Identifier: Apache-2.0
"""Results that a notebook records by name: written as output metadata, read from the executed notebook.

`runner.record` writes them if this package is installed in the kernel's environment. Elsewhere a notebook can use
``display({"text/plain": "ari = 0.93"}, raw=True, metadata={"runner": {"recorded": {"ari": 0.93}}})``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MOST_VALUES = 200
NAME_CHARS = 80
TEXT_CHARS = 200
_LARGEST = 2**63
"""Larger integers are stored as floats, since JSON readers disagree about them."""


def show(name: str, value: object) -> None:
    """Display a value as an output of the running cell; outside IPython, print it."""
    value = _plain(value)
    _check(name, value)
    text = f"{name} = {value}"
    from IPython.core.interactiveshell import InteractiveShell

    if not InteractiveShell.initialized():
        print(text)
        return
    from IPython.display import display

    shown = {"runner": {"recorded": {name: _json(value)}}}
    display({"text/plain": text}, raw=True, metadata=shown)  # type: ignore[no-untyped-call]


def read(notebook: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the recorded results of a notebook by name, in order of appearance; malformed ones are ignored."""
    found: dict[str, bool | int | float | str] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            ours = output.get("metadata", {}).get("runner")
            values = ours.get("recorded") if isinstance(ours, Mapping) else None
            for name, value in values.items() if isinstance(values, Mapping) else ():
                try:
                    _check(name, value)
                except (TypeError, ValueError):
                    continue
                if name in found or len(found) < MOST_VALUES:
                    found[name] = _json(value)
    return found


def _plain(value: Any) -> Any:
    """Return a scalar of NumPy, CuPy or pandas as a Python value."""
    if not isinstance(value, bool | int | float | str) and callable(item := getattr(value, "item", None)):
        try:
            return item()
        except (TypeError, ValueError):  # an array of several values
            return value
    return value


def _check(name: object, value: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS:
        raise ValueError(f"the name {name!r:.120} must have 1 to {NAME_CHARS} characters")
    if not isinstance(value, bool | int | float | str):
        raise TypeError(f"{name}: {type(value).__name__} is not a number, a string, True or False")
    if isinstance(value, str) and not 0 < len(value) <= TEXT_CHARS:
        raise ValueError(f"{name}: the string has {len(value)} characters, allowed are 1 to {TEXT_CHARS}")


def _json(value: Any) -> bool | int | float | str:
    """Return a value that any JSON reader accepts: NaN and infinities become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return float(value) if abs(value) < 1e300 else "too large"
    kinds = (bool, int, float, str)
    return next(kind(value) for kind in kinds if isinstance(value, kind))
