# SPDX-License-Identifier: Apache-2.0
"""Sweeps: a matrix of parameters as notebooks of their own."""

from __future__ import annotations

import pytest
import yaml
from support import cli, notebooks

from runner.core.errors import PlanError
from runner.plan.model import parse


def plan_of(*entries):
    return parse(yaml.safe_dump({"version": 1, "name": "sweep", "notebooks": list(entries)}), "plan.yaml")


def entry(**fields):
    return {"name": "cluster", "path": "cluster.ipynb", **fields}


def test_each_combination_is_a_notebook_with_its_parameters():
    """In the order of the matrix, named after the values; fixed parameters stay."""
    plan = plan_of(entry(matrix={"k": [5, 10], "metric": ["l2", "cosine sim"]}, parameters={"seed": 0}))

    assert {nb.name: nb.parameters for nb in plan.notebooks} == {
        "cluster-5-l2": {"seed": 0, "k": 5, "metric": "l2"},
        "cluster-5-cosine-sim": {"seed": 0, "k": 5, "metric": "cosine sim"},
        "cluster-10-l2": {"seed": 0, "k": 10, "metric": "l2"},
        "cluster-10-cosine-sim": {"seed": 0, "k": 10, "metric": "cosine sim"},
    }


def test_exclude_takes_away_and_include_adds():
    """A partial match is enough to exclude; included combinations may have other values."""
    matrix = {"k": [5, 10], "m": [1, 2], "exclude": [{"k": 5, "m": 2}, {"k": 10}], "include": [{"k": 99}]}

    assert [nb.parameters for nb in plan_of(entry(matrix=matrix)).notebooks] == [{"k": 5, "m": 1}, {"k": 99}]


def test_values_stand_in_names_products_and_expectations():
    """Two combinations never share a file with {k}; other braces are unchanged."""
    plan = plan_of(
        entry(
            name="cluster-{k}-of-all",
            matrix={"k": [5, "../x"]},
            products=["out/{k}/*.csv"],
            expect={"files": ["out/{k}/a.csv"]},
            env={"K": "{k}", "OTHER": "{home}"},
        )
    )

    assert [nb.name for nb in plan.notebooks] == ["cluster-5-of-all", "cluster-x-of-all"]
    assert [nb.products for nb in plan.notebooks] == [["out/5/*.csv"], ["out/x/*.csv"]]
    assert plan.notebooks[0].expect.files == ["out/5/a.csv"]
    assert plan.notebooks[0].env == {"K": "5", "OTHER": "{home}"}
    assert plan.notebooks[1].parameters == {"k": "../x"}


def test_who_needs_a_sweep_needs_all_of_it():
    """A summary runs after every combination."""
    plan = plan_of(entry(matrix={"k": [1, 2]}), entry(name="summary", needs=["cluster"]))

    assert plan.notebook("summary").needs == ["cluster-1", "cluster-2"]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([1], "is not a mapping of parameters to lists"),
        ({"k": 5}, "is not a mapping of parameters to lists"),
        ({}, "0 combinations"),
        ({"k": []}, "0 combinations"),
        ({"k": list(range(20)), "m": list(range(20))}, "400 combinations, allowed are 1 to 256"),
        ({f"k{n}": [1, 2] for n in range(5000)}, "combinations, allowed are 1 to 256"),
        ({"k": [1], "exclude": [{"k": 1}]}, "exclude: leaves no combination"),
        ({"k": [1], "exclude": [{"kk": 1}]}, "exclude: unknown parameter 'kk'"),
        ({"k": [1], "include": [3]}, "include and exclude are lists of mappings"),
        ({"k": [1, 1]}, "the name 'cluster-1' appears twice"),
        ({"not a name": [1]}, "not a valid variable name"),
    ],
)
def test_a_matrix_that_is_none_says_what_is_allowed(matrix, message):
    """With the path of the key, before anything is multiplied out."""
    with pytest.raises(PlanError, match=message):
        plan_of(entry(matrix=matrix))


def test_a_sweep_runs_with_records_of_its_own(tmp_path):
    """`run-all` runs each combination; `--only` names one."""
    notebooks.write(tmp_path / "cluster.ipynb", "k = 1", "print('k is', k)")
    text = yaml.safe_dump({"version": 1, "name": "s", "notebooks": [entry(matrix={"k": [5, 10]})]})
    (tmp_path / "plan.yaml").write_text(text)

    ended = cli.runner("run-all", "plan.yaml", "--no-html", cwd=tmp_path)

    assert ended.code == 0, ended.err
    for value in (5, 10):
        assert cli.metrics(tmp_path / "outputs", f"cluster-{value}")["environment"]["parameters"] == {"k": value}
        assert f"k is {value}" in cli.text_of(cli.executed(tmp_path / "outputs", f"cluster-{value}"))
