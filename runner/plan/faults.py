# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a plan: a line for each fault, with its place in the file, its notebook and what was meant."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from runner.core import safe_yaml
from runner.core.errors import PlanError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import ValidationError

    from runner.plan.text import PlanText

_SHOWN = 20
"""Faults of one plan; what comes after them is counted."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them, at a key path such as ``("notebooks", 0, "timeout")``."""

    at: Path
    text: str


class FaultyError(ValueError):
    """A part of a plan that is checked before the rest, and what is wrong with it."""

    def __init__(self, at: Path, text: str) -> None:
        super().__init__(text)
        self.fault = Fault(at, text)


def error_of(faults: Iterable[Fault], text: PlanText, origins: Sequence[int] = ()) -> PlanError:
    """Return the error that names all of them, each once, in the order of the file.

    Parameters
    ----------
    origins
        The number in the file of each notebook, where sweeps made several of one.
    """
    placed = {}
    node = safe_yaml.tree(text.text)
    for fault in faults:
        at = fault.at
        if at[:1] == ("notebooks",) and len(at) > 1 and origins:
            at = ("notebooks", origins[int(at[1])], *at[2:])
        line, at = text.find(node, at)
        subject = _subject(at, text.document)
        placed[f"{text.place(line)}: {f'{subject}: ' if subject else ''}{fault.text}"] = line or 0
    lines = sorted(placed, key=lambda one: placed[one])
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    head = [] if len(lines) == 1 else [f"{text.where}: {len(lines)} errors"]
    return PlanError("\n".join([*head, *lines[:_SHOWN], *more]), hint="see `runner plan schema`")


def faults_of(error: ValidationError) -> list[Fault]:
    """Return what pydantic found."""
    found = []
    for fault in error.errors(include_url=False):
        at = tuple(part for part in fault["loc"] if part != "[key]")
        if fault["type"] == "extra_forbidden":
            meant = did_you_mean(str(at[-1]), _known_keys(at[:-1])).strip()
            found.append(Fault(at, f"unknown key{f' ({meant})' if meant else ''}"))
        elif fault["type"] == "missing":
            found.append(Fault(at, "is required"))
        else:
            what = fault["msg"].removeprefix("Value error, ")
            found.append(Fault(at, f"{what} (found {fault['input']!r:.80})"))
    return found


def _subject(at: Path, document: dict[str, Any]) -> str:
    """Return a key path in the words of the plan: ``notebook 'a': env.A``."""
    named = ""
    if len(at) > 2 and at[0] == "notebooks":
        notebooks = document["notebooks"]
        name = notebooks[at[1]].get("name") if isinstance(notebooks[at[1]], dict) else None
        if isinstance(name, str) and at[2] != "name":
            named, at = f"notebook {name!r:.80}: ", at[2:]
    return named + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".")


@functools.cache
def _schema() -> dict[str, Any]:
    """Return the published schema of a plan."""
    text = resources.files("runner.core").joinpath("schemas", "plan.json").read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def _known_keys(at: Path) -> list[str]:
    """Return the keys that a mapping of the plan may have."""
    node = _schema()
    for part in at:
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = (node.get("properties") or {}).get(part) or node.get("additionalProperties") or {}
        node = next((one for one in node.get("anyOf", ()) if one.get("type") != "null"), node)
        if "$ref" in node:
            node = _schema()["$defs"][node["$ref"].rpartition("/")[2]]
    return list(node.get("properties", {}))
