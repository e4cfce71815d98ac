# SPDX-License-Identifier: Apache-2.0
"""From the notebook that is to the notebook that runs: rules, parameters, dataset URLs.

The source is never edited; what comes back is a copy without outputs, in which every code cell
carries in ``metadata.runner`` what later stages need to tell the cells apart:

- ``index``: its place among the source's code cells; cells added here have none;
- ``dropped``: why it is not to be run; it stays, so that the executed notebook shows it;
- ``inserted``: true for a cell that the source does not have.

Each change is recorded. A rule, parameter or dataset that matches nothing is an error: upstream
moved, and to go on silently would change the science.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbformat import NotebookNode

from runner.core.notebook_document import execution_settings, mark_skipped
from runner.core.surrogates import without_surrogates
from runner.stages.prepare import dataset_urls, shutdown
from runner.stages.prepare import parameters as parameter_values
from runner.stages.prepare import rules as plan_rules

if TYPE_CHECKING:
    from runner.core.records import Change
    from runner.plan import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A notebook ready to run, and what was done to it."""

    notebook: NotebookNode
    changes: tuple[Change, ...]


def prepare(
    notebook: NotebookNode,
    *,
    rules: Sequence[Rule] = (),
    parameters: Mapping[str, Any] | None = None,
    replacements: Mapping[str, str] | None = None,
    placed: Collection[str] = (),
    name: str = "notebook",
    hide_code: bool = False,
) -> Prepared:
    """Return a copy of the notebook with rules, parameters and dataset URLs applied, in this order.

    Parameters
    ----------
    notebook
        As `runner.core.notebook_document.read_notebook` gives it.
    rules
        The plan's rules; dropping the kernel's shutdown cell comes after them by itself.
    parameters
        Values for the notebook's variables.
    replacements
        Where each dataset's URL is served for this run.
    placed
        URLs that need not stand in the source, since a library finds the data by itself.
    name
        What to call the notebook in errors.
    hide_code
        Mark the sources of all code cells as hidden, as papermill's report mode does.

    Raises
    ------
    BrokenInputError
        A rule, parameter or URL matched nothing, or not as often as it says.
    """
    prepared = _copy(notebook)
    changes = [
        *_mend_characters(prepared),
        *_drop_skipped(prepared),
        *plan_rules.apply(prepared, rules, name),
        *shutdown.drop(prepared),
        *parameter_values.apply(prepared, parameters or {}, name),
        *dataset_urls.apply(prepared, replacements or {}, placed, name),
    ]
    for cell in prepared.cells if hide_code else ():
        if cell.cell_type == "code":
            jupyter = cell.metadata.get("jupyter")
            cell.metadata.jupyter = {**(jupyter if isinstance(jupyter, dict) else {}), "source_hidden": True}
    return Prepared(notebook=prepared, changes=tuple(changes))


def _mend_characters(notebook: NotebookNode) -> Iterator[Change]:
    """Put a question mark for each half of a character, which JSON can hold and no kernel can be sent."""
    for cell in plan_rules.running_cells(notebook):
        new = without_surrogates(cell.source)
        if new != cell.source:
            halves = [before for before, after in zip(cell.source, new, strict=True) if before != after]
            cell.source = new
            old = ascii("".join(dict.fromkeys(halves)))[1:-1]
            yield plan_rules.change("replace", "half a character -> '?'", cell, times=len(halves), old=old, new="?")


def _drop_skipped(notebook: NotebookNode) -> Iterator[Change]:
    """Take out what the author tagged to be skipped, before rules and parameters look for what runs."""
    for cell in mark_skipped(notebook):
        yield plan_rules.mark_dropped(cell, cell.metadata.runner.dropped)


def _copy(notebook: NotebookNode) -> NotebookNode:
    """Copy without outputs and without what an earlier run left in the metadata."""
    cells = []
    index = 0
    for cell in notebook.cells:
        kept = NotebookNode({key: value for key, value in cell.items() if key not in {"outputs", "metadata"}})
        kept.metadata = copy.deepcopy(cell.metadata)
        for left in ("papermill", "execution", "runner"):
            kept.metadata.pop(left, None)
        if cell.cell_type == "code":
            kept.outputs, kept.execution_count = [], None
            kept.metadata.runner = NotebookNode(index=index, **execution_settings(cell.metadata))
            index += 1
        cells.append(kept)
    fields = {key: value for key, value in notebook.items() if key not in {"cells", "metadata"}}
    metadata = {key: value for key, value in notebook.metadata.items() if key not in {"papermill", "widgets"}}
    return NotebookNode({**fields, "metadata": copy.deepcopy(NotebookNode(metadata)), "cells": cells})
