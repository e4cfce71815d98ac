# SPDX-License-Identifier: Apache-2.0
"""Whatever one record holds, it costs itself at most: the others are reported."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from support import records as made

from runner.core.records import Status, to_json
from runner.report import advice, build, facts, summary
from runner.report.exports import junit, openmetrics
from runner.report.html import formatting, render

ODD: dict[str, Any] = {
    "nothing": None,
    "empty": "",
    "NaN as text": "NaN",
    "minus": -1,
    "huge": 10**400,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "large": 1e308,
    "list": [],
}


def dead(paths, seconds):
    return dict.fromkeys(paths, False)


def places(value, path=()):
    """Give the path of each field of a document, those that hold others included."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from places(item, (*path, name))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def with_odd(document, path, odd):
    """Return a document with another value at a path, through JSON so that nothing is shared."""
    copy = json.loads(json.dumps(document))
    at = copy
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = odd
    return copy


def summary_of(result):
    return json.loads(result.summary_path.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("odd", ODD)
def test_odd_value_in_any_field_costs_that_record_at_most(tmp_path, odd):
    """With each field of a record in turn replaced, the report is written, with every notebook and figures."""
    made.leave(tmp_path, made.metrics("good"), with_samples=False)
    kind = {"status": Status.FAILED, "failed_cell": 1, "failure": made.Failure(message="m", cell_index=1)}
    document = json.loads(to_json(made.metrics("bad", cells=2, **kind)))
    names = []
    for number, path in enumerate(places(document)):
        names.append(f"bad_{number:03d}")
        changed = with_odd({**document, "notebook": names[-1]}, path, ODD[odd])
        (tmp_path / f"{names[-1]}.metrics.json").write_text(json.dumps(changed))
    result = build(tmp_path, run_id=made.RUN, watch=dead)
    told = summary_of(result)
    found = {nb["name"]: nb for nb in told["notebooks"]}
    assert found["good"]["status"] == "succeeded"
    assert found["good"]["wall_seconds"] == 240.0
    unlisted = [name for name in names if name not in found]
    assert len(unlisted) <= 1, "only a record that says it is of another run may be none of this one's"
    assert not [problem for problem in result.problems if "makes the report fail" in problem]
    page = result.html_path.read_text()
    assert "inf" not in page.partition("<main")[2].partition('id="others"')[0].split()


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (("wall_seconds",), "wall_seconds is inf, which is not a finite number"),
        (("gate", "waited_seconds"), "gate.waited_seconds is inf, which is not a finite number"),
        (("gate", "asked", "gpu_memory_gb"), "gate.asked.gpu_memory_gb is inf, which is not a finite number"),
        (("cells", 0, "peak_gpu_memory_bytes", made.UUIDS[0]), "is too large"),
    ],
)
def test_figure_that_is_none_breaks_its_record_alone(tmp_path, field, said):
    """A record with an endless figure becomes a line that names file and field; the others stay."""
    made.leave(tmp_path, made.metrics("good"))
    value = float("inf") if "inf" in said else 10**400
    document = with_odd(json.loads(to_json(made.metrics("bad"))), field, value)
    (tmp_path / "bad.metrics.json").write_text(json.dumps(document))
    result = build(tmp_path, watch=dead)
    assert [p for p in result.problems if p.startswith("bad.metrics.json cannot be read: ") and said in p]
    assert {nb["name"]: nb["status"] for nb in summary_of(result)["notebooks"]} == {
        "good": "succeeded",
        "bad": "not-run",
    }


def test_fault_of_a_record_is_one_sentence(tmp_path):
    """Validation errors name the field, without the URL of a manual."""
    document = json.loads(to_json(made.metrics("bad")))
    document["wall_seconds"], document["cells"][3]["index"], document["status"] = "long", "x", "fine"
    (tmp_path / "bad.metrics.json").write_text(json.dumps(document))
    [problem] = build(tmp_path, watch=dead).problems
    assert problem.startswith("bad.metrics.json cannot be read: status: Input should be 'succeeded'")
    assert problem.endswith("; and 1 more")
    for noise in ("further information", "https://", "validation error", "input_value"):
        assert noise not in problem


