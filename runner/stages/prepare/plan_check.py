# SPDX-License-Identifier: Apache-2.0
"""Check every rule, parameter, URL and path of a plan against a checkout, without running anything.

A rule that no longer matches is reported within a second, not after a queue and a download.
Problems are collected, not raised: a new version of the notebooks breaks several rules at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.core import notebook_document
from runner.core.errors import BrokenInputError
from runner.plan.sharing import case_clashes
from runner.plan.sources import Sources
from runner.stages.prepare import cell_source, dataset_urls, prepare, products
from runner.stages.prepare import parameters as parameter_values
from runner.stages.prepare import rules as plan_rules

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from runner.core.records import Change
    from runner.plan.model import Notebook, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem in a plan; ``where`` is the key path."""

    where: str
    message: str
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.severity}: {self.where}: {self.message}{hint}"


def check_plan(plan: Plan, checkout: Path, plan_file: Path | None = None) -> list[Problem]:
    """Return all problems of a plan with a checkout, in the plan's order.

    Parameters
    ----------
    plan_file
        The plan's own file, which no product may match.
    """
    problems = list(_datasets(plan))
    sources = Sources.of(plan, checkout, {plan_file.absolute(): "the plan"} if plan_file else None)
    problems += [
        Problem(
            where="products",
            message=f"{one!r} and {other!r} may be the same file: {checkout} ignores case",
            hint="use the same case for the same file, or different names",
        )
        for one, other in case_clashes(plan, checkout)
    ]
    for position, notebook in enumerate(plan.notebooks):
        problems += _notebook(plan, notebook, f"notebooks[{position}]", checkout, sources)
    return problems


def _datasets(plan: Plan) -> Iterator[Problem]:
    used = {name for notebook in plan.notebooks for name in notebook.datasets}
    for name, dataset in plan.datasets.items():
        where = f"datasets.{name}"
        if name not in used:
            yield Problem(where=where, message=f"no notebook uses {name!r}", severity="warning")
        if dataset.sha256 is None and dataset.md5 is None:
            message, hint = "has no checksum, so a change goes unnoticed", "`runner fetch` prints it"
            yield Problem(where=where, message=message, hint=hint, severity="warning")


def _notebook(plan: Plan, notebook: Notebook, where: str, checkout: Path, sources: Sources) -> list[Problem]:
    found = list(_paths(notebook, where, checkout, sources))
    try:
        source = notebook_document.read_notebook(checkout / notebook.path)
    except BrokenInputError as error:
        return [*found, Problem(where=f"{where}.path", message=error.message, hint=error.hint)]
    draft = prepare.prepare(source, name=notebook.name).notebook
    for cell in plan_rules.source_cells(draft, dropped=True):
        cell.metadata.runner.pop("dropped", None)  # rules apply before the default drops any

    def attempt(key: str, step: Callable[..., Iterable[Change]], *arguments: Any) -> None:
        try:
            list(step(draft, *arguments, notebook.name))
        except BrokenInputError as error:
            found.append(Problem(where=f"{where}.{key}", message=error.message, hint=error.hint))

    for number, rule in enumerate(notebook.prepare):
        attempt(f"prepare[{number}]", plan_rules.apply, [rule])
    list(prepare.drop(draft))
    for name, value in notebook.parameters.items():
        attempt(f"parameters.{name}", parameter_values.apply, {name: value})
    for name in notebook.datasets:
        dataset = plan.datasets[name]
        placed = {dataset.url} if dataset.in_no_source else set()
        attempt(f"datasets.{name}", dataset_urls.apply, {dataset.url: dataset.url}, placed)
    return [*found, *_broken_cells(source, draft, where)]


def _paths(notebook: Notebook, where: str, checkout: Path, sources: Sources) -> Iterator[Problem]:
    if notebook.cwd is not None and not (checkout / notebook.cwd).is_dir():
        yield Problem(where=f"{where}.cwd", message=f"{checkout / notebook.cwd} is not a folder")
    for clash in products.clashes(notebook.products, checkout, sources):
        yield Problem(where=f"{where}.products", message=str(clash), hint="write a narrower pattern")
    for file in notebook.expect.files:
        folders = [Path(file), *Path(file).parents]
        is_product = any(folder.match(pattern) for folder in folders for pattern in notebook.products)
        if not is_product and sources.within(Path(file)) is None:
            yield Problem(
                where=f"{where}.expect.files",
                message=f"{file} is expected but not a product: a leftover of an earlier run would pass for it",
                hint="also list it under `products`",
                severity="warning",
            )


def _broken_cells(source: NotebookNode, draft: NotebookNode, where: str) -> Iterator[Problem]:
    """Find cells that were valid Python before the rules and no longer are."""
    before = {cell.id: cell.source for cell in source.cells}
    for cell in plan_rules.running_cells(draft):
        was_python = cell.id not in before or cell_source.parse(before[cell.id]) is not None
        if was_python and before.get(cell.id) != cell.source and cell_source.parse(cell.source) is None:
            index = cell.metadata.runner.get("index")
            what = "an inserted cell" if index is None else f"code cell {index + 1} after the rules"
            yield Problem(
                where=f"{where}.prepare", message=f"{what} is not valid Python", hint="check `with` and `source`"
            )
