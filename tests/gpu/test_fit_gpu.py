# SPDX-License-Identifier: Apache-2.0
"""On a real GPU: a process that holds memory leaves what a smaller card has, and `runner fit` proves cards by it."""

from __future__ import annotations

import json
import os

import pytest
from support import cli, notebooks
from support.realgpu import measured, needs, require

from runner.machine import gpus
from runner.machine.ballast import TOLERANCE_BYTES, Ballast

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(400)]


@pytest.fixture(autouse=True)
def device(request):
    """Need a GPU."""
    require(request)


@pytest.fixture
def whole():
    """Give the GPU of this test."""
    with gpus.open_driver() as driver:
        yield driver.visible(os.environ)[0]


def test_exactly_so_much_is_left_free(whole):
    """For the sizes of common cards, by NVML; afterwards all of it is free again."""
    before = whole.memory().free_bytes
    off = {}
    for card in (16, 24, 48):
        with Ballast(whole, card * 10**9):
            off[card] = whole.memory().free_bytes - card * 10**9
    measured("ballast", off_bytes=off, before=before, after=whole.memory().free_bytes)
    assert all(abs(one) <= TOLERANCE_BYTES for one in off.values())
    assert whole.memory().free_bytes >= before - TOLERANCE_BYTES


TAKE = "import cupy\nkept = [cupy.empty(2**30, 'u1') for _ in range(18)]\nfor one in kept:\n    one.fill(1)"


def fit(folder, *options):
    path = notebooks.write(folder / "nb" / "n.ipynb", TAKE, "sum(int(one[0]) for one in kept)")
    ended = cli.runner("fit", path, "--output-dir", folder / "outputs", *options, "--json")
    return ended, json.loads(ended.out)


def test_the_smallest_card_is_proved(tmp_path):
    """18 GiB in cupy's pool do not fit 16 GB, with the cell that fails and what it asked for; they fit 24 GB."""
    needs("cupy")
    ended, found = fit(tmp_path, "--cards", "16,24,48", "--allocator-probe", "exact")
    assert ended.code == 0, ended.err
    by_card = {one["card_gb"]: one for one in found["attempts"]}
    measured("fit", attempts=found["attempts"])
    assert found["smallest_card_gb"] == 24
    assert by_card[16]["cell"] == 1
    assert by_card[16]["asked_bytes"] == 2**30
    assert by_card[24]["status"] == "succeeded"
    assert [one.name for one in (tmp_path / "outputs").iterdir()] == ["n.fit.json"]


def test_the_bisected_limit_is_the_need(tmp_path):
    """In steps of 1 GB: the first size that is enough is at most one step and 5 % above what the run says it needs."""
    needs("cupy")
    sizes = ",".join(str(size) for size in range(16, 27))
    _, found = fit(tmp_path, "--cards", sizes, "--runs", "5", "--allocator-probe", "exact")
    proved = min((one for one in found["attempts"] if one["status"] == "succeeded"), key=lambda one: one["card_gb"])
    need, left = proved["need_bytes"], proved["left_bytes"]
    measured("bisected limit", need_bytes=need, left_bytes=left, runs=len(found["attempts"]))
    assert 0.95 * need <= left <= 1.05 * need + 10**9
