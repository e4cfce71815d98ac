# SPDX-License-Identifier: Apache-2.0
"""A notebook that opens a Dask cluster leaves Dask's own report; one that has none leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import cli, notebooks

OPEN = (
    "from distributed import Client, LocalCluster\n"
    "cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)\n"
    "client = Client(cluster)\nprint(client.submit(sum, [1, 2]).result())"
)


def run(folder, *cells):
    """Run these cells and return the record and where the report is kept."""
    source = notebooks.write(folder / "n.ipynb", *cells)
    cli.runner("run", source, "--output-dir", folder / "out", "--no-html")
    return cli.metrics(folder / "out", "n"), folder / "out" / "n.dask.htm"


@pytest.mark.parametrize("end", ["1", "raise ValueError('after the work')"])
def test_the_report_is_kept_of_a_client_that_is_never_closed(tmp_path, end):
    """As most notebooks leave it, whether they fail or not."""
    record, kept = run(tmp_path, OPEN, end)
    assert record["status"] == ("failed" if "raise" in end else "succeeded"), record["reason"]
    assert record["outputs"]["dask"] == kept.name
    assert "Dask Performance Report" in kept.read_text()


def test_it_is_named_in_the_report_and_moved_aside_by_the_next_run(tmp_path):
    """Like any other file of a run; its sum is checked."""
    record, kept = run(tmp_path, OPEN, "client.close()")
    assert record["outputs"]["dask"] == kept.name
    page = Path(cli.runner("report", kept.parent).out.strip())
    assert 'n.dask.htm">Dask report<' in page.read_text()
    assert kept.name in (kept.parent / "n.sha256").read_text()
    assert run(tmp_path, "import distributed")[0]["outputs"]["dask"] is None
    assert not kept.exists()
    assert (kept.parent / "attempts" / "n" / "1" / kept.name).exists()
    assert cli.runner("verify", kept.parent).code == 0


@pytest.mark.parametrize(
    "before",
    [
        "import importlib.util\nimportlib.util.find_spec = lambda *_: None",
        "import bokeh.plotting\ndef save(*_, **__): raise RuntimeError\nbokeh.plotting.save = save",
    ],
)
def test_without_what_draws_the_report_the_notebook_is_as_it_would_be(tmp_path, before):
    """Bokeh is missing, or not of the version that Dask wants: no report, and nothing of it in the notebook."""
    record, _ = run(tmp_path, before, OPEN, "client.close()")
    assert (record["status"], record["outputs"]["dask"]) == ("succeeded", None), record["reason"]
    shown = [output["text"] for cell in cli.executed(tmp_path / "out", "n").cells for output in cell.outputs]
    assert shown == ["3\n"]


def test_a_cluster_that_is_gone_costs_the_report_alone(tmp_path):
    """Closed under its client, as notebooks do."""
    record, _ = run(tmp_path, OPEN, "cluster.close()", "print(client.status)")
    assert record["status"] == "succeeded", record["reason"]
