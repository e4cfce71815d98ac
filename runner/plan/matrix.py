# SPDX-License-Identifier: Apache-2.0
"""Sweeps: a notebook with a `matrix` of parameters is expanded into one notebook per combination."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from runner.core.errors import did_you_mean
from runner.plan.faults import FaultyError, Path

LIMIT = 256
"""Most combinations of one notebook."""
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}", re.ASCII)
"""Placeholder for a parameter's value in a name, folder or path."""
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


def expanded(notebooks: list[Any]) -> tuple[list[Any], list[int]]:
    """Return a plan's notebooks with sweeps expanded, and for each the position of its entry in the plan.

    A notebook that needs a sweep needs all its combinations. A combination is named NAME-VALUE-VALUE, or by a name
    with ``{parameter}``, which is also replaced in products, expected files and variables.

    Raises
    ------
    FaultyError
        A matrix is invalid, or has no or too many combinations.
    """
    result: list[Any] = []
    origins: list[int] = []
    names: dict[Any, list[str]] = {}
    for position, entry in enumerate(notebooks):
        matrix = entry.get("matrix") if isinstance(entry, dict) else None
        if matrix is None:
            result.append(entry)
            origins.append(position)
            continue
        found = [_combination(entry, each) for each in _combinations(matrix, ("notebooks", position, "matrix"))]
        if isinstance(entry.get("name"), str):
            names[entry["name"]] = [each["name"] for each in found]
        result += found
        origins += [position] * len(found)
    return [_with_needs(entry, names) for entry in result], origins


def _combinations(matrix: Any, at: Path) -> list[dict[str, Any]]:
    if not isinstance(matrix, dict) or not all(isinstance(values, list) for values in matrix.values()):
        raise FaultyError(at, "is not a mapping of parameters to lists (write it like {n_top_genes: [1000, 2000]})")
    more, less = matrix.get("include", []), matrix.get("exclude", [])
    if not all(isinstance(each, dict) for each in (*more, *less)):
        raise FaultyError(at, "include and exclude are lists of mappings of parameters to values")
    axes = {key: values for key, values in matrix.items() if key not in {"include", "exclude"}}
    for name in sorted({str(key) for each in less for key in each} - set(map(str, axes))):
        known = list(map(str, axes))
        raise FaultyError(
            (*at, "exclude"), f"unknown parameter {name!r} ({did_you_mean(name, known)}it has {', '.join(known)})"
        )
    count = len(more)
    if axes:
        product = 1
        for values in axes.values():
            product = min(product * len(values), 1_000_000)
        count += product
    if not 0 < count <= LIMIT:
        raise FaultyError(at, f"{count} combinations, allowed are 1 to {LIMIT} (split or shorten the sweep)")
    full = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else []
    kept = [each for each in full if not any(each.items() >= dict(gone).items() for gone in less)]
    found = [*kept, *more]
    if not found:
        raise FaultyError((*at, "exclude"), "leaves no combination (shorten it)")
    return found


def _combination(entry: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the notebook of one combination."""
    name = entry.get("name")
    if isinstance(name, str):
        name = _filled(name, values) if PLACEHOLDER.search(name) else "-".join([name, *map(_slug, values.values())])
    one = {key: value for key, value in entry.items() if key != "matrix"}
    one |= {"name": name, "parameters": {**(entry.get("parameters") or {}), **values}}
    for key in ("products", "expect", "env"):
        if key in entry:
            one[key] = _filled(entry[key], values)
    return one


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Replace placeholders in all strings of a part of a plan; unknown names stay."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: _slug(values[match[1]]) if match[1] in values else match[0], value)
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    return [_filled(item, values) for item in value] if isinstance(value, list) else value


def _slug(value: Any) -> str:
    """Return a value in a form that is valid in a file name."""
    return _ODD.sub("-", str(value)).strip("-.")[:40] or "empty"


def _with_needs(entry: Any, names: Mapping[Any, list[str]]) -> Any:
    needs = entry.get("needs") if isinstance(entry, dict) else None
    if not isinstance(needs, list) or not any(isinstance(need, str) and need in names for need in needs):
        return entry
    return {**entry, "needs": [name for need in needs for name in names.get(need, [need])]}
