# SPDX-License-Identifier: Apache-2.0
"""Faults of a plan: one line each with its place in the file, its notebook and a suggestion."""

from __future__ import annotations

import functools
import graphlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.core import safe_yaml
from runner.core.errors import PlanError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic import ValidationError

    from runner.plan.model import Plan
    from runner.plan.text import PlanText

_SHOWN = 20
"""Faults listed; further ones are only counted."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at a key path such as ``("notebooks", 0, "timeout")``."""

    at: Path
    text: str


class FaultyError(ValueError):
    """A fault in a part of a plan that is checked before the rest."""

    def __init__(self, at: Path, text: str) -> None:
        super().__init__(text)
        self.fault = Fault(at, text)


def error_of(faults: Iterable[Fault], text: PlanText, origins: Sequence[int] = ()) -> PlanError:
    """Return the error that lists all distinct faults in the order of the file.

    Parameters
    ----------
    origins
        Position in the file of each notebook, as sweeps expand one entry into several.
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
    """Return the faults in an error of pydantic."""
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


def graph_faults(plan: Plan) -> list[Fault]:
    """Return duplicate or unknown names, dependencies in a cycle or on later notebooks, and shared dataset paths."""
    return [*_names(plan), *_dataset_paths(plan)] or list(_order(plan))


def _names(plan: Plan) -> Iterator[Fault]:
    names = [notebook.name for notebook in plan.notebooks]
    for position, notebook in enumerate(plan.notebooks):
        at = ("notebooks", position)
        if notebook.name in names[:position]:
            yield Fault((*at, "name"), f"the name {notebook.name!r} appears twice; names are unique")
        for key, what, wanted, known in (
            ("needs", "notebook", notebook.needs, names),
            ("datasets", "dataset", notebook.datasets, list(plan.datasets)),
        ):
            for number, name in enumerate(wanted):
                if name not in known:
                    meant = f"{did_you_mean(name, known)}it has {', '.join(known) or 'none'}"
                    yield Fault((*at, key, number), f"unknown {what} {name!r} ({meant})")


def _dataset_paths(plan: Plan) -> Iterator[Fault]:
    taken: dict[PurePosixPath, str] = {}
    for name, dataset in plan.datasets.items():
        path = PurePosixPath(dataset.path)
        if path in taken:
            yield Fault(("datasets", name, "path"), f"{dataset.path!r} is also the path of {taken[path]!r}")
        taken[path] = name


def _order(plan: Plan) -> Iterator[Fault]:
    names = [notebook.name for notebook in plan.notebooks]
    try:
        graphlib.TopologicalSorter({notebook.name: notebook.needs for notebook in plan.notebooks}).prepare()
    except graphlib.CycleError as error:
        cycle = error.args[1]
        at = ("notebooks", names.index(cycle[0]), "needs")
        yield Fault(at, f"circular needs: {' -> '.join(cycle)}; remove one of them")
        return
    for position, notebook in enumerate(plan.notebooks):
        for number, need in enumerate(notebook.needs):
            if names.index(need) > position:
                why = "a plan is run from top to bottom; move it before this notebook"
                yield Fault(("notebooks", position, "needs", number), f"{need!r} comes later in the plan; {why}")


def _subject(at: Path, document: dict[str, Any]) -> str:
    """Return a key path as shown in messages: ``notebook 'a': env.A``."""
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
    """Return the allowed keys of a mapping in the plan."""
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
