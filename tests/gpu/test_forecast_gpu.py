# SPDX-License-Identifier: Apache-2.0
"""On a real GPU: what `runner forecast` predicts is what a run of the full size then takes."""

from __future__ import annotations

import json

import pytest
from support import cli, notebooks
from support.realgpu import measured, needs, require

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(500)]


@pytest.fixture(autouse=True)
def device(request):
    """Need a GPU."""
    require(request)


CELLS = (
    "n = 1_000",
    "import cupy\ncupy.arange(10).sum()",
    "rows = cupy.random.rand(n, 500, dtype='f4')\nfor _ in range(2000):\n    rows * 2 + 1\ncupy.cuda.Device().synchronize()",
    "picked = rows[: n // 8]\nfor _ in range(60):\n    distances = picked @ picked.T\ncupy.cuda.Device().synchronize()",
)


def test_the_full_size_is_as_it_was_forecast(tmp_path):
    """A linear and a quadratic cell: the peak within a tenth, the time of the cells within a fifth."""
    needs("cupy")
    path = notebooks.write(tmp_path / "n.ipynb", *CELLS)
    common = (path, "--min-gpus", 1, "-p", "n", 800_000, "--output-dir", tmp_path / "out", "--allocator-probe", "exact")
    ended = cli.runner("forecast", *common, "--rows", "n", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    run = cli.runner("run", *common, "--no-html")
    assert run.code == 0, run.err
    record = cli.metrics(tmp_path / "out", "n")
    need = record["gpus"][0]["need_bytes"]
    took = sum(cell["wall_seconds"] for cell in record["cells"][2:])
    expected = sum(cell["seconds"]["value"] for cell in found["cells"][2:])
    measured(
        "forecast",
        peak=found["gpu_bytes"],
        need=need,
        expected_seconds=expected,
        took_seconds=took,
        largest=found["largest"],
    )
    assert found["gpu_source"] == "need"
    assert found["gpu_bytes"]["value"] == pytest.approx(need, rel=0.1)
    assert expected == pytest.approx(took, rel=0.2)
