# SPDX-License-Identifier: Apache-2.0
"""Explain why a notebook runs again: differences between the ingredients of its last success and now.

Pure functions from records to sentences, with old and new values if they can be shown.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner.run import ingredients as parts

if TYPE_CHECKING:
    from runner.core.records import Metrics
    from runner.run.ingredients import Recipe

_LISTED = 3
_SHOWN_CHARS = 60


def differences(
    old: Metrics, now: Recipe, *, parameters: Mapping[str, Any], variables: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the changes since a recorded success.

    Parameters
    ----------
    parameters, variables
        Current values, redacted as in a record.
    """
    before, after = old.ingredients, now.ingredients
    if before.get("key") != after["key"]:
        return ("it was recorded by a version of runner with other ingredients",)
    found: list[str] = []
    if parts.key_of({parts.CELLS: before.get(parts.CELLS, "")}) != parts.key_of({parts.CELLS: after[parts.CELLS]}):
        found += _sources(before, after, old.environment.parameters, parameters)
    for name in sorted({*before, *after} - {parts.CELLS, parts.BEFORE_PARAMETERS}, key=_rank):
        was, is_now = before.get(name), after.get(name)
        if was != is_now:
            found += _difference(name, was, is_now, old, now, variables)
    return tuple(found)


def _rank(name: str) -> tuple[int, str]:
    order = ("kernel", parts.PACKAGES, "image", "variable ", "secrets", parts.GPUS, "dataset ", parts.PRODUCT)
    return next((place for place, start in enumerate(order) if name.startswith(start)), len(order)), name


def _difference(
    name: str, was: str | None, is_now: str | None, old: Metrics, now: Recipe, variables: Mapping[str, str]
) -> Iterator[str]:
    kind, _, what = name.partition(" ")
    if name == parts.PACKAGES and now.packages is not None and old.versions:
        yield _packages(old.versions, now.packages)
    elif kind == "variable":
        yield _changed(f"variable {what}", old.environment.variables.get(what), variables.get(what))
    elif name.startswith(parts.PRODUCT):
        yield _content(what, was, is_now, "was rebuilt with different content")
    elif kind in {"file", "dataset"}:
        yield _content(what, was, is_now, "has changed")
    elif name.startswith(parts.NEED):
        yield f"{what}, which it needs and which declares no products, ran again"
    else:
        yield _changed(name, was, is_now)


def _content(what: str, was: str | None, is_now: str | None, otherwise: str) -> str:
    if is_now in {None, parts.MISSING}:
        return f"{what} is missing"
    return f"{what} is new" if was in {None, parts.MISSING} else f"{what} {otherwise}"


def _sources(
    before: Mapping[str, str], after: Mapping[str, str], old: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[str]:
    """Yield changed parameters and edited cells."""
    values = [_changed(f"parameter {name}", old.get(name), now.get(name)) for name in _unlike(old, now)]
    yield from values
    source = parts.CELLS if not values else parts.BEFORE_PARAMETERS
    edits = list(_edits(before.get(source, ""), after[source]))
    yield from edits[:_LISTED]
    if len(edits) > _LISTED:
        yield f"{len(edits) - _LISTED} more cells changed"


def _edits(before: str, after: str) -> Iterator[str]:
    old, new = list(parts.cells(before)), list(parts.cells(after))
    matcher = difflib.SequenceMatcher(None, [cell for _, cell in old], [cell for _, cell in new], autojunk=False)
    for tag, start, end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        both = min(end - start, new_end - new_start)
        yield from (f"{_cell(number)} changed" for number, _ in new[new_start : new_start + both])
        yield from (f"{_cell(number)} was added" for number, _ in new[new_start + both : new_end])
        yield from (f"{_cell(number)} was removed" for number, _ in old[start + both : end])


def _cell(number: int | None) -> str:
    return "an inserted cell" if number is None else f"cell {number}"


def _packages(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    names = _unlike(old, new)
    reported = [f"{name} {old.get(name, '(not installed)')} -> {new.get(name, '(not installed)')}" for name in names]
    more = f" and {len(reported) - _LISTED} more packages" if len(reported) > _LISTED else ""
    return ", ".join(reported[:_LISTED]) + more if reported else "packages changed"


def _unlike(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def _changed(what: str, old: Any, new: Any) -> str:
    if old is None or new is None:
        return f"{what} {'was added' if old is None else 'was removed'}"
    shown = [text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…" for text in map(_text, (old, new))]
    return f"{what} changed" + (f" {shown[0]} -> {shown[1]}" if shown[0] != shown[1] else "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
