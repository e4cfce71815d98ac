# SPDX-License-Identifier: Apache-2.0
"""Annotations of cells and genes: labels compared by groups, embeddings by distances and nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from runner.compare.verdict import Crossing, Outcome, Tolerance, Verdict, verdict

_MOST_LABELS = 1000
"""Columns with more distinct values are not treated as groups."""
_SHOWN_LABELS = 30
_SHOWN_CHARS = 60
_MISSING = "(missing)"
MOST_ROWS = 10_000
"""Rows sampled evenly from larger embeddings."""
_QUERIES = 1_000
_NEIGHBOURS = 15
_MOST_DIMENSIONS = 1_000


def compare_labels(part: str, old: Any, new: Any, tolerance: Tolerance, note: str = "") -> Verdict:
    """Compare two columns of labels, categories or strings with aligned rows.

    Renumbered clusters are equal within tolerance; renamed groups are not.
    """
    old, new = _texts(old), _texts(new)
    changed = int((old != new).sum())
    if not changed:
        return verdict(part, Outcome.TOLERATED if note else Outcome.EQUAL, note)
    (old_codes, old_names), (new_codes, new_names) = pd.factorize(old), pd.factorize(new)
    count = f"{changed:,} of {len(old):,} differ"
    most = min(_MOST_LABELS, max(2, len(old) // 2))
    if len(old_names) > most or len(new_names) > most:
        first = int(np.flatnonzero(old != new)[0])
        return verdict(part, Outcome.DIFFERENT, f"{count}, first {old[first]!r:.60} → {new[first]!r:.60}")
    from sklearn.metrics import adjusted_rand_score

    ari = float(adjusted_rand_score(old_codes, new_codes))
    numbered = all(str(name).isdecimal() or name == _MISSING for name in (*old_names, *new_names))
    same_groups = _one_to_one(old_codes, new_codes)
    if same_groups and not numbered:
        outcome, detail = Outcome.DIFFERENT, f"the same groups with other names (ARI 1.00), {count}"
    elif same_groups:
        outcome, detail = Outcome.TOLERATED, "the same groups with other numbers (ARI 1.00)"
    else:
        outcome = Outcome.TOLERATED if ari >= tolerance.ari else Outcome.DIFFERENT
        shown = f"{ari:.2f}" if ari < 0.995 else f"{ari:.4f}"
        groups = f", {len(old_names)} → {len(new_names)} groups" if len(old_names) != len(new_names) else ""
        detail = f"ARI {shown}, {count}{groups}"
    detail = f"{detail}; {note}" if note else detail
    crossing = _crossing(old_codes, old_names, new_codes, new_names)
    return verdict(part, outcome, detail, scores={"ari": ari, "changed": changed}, crossing=crossing)


def _texts(values: Any) -> Any:
    """Return an array of strings; missing values become `_MISSING`."""
    if isinstance(values, pd.Categorical):
        names = np.array([*map(str, values.categories), _MISSING], dtype=object)
        return names[values.codes]
    series = pd.Series(values, copy=False)
    missing = series.isna().to_numpy()
    texts = series.astype(str).to_numpy(dtype=object)
    return np.where(missing, _MISSING, texts) if missing.any() else texts


def _one_to_one(old: Any, new: Any) -> bool:
    pairs = len(np.unique(old.astype(np.int64) * (int(new.max()) + 1) + new))
    return pairs == len(np.unique(old)) == len(np.unique(new))


def _crossing(old: Any, old_names: Any, new: Any, new_names: Any) -> Crossing:
    """Return the contingency table of the largest labels, ordered by name."""
    rows, columns = _largest(old, old_names), _largest(new, new_names)
    table = np.zeros((len(old_names), len(new_names)), dtype=np.int64)
    np.add.at(table, (old, new), 1)
    shown = table[np.ix_(rows, columns)]
    return Crossing(
        old=tuple(str(old_names[row])[:_SHOWN_CHARS] for row in rows),
        new=tuple(str(new_names[column])[:_SHOWN_CHARS] for column in columns),
        counts=tuple(tuple(int(count) for count in row) for row in shown),
        left_out=int(table.sum() - shown.sum()),
    )


def _largest(codes: Any, names: Any) -> list[int]:
    sizes = np.bincount(codes, minlength=len(names))
    found = [int(code) for code in np.argsort(-sizes, kind="stable")[:_SHOWN_LABELS]]
    return sorted(found, key=lambda code: (not str(names[code]).isdecimal(), str(names[code]).zfill(12)))


def compare_embeddings(part: str, old: Any, new: Any, tolerance: Tolerance, numbers: Verdict) -> Verdict:
    """Compare two embeddings with aligned rows; rotation, reflection and scale are ignored.

    Parameters
    ----------
    numbers
        Verdict on the plain numbers, returned if the embeddings cannot be compared otherwise.
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
    near = False
    if old.shape[1] == new.shape[1]:
        distance = float(procrustes(old, new)[2])
        scores["procrustes"] = distance
        texts.insert(0, f"Procrustes distance {distance:.2g}")
        near = kept >= tolerance.neighbours and distance <= tolerance.procrustes
    else:
        texts.insert(0, f"{old.shape[1]} → {new.shape[1]} dimensions")
    return verdict(part, Outcome.TOLERATED if near else Outcome.DIFFERENT, ", ".join(texts), scores=scores)


def neighbours_kept(old: Any, new: Any) -> float:
    """Return the fraction of nearest neighbours that both embeddings share, for a sample of rows."""
    from sklearn.neighbors import NearestNeighbors

    count = min(_NEIGHBOURS, len(old) - 1)
    queries = np.unique(np.linspace(0, len(old) - 1, _QUERIES).astype(int))
    # One more, because each row is its own nearest neighbour, or one of its duplicates is.
    one, two = (
        NearestNeighbors(n_neighbors=count + 1).fit(rows).kneighbors(rows[queries], return_distance=False)
        for rows in (old, new)
    )
    shared = sum(
        len(set(a) & set(b) - {row}) for row, a, b in zip(queries.tolist(), one.tolist(), two.tolist(), strict=True)
    )
    return min(1.0, shared / (count * len(queries)))  # duplicate rows may displace each other
