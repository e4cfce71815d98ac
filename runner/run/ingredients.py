# SPDX-License-Identifier: Apache-2.0
"""Ingredients: the inputs that a notebook's results depend on, and the resume key computed from them.

Each ingredient has a readable name and a short value: a text, or a hash of content or secrets. Two runs with the same
key produce the same results, as far as their inputs are declared. Markdown, comments, ports of the mirror and the path
of the checkout are not included.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.core.errors import RunnerError
from runner.core.notebook_document import execution_settings
from runner.data import cache
from runner.stages.execute.kernel import python_of, runs_here
from runner.stages.prepare import parameters, products
from runner.stages.prepare.cell_source import parse
from runner.stages.prepare.prepare import prepare
from runner.stages.record import provenance

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.hash_cache import HashCache
    from runner.core.records import Metrics
    from runner.plan.job import Job
    from runner.plan.model import Notebook, Plan
    from runner.run.preflight import Checked

KEY_VERSION = "1"
CELLS, BEFORE_PARAMETERS = "cells", "cells before parameters"
PACKAGES, GPUS, FILE, PRODUCT, NEED = "packages", "gpus", "file ", "product ", "need "
MISSING = "missing"
_EXPLAIN_ONLY = frozenset({BEFORE_PARAMETERS})
_DROPPED, _INSERTED = "-", "+"
_LAYOUT = frozenset({tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The current ingredients of a notebook, and the packages behind their hash."""

    ingredients: Mapping[str, str]
    packages: Mapping[str, str] | None

    @property
    def key(self) -> str:
        """The resume key."""
        return key_of(self.ingredients)


def key_of(ingredients: Mapping[str, str]) -> str:
    """Return the resume key of a set of ingredients."""
    counted = {name: value for name, value in ingredients.items() if name not in _EXPLAIN_ONLY}
    if CELLS in counted:  # empty and dropped cells have no effect
        counted[CELLS] = ",".join(cell.removeprefix(_INSERTED) for cell in counted[CELLS].split(",") if _runs(cell))
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def declared(job: Job, checked: Checked) -> Recipe:
    """Return the ingredients known before a notebook runs, without the content of inputs.

    Raises
    ------
    BrokenInputError
        The notebook cannot be prepared, or a dataset has changed.
    """
    prepared = prepare(checked.notebook, rules=job.rules, name=job.name).notebook
    before = _cells(prepared)
    list(parameters.apply(prepared, job.parameters, job.name))
    packages = _packages(checked.kernel, job.env)
    _, at, image_digest = os.environ.get("RUNNER_IMAGE", "").partition("@")
    found = {
        "key": KEY_VERSION,
        CELLS: _cells(prepared),
        BEFORE_PARAMETERS: before,
        "kernel": checked.kernel,
        PACKAGES: _hash(packages) if packages is not None else "cannot be listed",
        "working folder": _place(job.cwd, job.checkout),
        "secrets": ", ".join(sorted(job.secrets)),
        **({"image": image_digest} if at else {}),
        **({"report mode": "on"} if job.options.report_mode else {}),
        **({"errors": "allowed"} if job.allow_errors or _allows_errors(prepared.metadata) else {}),
        **{f"variable {name}": _hash(value) for name, value in job.env.items() if name not in job.secrets},
        **{f"dataset {name}": _dataset(job, name) for name in job.datasets},
    }
    return Recipe(ingredients=found, packages=packages)


def needed_products(job: Job) -> list[Path]:
    """Return the products of all needed notebooks, except those of the notebook itself."""
    if job.plan is None or job.entry is None:
        return []
    patterns = [pattern for need in _needed(job.plan, job.entry) for pattern in need.products]
    own = set(products.find(job.products, job.checkout))
    return [path for path in products.find(patterns, job.checkout) if path not in own]


def needs_without_products(job: Job, keys: Mapping[str, str]) -> dict[str, str]:
    """Return the keys of needed notebooks without declared products, in place of the products.

    Parameters
    ----------
    keys
        The key, else the run id, of each notebook's record.
    """
    if job.plan is None or job.entry is None:
        return {}
    bare = [need.name for need in _needed(job.plan, job.entry) if not need.products]
    return {NEED + name: keys.get(name) or MISSING for name in bare}


def content(paths: list[str], kind: str, checkout: Path, hashes: HashCache) -> dict[str, str]:
    """Return the hashes of files and folders of the checkout as ingredients of a kind."""
    found = {}
    for path in paths:
        try:
            found[kind + path] = hashes.digest(checkout / path)
        except OSError:
            found[kind + path] = MISSING
    return found


