# SPDX-License-Identifier: Apache-2.0
"""Validation of figures read from files, and one-line error messages.

JSON as read by Python and pydantic may contain `NaN`, `Infinity` and numbers of any length. Sums, scales and strict
JSON cannot: such a file is as broken as one that cannot be parsed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

LARGEST = 2.0**63
"""Far above any number of bytes, seconds or joules of a run, and small enough for sums."""
_LONGEST = 300
_FREE = {"parameters"}
"""Values of the notebook, which are shown but not used in calculations."""


def check_figures(record: Any) -> None:
    """Check that all figures of a record are finite and plausible.

    Raises
    ------
    ValueError
        A figure is not finite or too large; the message names its field.
    """
    waiting: list[tuple[Any, Any]] = [(record, None)]
    for value, place in waiting:  # grows while it is read
        kind: Any = type(value)
        if kind is str or value is None:
            continue
        if isinstance(value, int | float):
            if not -LARGEST < value < LARGEST:
                odd = isinstance(value, float) and not math.isfinite(value)
                what = f"{value}, which is not a finite number" if odd else "too large"
                raise ValueError(f"{_field_path(place)} is {what}")
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


def _field_path(place: Any) -> str:
    """Return the path of a figure."""
    names: list[str] = []
    while place:
        place, name = place
        names.append(str(name))
    return ".".join(reversed(names))


def fault(error: Exception) -> str:
    """Return an error on one line of bounded length."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        parts = [
            ": ".join(filter(None, [".".join(map(str, one["loc"])), one["msg"][: _LONGEST // 3]])) for one in found[:2]
        ]
        if len(found) > 2:
            parts.append(f"and {len(found) - 2} more")
        text = "; ".join(parts)
    else:
        text = str(error) or type(error).__name__
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
