# SPDX-License-Identifier: Apache-2.0
"""Results that a notebook records: from the cell to the record, the summary and the report's table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from support import cli, notebooks

import runner
from runner.core import recorded

PLAN = """
version: 1
name: sweep
notebooks:
  - name: c
    path: c.ipynb
    parameters: {seed: 3}
    matrix: {n: [10, 15]}
"""
CELL = """
import runner
import numpy as np
runner.record("ari", np.float64(0.5))
runner.record("ari", n / 100)
runner.record("method", "leiden <b>")
"""


def output(values: object) -> dict:
    return {"output_type": "display_data", "data": {}, "metadata": {"runner": {"recorded": values}}}


def read(*outputs: dict) -> dict:
    return recorded.read({"cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": list(outputs)}]})


@pytest.mark.slow
def test_a_sweep_is_one_table_over_parameters_and_results(tmp_path: Path) -> None:
    """The last value of a name counts; shared parameters are above the table, others are columns."""
    notebooks.write(tmp_path / "c.ipynb", notebooks.code("n = 1\nseed = 0", tags=["parameters"]), CELL)
    (tmp_path / "plan.yaml").write_text(PLAN)
    out = tmp_path / "out"
    ended = cli.runner("run-all", tmp_path / "plan.yaml", "--output-dir", out, "--no-html")
    assert ended.code == 0, ended.err

    assert cli.metrics(out, "c-10")["recorded"] == {"ari": 0.1, "method": "leiden <b>"}
    summary = json.loads((out / "reports" / "summary.json").read_text())
    assert [one["recorded"]["ari"] for one in summary["notebooks"]] == [0.1, 0.15]
    (page,) = (out / "reports").glob("*.html")
    section = page.read_text().partition('<section id="results"')[2].partition("</section>")[0]
    assert "all with seed = 3" in section
    heads = [part.partition("</th>")[0].partition(">")[2] for part in section.split('<th scope="col"')[1:]]
    assert heads == ["Notebook", "Status", "n", "ari", "method"]
    assert "leiden &lt;b&gt;" in section
    assert '<a href="#results">Results</a>' in page.read_text()
    assert "<b>" not in section


def test_without_results_there_is_no_table(tmp_path: Path) -> None:
    """A notebook that records nothing changes nothing on the page."""
    out = tmp_path / "out"
    cli.runner("run", notebooks.write(tmp_path / "a.ipynb", "1"), "--output-dir", out, "--no-html")
    assert cli.metrics(out, "a")["recorded"] == {}
    cli.runner("report", out)
    (page,) = (out / "reports").glob("*.html")
    assert 'id="results"' not in page.read_text()


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({"a": 1, "b": "text", "c": True, "d": 0.5}, {"a": 1, "b": "text", "c": True, "d": 0.5}),
        ({"a": math.nan, "b": math.inf}, {"a": "nan", "b": "inf"}),
        ({"a": 2**70, "b": 10**400}, {"a": float(2**70), "b": "too large"}),
        ({"a": [1], "b": None, "": 1, "n" * 81: 1, "t": "x" * 201, "ok": 1}, {"ok": 1}),
        ({str(n): n for n in range(300)}, {str(n): n for n in range(recorded.MOST_VALUES)}),
        (["a"], {}),
        ("a", {}),
    ],
    ids=["kinds", "not finite", "large", "malformed", "many", "list", "text"],
)
def test_what_is_read_is_bounded_and_plain(values: object, kept: dict) -> None:
    """A notebook can write any metadata: only names and plain JSON values count."""
    found = read(output(values))
    assert found == kept
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_foreign_metadata_is_left_alone() -> None:
    """Outputs without metadata, and metadata of others."""
    assert read({"output_type": "stream", "text": "a"}, {"metadata": {"runner": 5}}, {"metadata": {"other": {}}}) == {}


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("", 1, ValueError),
        ("n" * 81, 1, ValueError),
        (5, 1, ValueError),
        ("a", [1, 2], TypeError),
        ("a", np.arange(3), TypeError),
        ("a", None, TypeError),
        ("a", "x" * 201, ValueError),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_recorded(name: object, value: object, error: type[Exception]) -> None:
    """The message names the value's name or kind."""
    with pytest.raises(error, match=r"allowed|characters|is not a number"):
        runner.record(name, value)  # type: ignore[arg-type]


def test_outside_of_a_notebook_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that shares code with a notebook runs as well."""
    runner.record("ari", np.float32(0.5))
    assert capsys.readouterr().out == "ari = 0.5\n"
