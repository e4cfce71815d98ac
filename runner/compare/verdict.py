# SPDX-License-Identifier: Apache-2.0
"""What a comparison says: one verdict for each part of a result, and how much may differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runner.core.errors import UsageError, did_you_mean
from runner.core.surrogates import printable, without_surrogates

EXTRA_HINT = "pip install 'rapids-notebook-runner[compare]'"
_DETAIL_CHARS = 300


class Outcome(StrEnum):
    """Whether two parts are the same, best first."""

    EQUAL = "equal"
    TOLERATED = "equal within tolerance"
    UNKNOWN = "not compared"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How much may differ."""

    relative: float = 1e-5
    """Of numbers: share of the larger one."""
    absolute: float = 1e-8
    """Of numbers: what may differ beside that share."""
    ari: float = 1.0
    """Of labels: the least adjusted Rand index."""
    procrustes: float = 1e-3
    """Of embeddings: the largest Procrustes distance."""
    neighbours: float = 0.95
    """Of embeddings: the least share of the nearest neighbours that stay."""
    figure: float = 0.02
    """Of figures: the largest share of the perceptual hash."""

    @classmethod
    def of(cls, given: Iterable[tuple[str, float]]) -> Tolerance:
        """Return the default with what is given by name.

        Raises
        ------
        UsageError
            A name is unknown.
        """
        names = [one.name for one in dataclasses.fields(cls)]
        values = dict(given)
        for name in values:
            if name not in names:
                hint = f"{did_you_mean(name, names)}there are {', '.join(names)}"
                raise UsageError(f"there is no tolerance {name!r}", hint=hint)
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """How many members each old and each new label have in common; the largest labels only."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """A row for each old label."""
    left_out: int = 0
    """Members of smaller labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one part of a result."""

    part: str
    outcome: Outcome
    detail: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    crossing: Crossing | None = None
    figures: tuple[bytes, bytes] | None = None
    """Small PNGs of the old and the new figure where they differ."""

    def __str__(self) -> str:
        text = f"{self.outcome}: {self.detail}" if self.detail else str(self.outcome)
        return printable(f"{self.part}: {text}" if self.part else text)


def verdict(part: str, outcome: Outcome, detail: str = "", **more: Any) -> Verdict:
    """Return a verdict whose texts can be shown."""
    if len(detail) > _DETAIL_CHARS:
        detail = detail[:_DETAIL_CHARS] + " …"
    return Verdict(
        part=printable(without_surrogates(part)), outcome=outcome, detail=printable(without_surrogates(detail)), **more
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileComparison:
    """All verdicts on one file, or folder of a zarr store."""

    path: str
    verdicts: tuple[Verdict, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of its verdicts."""
        return worst(one.outcome for one in self.verdicts)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst outcome; of none, that all is equal."""
    order = list(Outcome)
    return max(outcomes, key=order.index, default=Outcome.EQUAL)
