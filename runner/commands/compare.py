# SPDX-License-Identifier: Apache-2.0
"""`runner compare`: compare two results by meaning."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import option_types, options
from runner.commands.answer import answer
from runner.core.stop import ending_on_signals


@click.command("compare")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--tolerance",
    type=option_types.ToleratedDifference(),
    multiple=True,
    help="How much may differ: a number for the relative tolerance (1e-5), or NAME=NUMBER with absolute (1e-8), "
    "ari (1), procrustes (0.001), neighbours (0.95) or figure (0.02). Repeatable.",
)
@click.option("--html", type=options.FILE, help="Write a page with contingency tables and figures side by side.")
@click.option("--all", "every", is_flag=True, help="List equal parts too.")
@click.option("--fail-on-difference", is_flag=True, help="Exit 7 unless everything is equal within the tolerance.")
@options.as_json
@ending_on_signals()
def command(
    old: Path,
    new: Path,
    tolerance: tuple[tuple[str, float], ...],
    html: Path | None,
    every: bool,
    fail_on_difference: bool,
    as_json: bool,
) -> int:
    """Compare two results, files or folders, by meaning.

    AnnData (h5ad, zarr): cells and genes by name, labels by the adjusted Rand index, embeddings by Procrustes distance
    and shared neighbours, numbers within a tolerance. Figures by a perceptual hash, tables cell by cell, executed
    notebooks by their cells' outputs. The runner's own files in output folders are ignored.

    Exit code: 0; with --fail-on-difference 7 if anything differs or cannot be compared; 2 if there is nothing to
    compare.

    \b
    Examples:
      runner compare last-week outputs --html comparison.html
      runner compare last-week outputs --tolerance 1e-3 --tolerance ari=0.95 --fail-on-difference --json
    """
    import json

    from runner.compare.folders import as_tree, compare
    from runner.compare.verdict import Outcome, Tolerance
    from runner.core.files import write
    from runner.core.units import format_count

    found = compare(old, new, Tolerance.of(tolerance))
    if html is not None:
        from runner.compare.page import page

        write(html, page(found).encode())
    if as_json:
        answer(json.dumps(as_tree(found), indent=1))
    else:
        for file in found.files:
            if len(file.verdicts) == 1 and file.verdicts[0].part == "":
                answer(f"{file.path}: {file.verdicts[0]}")
                continue
            parts = f" ({format_count(len(file.verdicts), 'part')})" if len(file.verdicts) > 1 else ""
            answer(f"{file.path}: {file.outcome}{parts}")
            for one in file.verdicts:
                if every or one.outcome is not Outcome.EQUAL:
                    answer(f"  {one}")
    same = found.outcome in {Outcome.EQUAL, Outcome.TOLERATED}
    return 7 if fail_on_difference and not same else 0
