# SPDX-License-Identifier: Apache-2.0
"""`runner forecast`: planted costs on a simulated GPU are found again at the full size."""

from __future__ import annotations

import json

import pytest
import simdriver
from support import cli, notebooks

MEMORY = """\
import os, time
def hold(size):
    with open(os.environ["SIMULATED_NVML"] + ".allocations", "a") as stream:
        stream.write(f"{uuid} {os.getpid()} {int(size)}\\n")
    time.sleep(0.1)  # shorter cells can end between two samples
"""
LINEAR = "hold(1e9 + n * 20_000)"
QUADRATIC = "hold(2e9 + n * 10_000 + n * n * 0.03)"


@pytest.mark.skipif(simdriver.COMPILER is None, reason=simdriver.NO_COMPILER)
def test_memory_at_full_size_and_the_size_for_each_card(tmp_path):
    """A line and a parabola; files of the checkout and earlier outputs stay as they are."""
    device = simdriver.Device()
    driver = simdriver.SimulatedDriver(tmp_path, tmp_path)
    driver.write(device)
    checkout = tmp_path / "checkout"
    notebooks.write(
        checkout / "n.ipynb", "n = 1_000", f"uuid = {device.uuid!r}\n" + MEMORY, LINEAR, QUADRATIC, "hold(0)"
    )
    command = ("forecast", checkout / "n.ipynb", "--rows", "n", "--min-gpus", 1, "--output-dir", tmp_path / "outputs")
    ended = cli.runner(*command, "-p", "n", 1_000_000, "--json", env=driver.environ())
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert (found["size"], found["measured"]) == (1_000_000, [62_500, 125_000, 250_000])
    linear, quadratic = found["cells"][2]["gpu_bytes"], found["cells"][3]["gpu_bytes"]
    assert linear["value"] == pytest.approx(1e9 + 2e10, rel=0.1)
    assert quadratic["value"] == pytest.approx(2e9 + 1e10 + 3e10, rel=0.1)
    assert found["gpu_bytes"] == quadratic
    assert quadratic["low"] <= quadratic["value"] <= quadratic["high"]
    assert found["seconds"]["value"] >= sum(cell["seconds"]["value"] for cell in found["cells"])
    # 24 GB with a tenth to spare: 2e9 + 1e4 n + 0.03 n^2 = 21.6e9
    assert found["largest"]["24"] == pytest.approx(658_000, rel=0.1)
    assert found["largest"]["80"] > found["largest"]["48"] > 900_000
    assert [path.name for path in checkout.iterdir()] == ["n.ipynb"]
    assert [path.name for path in tmp_path.glob("*outputs/*")] == ["n.forecast.json"]


def test_what_cannot_be_forecast_is_said_before_anything_runs(tmp_path):
    """No such parameter, no number, sizes that are the same; and a notebook that fails."""
    path = tmp_path / "n.ipynb"
    notebooks.write(path, "rows = 4\nname = 'x'", "assert rows < 3, 'too many'")
    outputs = ("--output-dir", tmp_path / "outputs")
    for options, said in (
        (["--rows", "row"], "Did you mean 'rows'?"),
        (["--rows", "name"], "not a number above 0"),
        (["--rows", "rows"], "gives 1 size, 3 are required"),
        (["--rows", "rows", "--at", "1/2,1/4"], "at least three different fractions"),
        (["--rows", "rows", "--at", "2,1/2,1/4"], "at least three different fractions"),
        (["--rows", "rows", "-p", "rows", 400, "--at", "1/100,1/4,1"], "ended failed with rows = 4"),
    ):
        ended = cli.runner("forecast", path, *outputs, *options)
        assert (ended.code, said.lower() in ended.err.lower()) == (2, True), ended.err
    assert not list(tmp_path.glob("outputs/*"))
