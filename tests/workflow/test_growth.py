# SPDX-License-Identifier: Apache-2.0
"""Costs of known growth are predicted from a sixteenth to a quarter of the size."""

from __future__ import annotations

import math

import pytest

from runner.workflow.forecast import growth

FULL = 1_000_000
SIZES = [FULL / 16, FULL / 8, FULL / 4]
LAWS = {
    "constant": lambda n: 5.0,
    "linear": lambda n: 2 + n * 1e-4,
    "n log n": lambda n: n * math.log(n) * 1e-5,
    "n^1.5": lambda n: 1 + n**1.5 * 1e-7,
    "quadratic": lambda n: 1 + n * n * 1e-10,
    "all at once": lambda n: 3 + n * 1e-4 + n * n * 1e-10,
}
ERRORS = [(0, 0, 0), (0.002, -0.002, 0.002), (-0.002, 0.001, 0.002)]


@pytest.mark.parametrize("errors", ERRORS, ids=str)
@pytest.mark.parametrize("law", LAWS)
def test_memory_is_predicted_within_a_tenth(law, errors):
    """Allocators are exact to some per mille."""
    cost = LAWS[law]
    measured = [cost(size) * (1 + error) for size, error in zip(SIZES, errors, strict=True)]
    found = growth(SIZES, measured, noise=0.002, floor=1e-3).at(FULL)
    assert found.value == pytest.approx(cost(FULL), rel=0.1)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("errors", [(0, 0, 0), (0.01, -0.01, 0.005), (-0.01, 0.0, 0.005)], ids=str)
@pytest.mark.parametrize("law", [law for law in LAWS if law != "all at once"])
def test_time_is_predicted_within_a_fifth(law, errors):
    """With noise of clocks and caches."""
    cost = LAWS[law]
    measured = [cost(size) * (1 + error) for size, error in zip(SIZES, errors, strict=True)]
    found = growth(SIZES, measured, noise=0.01, floor=1e-3).at(FULL)
    assert found.value == pytest.approx(cost(FULL), rel=0.2)


def test_small_costs_are_noise():
    """A millisecond that became two does not become a second."""
    found = growth(SIZES, [0.001, 0.002, 0.009], noise=0.01, floor=0.1)
    assert found.at(FULL).value < 0.2
    assert growth(SIZES, [0.0, 0.0, 0.0], noise=0.01, floor=0.1).at(FULL).value == 0
