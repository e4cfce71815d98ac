# SPDX-License-Identifier: Apache-2.0
"""How a cost grows with the size of its input, from a few measured sizes; pure.

Time and memory of an analysis are sums of a constant and of terms in n, n log n, n^1.5, n^2 or n^3. Pairs of
terms are fitted by least squares of the relative errors, without negative terms; of those that explain the
measurements the slowest growth is taken, and the interval holds what the others predict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runner.core.trials import Estimate

TERMS: dict[str, Callable[[float], float]] = {
    "1": lambda _: 1.0,
    "n": lambda n: n,
    "n log n": lambda n: n * math.log(n + 1),
    "n^1.5": lambda n: n**1.5,
    "n^2": lambda n: n**2,
    "n^3": lambda n: n**3,
}
"""From slow to fast growth."""
_MODELS: list[tuple[str, ...]] = [("1",), *((term,) for term in list(TERMS)[1:])]
_MODELS += [("1", term) for term in list(TERMS)[1:]] + [("n", term) for term in list(TERMS)[2:]] + [("1", "n", "n^2")]


@dataclass(frozen=True, slots=True)
class _Model:
    terms: tuple[str, ...]
    factors: tuple[float, ...]
    error: float

    def at(self, size: float) -> float:
        return sum(factor * TERMS[term](size) for term, factor in zip(self.terms, self.factors, strict=True))


@dataclass(frozen=True, slots=True)
class Growth:
    """The models that explain the measurements, the chosen one first."""

    models: tuple[_Model, ...]
    noise: float

    @property
    def law(self) -> str:
        """The fastest term that matters."""
        return self.models[0].terms[-1]

    def at(self, size: float) -> Estimate:
        """Return the cost of a size."""
        found = [model.at(size) for model in self.models]
        spread = 3 * (self.noise + self.models[0].error) * found[0]
        return Estimate(
            value=found[0], low=max(0.0, min(*found, found[0] - spread)), high=max(*found, found[0] + spread)
        )


def growth(sizes: Sequence[float], costs: Sequence[float], *, noise: float, floor: float) -> Growth:
    """Return how costs grow.

    Parameters
    ----------
    noise
        Relative error of a measurement. A faster growth must explain this much more for each step of `TERMS`.
    floor
        Costs below it count for nothing.
    """
    costs_array = np.asarray(costs, dtype=float)
    weights = 1 / np.maximum(costs_array, floor)
    scored: list[tuple[float, _Model]] = []
    for terms in _MODELS:
        matrix = np.array([[TERMS[term](size) for term in terms] for size in sizes])
        scale = matrix.max(axis=0)
        found = np.linalg.lstsq(matrix / scale * weights[:, None], costs_array * weights, rcond=None)[0]
        if (found >= 0).all():
            factors = found / scale
            error = float(np.sqrt(np.mean(((matrix @ factors - costs_array) * weights) ** 2)))
            steps = max(
                0, list(TERMS).index(terms[-1]) + len(terms) // 3 - 1
            )  # a constant is no simpler than a line that is flat
            scored.append((error + noise * steps / 2, _Model(terms, tuple(map(float, factors)), error)))
    scored.sort(key=lambda pair: pair[0])
    return Growth(tuple(model for score, model in scored if score <= scored[0][0] + 2 * noise), noise)
