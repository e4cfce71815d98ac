# SPDX-License-Identifier: Apache-2.0
"""Judges what was read of a file: figures must be figures, and a fault is reported in one sentence.

JSON as Python and pydantic read it may hold `NaN`, `Infinity` and numbers of any length. Sums,
scales and our own JSON cannot: such a file is as broken as one that cannot be parsed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

LARGEST = 2.0**63
"""No count of bytes, seconds or joules of a run comes near it, and a page of sums stays finite."""
_LONGEST = 300
_FREE = {"parameters"}
"""Values of the notebook's own, which are shown and never reckoned with."""


def check_figures(record: Any) -> None:
    """Pass a record whose figures can be reckoned with.

    Raises
    ------
    ValueError
        One is not finite or beyond any measure; the message names its field.
    """
    waiting: list[tuple[Any, Any]] = [(record, None)]
    for value, place in waiting:  # grows while it is read
        kind: Any = type(value)
        if kind is str or value is None:
            continue
        if isinstance(value, int | float):
            if not -LARGEST < value < LARGEST:
                odd = isinstance(value, float) and not math.isfinite(value)
                what = f"{value}, which is not a figure" if odd else "larger than any figure of a run"
                raise ValueError(f"{_spelled(place)} is {what}")
        elif names := _fields(kind):
            waiting += [(getattr(value, name), (place, name)) for name in names]
        elif isinstance(value, Mapping):
            waiting += [(item, (place, name)) for name, item in value.items()]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            waiting += [(item, (place, number)) for number, item in enumerate(value)]


@cache
def _fields(kind: Any) -> tuple[str, ...]:
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return tuple(field.name for field in fields if field.name not in _FREE)


def _spelled(place: Any) -> str:
    """Return the path of a figure, which is told only where it is wrong: there are hundreds in a record."""
    names: list[str] = []
    while place:
        place, name = place
        names.append(str(name))
    return ".".join(reversed(names))


def fault(error: Exception) -> str:
    """Return what is wrong with a file, in one sentence of bounded length."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        said = [
            ": ".join(filter(None, [".".join(map(str, one["loc"])), one["msg"][: _LONGEST // 3]])) for one in found[:2]
        ]
        if len(found) > 2:
            said.append(f"and {len(found) - 2} more")
        text = "; ".join(said)
    else:
        text = str(error) or type(error).__name__
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