def fails_for_odd(real):
    """Return a function that fails on the record of `odd` and anything derived from it."""

    def is_odd(value):
        measured = getattr(value, "metrics", None) or getattr(value, "wall_seconds", None)
        return value == "odd cell" or "odd" in (
            getattr(value, "notebook", None),
            measured and getattr(value, "name", None),
        )

    def failing(*arguments, **options):
        if any(is_odd(argument) for argument in arguments):
            raise TypeError("nobody thought of this")
        return real(*arguments, **options)

    return failing


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (summary, "_measured"),
        (advice, "_notebook"),
        (facts, "_machine"),
        (junit, "_outcome"),
        (formatting, "first_line"),
    ],
)
def test_fault_of_ours_in_one_notebook_loses_no_other(tmp_path, monkeypatch, module, function):
    """Where a record makes any part of the report fail, it is named, keeps its status, and the rest is whole."""
    for name in ("a", "odd", "z"):
        record = made.metrics(name)
        cells = tuple(dataclasses.replace(cell, title=f"{name} cell") for cell in record.cells)
        made.leave(tmp_path, dataclasses.replace(record, cells=cells), with_samples=False)
    failing = fails_for_odd(getattr(module, function))
    monkeypatch.setattr(module, function, failing)
    if function in render.environment().filters:
        monkeypatch.setitem(render.environment().filters, function, failing)
    result = build(tmp_path, watch=dead)
    assert result.verdict == "succeeded"
    assert [p for p in result.problems if p.startswith("odd makes the report fail") and "nobody thought of" in p]
    found = {nb["name"]: nb for nb in summary_of(result)["notebooks"]}
    assert {name: nb["status"] for name, nb in found.items()} == dict.fromkeys(("a", "odd", "z"), "succeeded")
    assert {name: nb["wall_seconds"] for name, nb in found.items()} == {"a": 240.0, "odd": None, "z": 240.0}
    assert "odd makes the report fail" in result.html_path.read_text()


def test_the_figures_are_pushed_once_and_those_of_the_report(tmp_path, monkeypatch):
    """A report rebuilt without a record pushes only its own figures, and the page has the error."""
    for name in ("a", "odd"):
        made.leave(tmp_path, made.metrics(name), with_samples=False)
    monkeypatch.setattr(junit, "_outcome", fails_for_odd(junit._outcome))
    pushed = []

    def push(url, figures):
        pushed.append({nb.name: nb.wall_seconds for nb in figures.notebooks})
        return f"the Pushgateway {url} rejected the figures: 400"

    monkeypatch.setattr(openmetrics, "push", push)
    result = build(tmp_path, watch=dead, pushgateway="http://gateway.example")
    assert pushed == [{"a": 240.0, "odd": None}]
    assert [p for p in result.problems if "rejected the figures" in p]
    assert "rejected the figures" in result.html_path.read_text()


def test_fault_without_a_culprit_still_leaves_a_report(tmp_path, monkeypatch):
    """Where no single record is to blame, the statuses of all are reported."""
    for name in ("a", "b"):
        made.leave(tmp_path, made.metrics(name), with_samples=False)

    real = facts.gather

    def gather(report, figures):
        if sum(entry.metrics is not None for entry in report.entries) > 1:
            raise KeyError("together")
        return real(report, figures)

    monkeypatch.setattr("runner.report.builder.gather", gather)
    result = build(tmp_path, watch=dead)
    assert result.verdict == "succeeded"
    assert [nb["status"] for nb in summary_of(result)["notebooks"]] == ["succeeded", "succeeded"]
    assert len(result.problems) == 2


@pytest.mark.parametrize("field", ["wall_seconds", "peak_host_memory_bytes"])
def test_baseline_with_an_endless_figure_is_a_problem(tmp_path, field):
    """A summary that holds no figures is named and not compared with."""
    made.leave(tmp_path, made.metrics("a"), with_samples=False)
    document = summary_of(build(tmp_path, watch=dead))
    document["notebooks"][0][field] = float("inf") if field == "wall_seconds" else 10**400
    (tmp_path / "before.json").write_text(json.dumps(document))
    result = build(tmp_path, baselines=[tmp_path / "before.json"], watch=dead)
    assert [p for p in result.problems if "before.json cannot be read: notebooks.0." in p]


@pytest.mark.parametrize("value", ["1e400", "inf", "nan", "-inf"])
def test_lost_run_with_an_endless_last_sample_is_reported(tmp_path, value):
    """A clock that ran away in the samples of a lost run is no time."""
    made.running(tmp_path, "gone")
    made.samples(tmp_path / "gone.samples.csv", seconds=5)
    with (tmp_path / "gone.samples.csv").open("a") as stream:
        stream.write(f"{value},{made.UUIDS[0]},1e400,inf,1,1,1e400,1{made.NO_UNITS}\n")
    result = build(tmp_path, watch=dead)
    [nb] = summary_of(result)["notebooks"]
    assert nb["status"] == "lost"
    assert "inf" not in nb["reason"]


@pytest.mark.parametrize("field", ["cell_index", "cell_count", "pid", "beat"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_value_in_the_file_of_a_run_in_flight_costs_nothing(tmp_path, field, odd):
    """An active run is described by the valid part of its claim."""
    made.running(tmp_path, "gone")
    document = json.loads((tmp_path / "gone.running").read_text())
    (tmp_path / "gone.running").write_text(json.dumps({**document, field: ODD[odd]}))
    result = build(tmp_path, watch=dead)
    assert [nb["status"] for nb in summary_of(result)["notebooks"]] == ["lost"]
    assert result.problems == ()
