# SPDX-License-Identifier: Apache-2.0
"""Embeddings: what turning, mirroring and scaling change is no difference; who is near whom is."""

from __future__ import annotations

from typing import Any

import numpy as np

from runner.compare.verdict import Outcome, Tolerance, Verdict, verdict

MOST_ROWS = 10_000
"""Evenly taken from larger embeddings."""
_QUERIES = 1_000
_NEIGHBOURS = 15
_MOST_DIMENSIONS = 1_000


def compare_embeddings(part: str, old: Any, new: Any, tolerance: Tolerance, numbers: Verdict) -> Verdict:
    """Compare two embeddings whose rows belong together.

    Parameters
    ----------
    numbers
        What the comparison of the plain numbers said, which stands where there is too little to judge otherwise.
    """
    usable = np.isfinite(old).all(axis=1)
    if (usable != np.isfinite(new).all(axis=1)).any() or max(old.shape[1], new.shape[1]) > _MOST_DIMENSIONS:
        return numbers
    old, new = old[usable].astype(np.float64), new[usable].astype(np.float64)
    if len(old) < 5 or not np.ptp(old, axis=0).any() or not np.ptp(new, axis=0).any():
        return numbers
    from scipy.spatial import procrustes

    kept = neighbours_kept(old, new)
    scores, texts = {"neighbours": kept}, [f"{kept:.0%} of neighbours kept"]
    near = kept >= tolerance.neighbours
    if old.shape[1] == new.shape[1]:
        distance = float(procrustes(old, new)[2])
        scores["procrustes"] = distance
        texts.insert(0, f"Procrustes distance {distance:.2g}")
        near = near and distance <= tolerance.procrustes
    else:
        texts.insert(0, f"{old.shape[1]} → {new.shape[1]} dimensions")
        near = False
    return verdict(part, Outcome.TOLERATED if near else Outcome.DIFFERENT, ", ".join(texts), scores=scores)


def neighbours_kept(old: Any, new: Any) -> float:
    """Return the share of the nearest neighbours of a sample of rows that are near in both embeddings."""
    from sklearn.neighbors import NearestNeighbors

    count = min(_NEIGHBOURS, len(old) - 1)
    asked = np.unique(np.linspace(0, len(old) - 1, _QUERIES).astype(int))
    # One more than asked for: each row is its own nearest neighbour, or one of those in the same place is.
    one, two = (
        NearestNeighbors(n_neighbors=count + 1).fit(rows).kneighbors(rows[asked], return_distance=False)
        for rows in (old, new)
    )
    shared = sum(
        len(set(a) & set(b) - {row}) for row, a, b in zip(asked.tolist(), one.tolist(), two.tolist(), strict=True)
    )
    return min(1.0, shared / (count * len(asked)))  # rows in one place may hide each other
