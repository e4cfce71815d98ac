# SPDX-License-Identifier: Apache-2.0
"""Texts: their numbers with a tolerance, their words exactly; what each run writes anew does not count."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from runner.compare.verdict import Outcome, Tolerance, Verdict, verdict
from runner.core.surrogates import without_colours

MOST_CHARS = 2_000_000
"""What is longer is compared as it is."""
_MOST_LEAVES = 1_000_000
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
    one, two = _lasting(old), _lasting(new)
    if one == two:
        return verdict(part, Outcome.TOLERATED, "but for times, addresses and spaces")
    numbers = 0
    for number, (before, after) in enumerate(itertools.zip_longest(one.split("\n"), two.split("\n")), 1):
        if before == after:
            continue
        if before is None or after is None:
            detail = f"line {number} {f'{after!r:.100} is new' if before is None else f'{before!r:.100} is gone'}"
            return verdict(part, Outcome.DIFFERENT, detail)
        if not _near(before, after, tolerance):
            return verdict(part, Outcome.DIFFERENT, f"line {number} {before.strip()!r:.100} → {after.strip()!r:.100}")
        numbers += 1
    return verdict(part, Outcome.TOLERATED, f"numbers in {numbers} lines differ within it")


def near_numbers(old: float, new: float, tolerance: Tolerance) -> bool:
    """Return True if two numbers are the same within the tolerance."""
    if old == new or (old != old and new != new):  # noqa: PLR0124  (NaN)
        return True
    return abs(old - new) <= tolerance.absolute + tolerance.relative * max(abs(old), abs(new)) < float("inf")


def near_cells(old: str, new: str, tolerance: Tolerance) -> bool:
    """Return True if two cells of a table are the same text, or numbers within the tolerance."""
    if old == new:
        return True
    try:
        return near_numbers(float(old), float(new), tolerance)
    except ValueError:
        return False


def compare_svg(part: str, old: str, new: str, tolerance: Tolerance) -> Verdict:
    """Compare two drawings by their text; their random ids and their notes do not count."""
    if max(len(old), len(new)) > MOST_CHARS * 5:
        return verdict(part, Outcome.EQUAL if old == new else Outcome.DIFFERENT)
    found = compare_texts(part, _without_ids(old), _without_ids(new), tolerance)
    return verdict(part, Outcome.TOLERATED, "but for ids and notes") if found.outcome is Outcome.EQUAL != old else found


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


def _near(old: str, new: str, tolerance: Tolerance) -> bool:
    """Return True if two lines have the same words and, within the tolerance, the same numbers."""
    if _NUMBER.sub("#", old) != _NUMBER.sub("#", new):
        return False
    pairs = zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True)
    return all(near_cells(before, after, tolerance) for before, after in pairs)


def _lasting(text: str) -> str:
    """Return what of a text another run would write again; of a line that is overwritten, what remained."""
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1] for line in without_colours(text).split("\n"))
    kept = (_SPACE.sub(" ", _VOLATILE.sub("~", line)).rstrip() for line in lines)
    return "\n".join(kept).strip("\n")


def without(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    """Return a text without what is between two marks, in linear time even where none closes."""
    first, *others = opening.split(text)
    return first + "".join(closing.split(other, maxsplit=1)[-1] for other in others)


def _without_ids(text: str) -> str:
    for opening, closing in _SVG_NOTES:
        text = without(text, opening, closing)
    numbers = {name: f"id{number}" for number, name in enumerate(dict.fromkeys(_ID.findall(text)))}
    replace: Callable[[re.Match[str]], str] = lambda match: match[1] + numbers.get(match[2], match[2]) + match[3]  # noqa: E731
    return re.sub(r'(id="|#)([^"\s)#]{1,200})(["\s)])', replace, text)
