# SPDX-License-Identifier: Apache-2.0
"""What the author of a notebook, or an option, says of errors, deadlines and hidden code."""

from __future__ import annotations

import json

import pytest
from support import cli, notebooks


def write(path, *cells, settings=None):
    document = notebooks.document(*[source for source, _ in cells])
    for cell, (_, metadata) in zip(document["cells"], cells, strict=True):
        cell["metadata"] = metadata
    if settings:
        document["metadata"]["execution"] = settings
    path.write_text(json.dumps(document))
    return path


SLEEP = "import time\ntime.sleep(600)"
BAD = [("1 / 0", {}), ("print('went on')", {}), ("raise KeyError('late')", {})]


@pytest.mark.parametrize(("arguments", "settings"), [(["--allow-errors"], None), ([], {"allow_errors": True})])
def test_allowed_errors_end_failed_with_every_cell_named(tmp_path, arguments, settings):
    """By the option or by nbmake's key: all cells run, and a red cell is never a green notebook."""
    write(tmp_path / "n.ipynb", *BAD, settings=settings)

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path, "--no-html", *arguments)

    record = cli.metrics(tmp_path, "n")
    assert ended.code == 1
    assert record["status"] == "failed"
    assert record["reason"] == "ZeroDivisionError in cell 1: division by zero; then KeyError in cell 3"
    assert [cell["status"] for cell in record["cells"]] == ["failed", "succeeded", "failed"]
    assert "went on" in cli.text_of(cli.executed(tmp_path, "n"))


def test_allowed_errors_do_not_outlive_the_notebooks_own_end(tmp_path):
    """SystemExit and a dead kernel end the run, whatever is allowed."""
    write(tmp_path / "exit.ipynb", ("raise SystemExit(0)", {}), ("print('never')", {}))
    write(tmp_path / "dead.ipynb", ("1 / 0", {}), ("import os; os.kill(os.getpid(), 9)", {}), ("1", {}))

    for name, code in (("exit", 6), ("dead", 1)):
        ended = cli.runner("run", tmp_path / f"{name}.ipynb", "--output-dir", tmp_path, "--no-html", "--allow-errors")
        assert ended.code == code, ended.err
    assert "then unfinished in cell 2" in cli.metrics(tmp_path, "dead")["reason"]
    assert cli.metrics(tmp_path, "exit")["cells"][1]["status"] == "not-run"


def test_a_cell_may_be_allowed_to_fail_by_its_metadata(tmp_path):
    """As the tag `raises-exception` does."""
    write(tmp_path / "n.ipynb", ("1 / 0", {"runner": {"allow_errors": True}}), ("print('on')", {}))

    assert cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path, "--no-html").code == 0


@pytest.mark.parametrize(
    ("metadata", "settings", "arguments"),
    [
        ({"runner": {"timeout": "1s"}}, None, ["--cell-timeout", "1h"]),
        ({}, {"timeout": 1}, []),
        ({}, {"timeout": 3000}, ["--cell-timeout", "1s"]),
    ],
)
def test_the_nearest_deadline_of_a_cell_counts(tmp_path, metadata, settings, arguments):
    """The cell's own before the option's, the option's before the notebook's."""
    write(tmp_path / "n.ipynb", (SLEEP, metadata), settings=settings)

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path, "--no-html", *arguments)

    assert ended.code == 4
    assert "did not end within 1.0s" in cli.metrics(tmp_path, "n")["reason"]


@pytest.mark.parametrize(
    ("metadata", "settings"),
    [
        ({"runner": {"timeout": "soon"}}, None),
        ({"runner": {"timeout": True}}, None),
        ({"runner": {"timeout": -1}}, None),
        ({"runner": {"allow_errors": "yes"}}, None),
        ({}, {"timeout": [1]}),
        ({}, {"allow_errors": 1}),
    ],
)
def test_a_setting_of_a_wrong_type_is_refused(tmp_path, metadata, settings):
    """Guessing would run something else."""
    write(tmp_path / "n.ipynb", ("1", metadata), settings=settings)

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out")

    assert ended.code == 2
    assert "timeout" in ended.err or "allow_errors" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_kernel_that_is_too_slow_to_start_is_given_up(tmp_path):
    """--start-timeout counts from the start of its process."""
    write(tmp_path / "n.ipynb", ("1", {}))

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path, "--no-html", "--start-timeout", "0.001s")

    assert ended.code == 5
    assert "never answered" in cli.metrics(tmp_path, "n")["reason"]


def test_report_mode_hides_the_code_and_keeps_the_results(tmp_path):
    """In Jupyter by the metadata, in the page behind a fold."""
    write(tmp_path / "n.ipynb", ("print('sh' + 'own')", {"jupyter": {"outputs_hidden": False}}))

    assert cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path, "--report-mode").code == 0

    cell = next(cell for cell in cli.executed(tmp_path, "n").cells if cell.cell_type == "code")
    assert cell.metadata.jupyter == {"outputs_hidden": False, "source_hidden": True}
    page = (tmp_path / "n.html").read_text()
    assert "shown" in page
    assert '<details class="nb-folded">' in page
