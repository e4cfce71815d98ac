# SPDX-License-Identifier: Apache-2.0
"""Judges what was read of a file: figures must be figures, and a fault is reported in one sentence.

JSON as Python and pydantic read it may hold `NaN`, `Infinity` and numbers of any length. Sums,
scales and our own JSON cannot: such a file is as broken as one that cannot be parsed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
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
    for field, value in _figures(record, ""):
        if not math.isfinite(value):
            raise ValueError(f"{field} is {value}, which is not a figure")
        if abs(value) >= LARGEST:
            raise ValueError(f"{field} is larger than any figure of a run")


def _figures(value: Any, at: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, int):
        # A float of its own would overflow where the number is long.
        yield at, value if abs(value) < LARGEST else LARGEST
    elif isinstance(value, float):
        yield at, value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name not in _FREE:
                yield from _figures(getattr(value, field.name), f"{at}.{field.name}" if at else field.name)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _figures(item, f"{at}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for place, item in enumerate(value):
            yield from _figures(item, f"{at}.{place}")


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
