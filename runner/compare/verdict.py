# SPDX-License-Identifier: Apache-2.0
"""Verdicts of a comparison, one for each part of a result, and tolerances."""

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
    """Outcome of comparing two parts, best first."""

    EQUAL = "equal"
    TOLERATED = "equal within tolerance"
    UNKNOWN = "not compared"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Tolerances of all comparisons."""

    relative: float = 1e-5
    """Numbers: difference relative to the larger one."""
    absolute: float = 1e-8
    """Numbers: additional absolute difference."""
    ari: float = 1.0
    """Labels: smallest adjusted Rand index."""
    procrustes: float = 1e-3
    """Embeddings: largest Procrustes distance."""
    neighbours: float = 0.95
    """Embeddings: smallest fraction of shared nearest neighbours."""
    figure: float = 0.02
    """Figures: largest distance of the perceptual hashes."""

    @classmethod
    def of(cls, given: Iterable[tuple[str, float]]) -> Tolerance:
        """Return the defaults with some of them replaced by name.

        Raises
        ------
        UsageError
            A name is unknown.
        """
        names = [one.name for one in dataclasses.fields(cls)]
        values = dict(given)
        for name in values:
            if name not in names:
                hint = f"{did_you_mean(name, names)}choose from {', '.join(names)}"
                raise UsageError(f"unknown tolerance {name!r}", hint=hint)
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Contingency table of the largest old and new labels."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """A row for each old label."""
    left_out: int = 0
    """Members of smaller labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on one part of a result."""

    part: str
    outcome: Outcome
    detail: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    crossing: Crossing | None = None
    figures: tuple[bytes, bytes] | None = None
    """Thumbnails of the old and the new figure as PNG, if they differ."""

    def __str__(self) -> str:
        text = f"{self.outcome}: {self.detail}" if self.detail else str(self.outcome)
        return printable(f"{self.part}: {text}" if self.part else text)


def verdict(part: str, outcome: Outcome, detail: str = "", **more: Any) -> Verdict:
    """Return a verdict with printable texts of bounded length."""
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
        """The worst outcome of its verdicts."""
        return worst(one.outcome for one in self.verdicts)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst outcome; EQUAL if there are none."""
    order = list(Outcome)
    return max(outcomes, key=order.index, default=Outcome.EQUAL)
