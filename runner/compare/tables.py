# SPDX-License-Identifier: Apache-2.0
"""Tables as text, cell by cell, without reading them as a whole."""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from runner.compare.texts import near_cells
from runner.compare.verdict import Outcome, Tolerance, Verdict, verdict

_LONGEST_LINE = 10_000_000


def compare_tables(part: str, old: Path, new: Path, tolerance: Tolerance) -> Verdict:
    """Compare two tables of comma or tab separated values, also gzipped ones."""
    rows = cells = changed = tolerated = 0
    first, names = "", list[str]()
    order = [0, 0]
    for before, after in itertools.zip_longest(_rows(old), _rows(new)):
        if before is None or after is None:
            first = first or f"row {rows + 1:,} is {'new' if before is None else 'gone'}"
            changed += 1
            break
        rows += 1
        names = names or before
        for side, row in enumerate((before, after)):
            order[side] = (order[side] + _digest(row)) % 2**128
        if len(before) != len(after):
            first = first or f"row {rows:,} has {len(before)} → {len(after)} cells"
            changed += 1
            continue
        cells += len(before)
        for column, (a, b) in enumerate(zip(before, after, strict=True)):
            if a != b and near_cells(a, b, tolerance):
                tolerated += 1
            elif a != b:
                name = f" ({names[column]!r:.40})" if column < len(names) else ""
                first = first or f"first in row {rows:,}, column {column + 1}{name}: {a!r:.60} → {b!r:.60}"
                changed += 1
    if changed and order[0] == order[1] and not first.startswith("row"):
        return verdict(part, Outcome.TOLERATED, f"the same {rows:,} rows in another order")
    if changed:
        return verdict(part, Outcome.DIFFERENT, f"{changed:,} of {cells:,} cells; {first}", scores={"cells": changed})
    shown = f"{tolerated:,} of {cells:,} numbers differ within it" if tolerated else f"{rows:,} rows"
    return verdict(part, Outcome.TOLERATED if tolerated else Outcome.EQUAL, shown)


def _rows(path: Path) -> Iterator[list[str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    separator = "\t" if ".tsv" in path.suffixes or ".tab" in path.suffixes else ","
    with opener(path, "rt", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        lines = iter(lambda: stream.readline(_LONGEST_LINE), "")
        yield from csv.reader(_checked(lines), delimiter=separator)


def _checked(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if len(line) >= _LONGEST_LINE:
            raise ValueError(f"a line has more than {_LONGEST_LINE:,} characters")
        yield line


def _digest(row: list[str]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=16).digest(), "big")
