# SPDX-License-Identifier: Apache-2.0
"""Blockwise comparison of numbers with a relative and an absolute tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np

from runner.compare.verdict import Outcome, Tolerance, Verdict, verdict


class Deviation:
    """Differences of numbers, accumulated over blocks."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.count = 0
        self.changed = 0
        self.outside = 0
        self.undefined = 0
        """Numbers that are NaN or infinite on one side only."""
        self.absolute = 0.0
        self.relative = 0.0

    def add(self, old: Any, new: Any, count: int | None = None) -> None:
        """Add two arrays of the same shape; ``count`` includes numbers that are not stored, such as zeros."""
        self.count += old.size if count is None else count
        # NaN equals NaN here.
        changed = (old != new) & ~((old != old) & (new != new))  # noqa: PLR0124
        if not changed.any():
            return
        kind = np.complex128 if np.iscomplexobj(old) or np.iscomplexobj(new) else np.float64
        a, b = old[changed].astype(kind), new[changed].astype(kind)
        finite = np.isfinite(a) & np.isfinite(b)
        self.changed += a.size
        undefined = int(a.size - finite.sum())
        self.undefined += undefined
        a, b = a[finite], b[finite]
        with np.errstate(over="ignore", invalid="ignore"):
            apart, larger = np.abs(a - b), np.maximum(np.abs(a), np.abs(b))
            outside = ~(apart <= self._tolerance.absolute + self._tolerance.relative * larger)
            self.outside += undefined + int(outside.sum())
            if a.size:
                self.absolute = max(self.absolute, float(apart.max()))
                self.relative = max(self.relative, float((apart / np.where(larger > 0, larger, 1)).max()))

    @property
    def outcome(self) -> Outcome:
        """The outcome so far."""
        return Outcome.DIFFERENT if self.outside else Outcome.TOLERATED if self.changed else Outcome.EQUAL

    def verdict(self, part: str, note: str = "") -> Verdict:
        """Return the verdict.

        Parameters
        ----------
        note
            Another difference, such as the type, with which the numbers are not simply equal.
        """
        largest = f"by at most {self.absolute:.3g} (relative {self.relative:.2g})"
        if self.outside:
            texts = [f"{self.outside:,} of {self.count:,} numbers outside the tolerance"]
            texts += [f"{self.undefined:,} of them NaN or infinite on one side only"] if self.undefined else []
            texts += [largest] if self.absolute else []
        else:
            texts = [f"{self.changed:,} of {self.count:,} numbers differ, {largest}"] if self.changed else []
        outcome = Outcome.TOLERATED if note and self.outcome is Outcome.EQUAL else self.outcome
        scores = {"largest_absolute": self.absolute, "largest_relative": self.relative, "outside": self.outside}
        detail = "; ".join([*texts, *([note] if note else [])])
        return verdict(part, outcome, detail, scores=scores if self.changed else {})


def compare_numbers(part: str, old: Any, new: Any, tolerance: Tolerance) -> Verdict:
    """Compare two arrays or numbers in memory."""
    old, new = np.asarray(old), np.asarray(new)
    if old.shape != new.shape:
        return verdict(part, Outcome.DIFFERENT, f"shape {old.shape} → {new.shape}")
    deviation = Deviation(tolerance)
    deviation.add(np.atleast_1d(old), np.atleast_1d(new))
    return deviation.verdict(part, type_note(old.dtype, new.dtype))


def type_note(old: Any, new: Any) -> str:
    """Return the change of a type, ignoring byte order; empty if there is none."""
    return "" if old.newbyteorder("=") == new.newbyteorder("=") else f"{old} → {new}"