def gpus_now(job: Job, recorded: Metrics | None) -> str:
    """Return the GPUs that a run would get, as an ingredient: those of the recorded run if available."""
    from runner.core.requirements import gpus_wanted
    from runner.machine.gpus import DriverProblem, open_driver

    count = gpus_wanted(job.asked)
    if not count:
        return gpus([])
    try:
        with open_driver() as driver:
            here = [gpu.architecture for gpu in driver.visible(os.environ)]
    except DriverProblem:
        here = []
    if len(here) < count:
        return gpus([]) if job.asked.cpu_fallback else f"{count} needed, {len(here)} available"
    before = recorded.ingredients.get(GPUS) if recorded else None
    same = next((one for one in dict.fromkeys(here) if gpus([one] * count) == before and here.count(one) >= count), "")
    return gpus([same] * count if same else here[:count])


def gpus(architectures: list[str]) -> str:
    """Return number and architectures of GPUs as an ingredient."""
    kinds = {one: architectures.count(one) for one in sorted(architectures)}
    return ", ".join(f"{count} x {one}" for one, count in kinds.items()) or "none"


def cells(ingredient: str) -> Iterator[tuple[int | None, str]]:
    """Yield number (None for an inserted cell) and hash of the cells that run."""
    number = 0
    for cell in ingredient.split(","):
        number += not cell.startswith(_INSERTED)
        if _runs(cell):
            yield (None, cell[1:]) if cell.startswith(_INSERTED) else (number, cell)


def _runs(cell: str) -> bool:
    return cell not in {"", _DROPPED}


def _cells(notebook: NotebookNode) -> str:
    metadata = notebook.metadata
    language = (metadata.get("kernelspec") or {}).get("language") or (metadata.get("language_info") or {}).get("name")
    in_python = (language or "python").lower() == "python"
    return ",".join(_cell(cell, in_python=in_python) for cell in notebook.cells if cell.cell_type == "code")


def _cell(cell: NotebookNode, *, in_python: bool) -> str:
    about = cell.metadata.get("runner", {})
    if "dropped" in about:
        return _DROPPED
    source = _normalized(cell.source) if in_python else cell.source.strip()
    if not source:
        return ""
    fails = "raises-exception" in cell.metadata.get("tags", []) or _allows_errors(cell.metadata)
    return (_INSERTED if "inserted" in about else "") + _hash([source, fails])


def _allows_errors(metadata: Mapping[str, Any]) -> bool:
    return bool(execution_settings(metadata).get("allow_errors"))


def _normalized(source: str) -> str:
    """Return the tokens of a pure Python cell, without comments and insignificant line breaks, else its source.

    A syntax tree would lose a semicolon at the end, which keeps IPython from showing the value.
    """
    parsed = parse(source)
    if parsed is None or parsed.has_magics:
        return source.strip()
    tokens = [
        (token.type, "" if token.type in _LAYOUT else token.string)
        for token in tokenize.generate_tokens(io.StringIO(source, newline="").readline)
        if token.type not in {tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}
    ]
    return repr(tokens) if any(kind != tokenize.NEWLINE for kind, _text in tokens) else ""


@functools.cache
def _here() -> Mapping[str, str]:
    return provenance.here()


def _packages(kernel: str, env: Mapping[str, str]) -> Mapping[str, str] | None:
    if runs_here(kernel) and "PYTHONPATH" not in env:
        return _here()
    program = python_of(kernel)
    if program is None:
        return None
    return provenance.of_python(program, env.get("PYTHONPATH", os.environ.get("PYTHONPATH")))


def _dataset(job: Job, name: str) -> str:
    """Return the hash of a staged dataset, else that of its declaration in the plan."""
    dataset = job.datasets[name]
    if job.cache is not None:
        try:
            staged = cache.lookup(name, dataset, job.cache)
        except (OSError, RunnerError):
            staged = None
        return staged.sha256 if staged else MISSING
    return _hash([dataset.url, dataset.sha256, dataset.md5])


def _needed(plan: Plan, entry: Notebook) -> list[Notebook]:
    """Return all direct and indirect needs of a notebook, in the plan's order."""
    wanted, found = list(entry.needs), set[str]()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += plan.notebook(name).needs
    return [notebook for notebook in plan.notebooks if notebook.name in found]


def _place(path: Path, checkout: Path) -> str:
    place = path.resolve()
    root = checkout.resolve()
    return str(PurePosixPath(place.relative_to(root)) if place.is_relative_to(root) else place)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:32]
