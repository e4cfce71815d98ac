# SPDX-License-Identifier: Apache-2.0
"""Comparison of texts, tables and trees: numbers with a tolerance, words exactly, volatile parts such as times not."""

from __future__ import annotations

import csv
import gzip
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner.compare.verdict import Outcome, Tolerance, Verdict, verdict
from runner.core.surrogates import without_colours
from runner.core.units import format_count

MOST_CHARS = 2_000_000
"""Longer texts are compared exactly."""
_MOST_LEAVES = 1_000_000
_LONGEST_LINE = 10_000_000
_VOLATILE = re.compile(
    r"0x[0-9a-fA-F]{6,16}\b"  # addresses
    r"|\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"  # dates
    r"|\b\d{1,2}:\d\d:\d\d(?:[.,]\d{1,9})?"  # times of day
    r"|\b\d{1,9}(?:\.\d{1,20})?\s?(?:ns|[uµμ]s|ms|s|sec|secs|seconds?|minutes?|min|hours?|h|it/s|s/it)\b"  # durations
    r"|\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # uuids
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,4})?(?![\w])")
_SPACE = re.compile(r"[ \t]+|-{3,}")
_ID = re.compile(r'\bid="([^"]{1,200})"')
_SVG_NOTES = tuple(
    (re.compile(opening), re.compile(closing))
    for opening, closing in (("<metadata>", "</metadata>"), ("<!--", "-->"), (r"<\?", r"\?>"))
)


def compare_texts(part: str, old: str, new: str, tolerance: Tolerance) -> Verdict:
    """Compare two texts."""
    if old == new:
        return verdict(part, Outcome.EQUAL)
    if max(len(old), len(new)) > MOST_CHARS:
        return verdict(part, Outcome.DIFFERENT, f"texts of {len(old):,} → {len(new):,} characters")
    one, two = _without_volatile(old), _without_volatile(new)
    if one == two:
        return verdict(part, Outcome.TOLERATED, "except for times, addresses and spaces")
    numbers = 0
    for number, (before, after) in enumerate(itertools.zip_longest(one.split("\n"), two.split("\n")), 1):
        if before == after:
            continue
        if before is None or after is None:
            change = f"added: {after!r:.100}" if before is None else f"removed: {before!r:.100}"
            return verdict(part, Outcome.DIFFERENT, f"line {number} {change}")
        if not _lines_equal(before, after, tolerance):
            return verdict(part, Outcome.DIFFERENT, f"line {number} {before.strip()!r:.100} → {after.strip()!r:.100}")
        numbers += 1
    return verdict(part, Outcome.TOLERATED, f"numbers differ in {format_count(numbers, 'line')}")


def near_numbers(old: float, new: float, tolerance: Tolerance) -> bool:
    """Return True if two numbers are equal within the tolerance."""
    if old == new or (old != old and new != new):  # noqa: PLR0124  (NaN)
        return True
    return abs(old - new) <= tolerance.absolute + tolerance.relative * max(abs(old), abs(new)) < float("inf")


def near_cells(old: str, new: str, tolerance: Tolerance) -> bool:
    """Return True if two cells of a table are the same string, or numbers equal within the tolerance."""
    if old == new:
        return True
    try:
        return near_numbers(float(old), float(new), tolerance)
    except ValueError:
        return False


def compare_svg(part: str, old: str, new: str, tolerance: Tolerance) -> Verdict:
    """Compare two drawings by their text, ignoring random ids, comments and metadata."""
    if max(len(old), len(new)) > MOST_CHARS * 5:
        return verdict(part, Outcome.EQUAL if old == new else Outcome.DIFFERENT)
    found = compare_texts(part, _without_ids(old), _without_ids(new), tolerance)
    if found.outcome is Outcome.EQUAL and old != new:
        return verdict(part, Outcome.TOLERATED, "except for ids and metadata")
    return found


def compare_trees(part: str, old: Any, new: Any, tolerance: Tolerance) -> Verdict:
    """Compare two JSON-like values leaf by leaf."""
    changed = 0
    for count, (path, before, after) in enumerate(_leaves("", old, new)):
        if count > _MOST_LEAVES:
            return verdict(part, Outcome.UNKNOWN, f"more than {_MOST_LEAVES:,} values")
        if before == after and isinstance(before, bool) == isinstance(after, bool):
            continue
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (before, after))
        if not numbers or not near_numbers(float(before), float(after), tolerance):
            return verdict(part, Outcome.DIFFERENT, f"{path.lstrip('.') or 'value'}: {before!r:.80} → {after!r:.80}")
        changed += 1
    return verdict(part, Outcome.TOLERATED if changed else Outcome.EQUAL, f"{changed} numbers" if changed else "")


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


def _leaves(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from _leaves(f"{path}.{key}", old.get(key, _Missing()), new.get(key, _Missing()))
    elif isinstance(old, list) and isinstance(new, list):
        for place, (before, after) in enumerate(itertools.zip_longest(old, new, fillvalue=_Missing())):
            yield from _leaves(f"{path}[{place}]", before, after)
    else:
        yield path, old, new


def _lines_equal(old: str, new: str, tolerance: Tolerance) -> bool:
    """Return True if two lines have the same words and their numbers are equal within the tolerance."""
    if _NUMBER.sub("#", old) != _NUMBER.sub("#", new):
        return False
    pairs = zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True)
    return all(near_cells(before, after, tolerance) for before, after in pairs)


def _without_volatile(text: str) -> str:
    """Return a text without volatile parts; of a line with carriage returns only the last state."""
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in without_colours(text).split("\n"))
    kept = (_SPACE.sub(" ", _VOLATILE.sub("~", line)).rstrip() for line in lines)
    return "\n".join(kept).strip("\n")


def without(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    """Remove the text between two marks, in linear time even if they are not closed."""
    first, *others = opening.split(text)
    return first + "".join(closing.split(other, maxsplit=1)[-1] for other in others)


def _without_ids(text: str) -> str:
    for opening, closing in _SVG_NOTES:
        text = without(text, opening, closing)
    numbers = {name: f"id{number}" for number, name in enumerate(dict.fromkeys(_ID.findall(text)))}
    replace: Callable[[re.Match[str]], str] = lambda match: match[1] + numbers.get(match[2], match[2]) + match[3]  # noqa: E731
    return re.sub(r'(id="|#)([^"\s)#]{1,200})(["\s)])', replace, text)


def compare_tables(part: str, old: Path, new: Path, tolerance: Tolerance) -> Verdict:
    """Compare two CSV or TSV files, which may be gzipped, without loading them as a whole."""
    rows = cells = changed = tolerated = 0
    first, names = "", list[str]()
    order = [0, 0]
    for before, after in itertools.zip_longest(_rows(old), _rows(new)):
        if before is None or after is None:
            first = first or f"row {rows + 1:,} {'added' if before is None else 'removed'}"
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
        return verdict(part, Outcome.TOLERATED, f"the same {rows:,} rows in a different order")
    if changed:
        return verdict(part, Outcome.DIFFERENT, f"{changed:,} of {cells:,} cells; {first}", scores={"cells": changed})
    shown = f"numbers differ in {tolerated:,} of {cells:,} cells" if tolerated else f"{rows:,} rows"
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
