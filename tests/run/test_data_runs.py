# SPDX-License-Identifier: Apache-2.0
"""Datasets and products in real runs: what was staged is what is read, and leftovers are never data."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
import yaml
from support import cli, notebooks

URL = "https://data.example.org/census.txt"
CONTENT = b"keep 1\ndrop 2\nkeep 3\n"


def plan(folder: Path, *cells: str, **entry: object) -> Path:
    """Write a checkout with one notebook and a plan for it, with the dataset staged in a cache."""
    notebooks.write(folder / "nb" / "n.ipynb", *cells)
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    (cache / "census.txt").write_bytes(CONTENT)
    document = {
        "version": 1,
        "name": "test",
        "notebooks": [{"name": "n", "path": "nb/n.ipynb", "cwd": "nb", **entry}],
        "datasets": {
            "census": {
                "url": URL,
                "path": "census.txt",
                "sha256": hashlib.sha256(CONTENT).hexdigest(),
                "bytes": len(CONTENT),
            }
        },
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run(folder: Path, *options: object, env: dict[str, str] | None = None) -> cli.Ended:
    return cli.runner(
        "run",
        "n",
        "--plan",
        folder / "plan.yaml",
        "--output-dir",
        folder / "out",
        "--cache",
        folder / "cache",
        *options,
        env=env,
    )


@pytest.mark.parametrize("by", ["urllib", "wget"])
def test_a_notebook_reads_the_staged_file_by_its_own_download_code(tmp_path: Path, by: str) -> None:
    """Unchanged code downloads, filters in place and goes on, without the outside network and in spite of a proxy."""
    plan(
        tmp_path,
        "import os",
        *notebooks.census_cells(URL, by=by),
        "print(open('h5/census.txt').read())",
        datasets=["census"],
    )

    ended = run(tmp_path, "--offline", env={"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"})

    assert ended.code == 0, ended.err
    assert "keep 1\nkeep 3" in cli.text_of(cli.executed(tmp_path / "out", "n"))
    assert any(change["rule"] == "dataset" for change in cli.metrics(tmp_path / "out", "n")["preparation"])
    assert (tmp_path / "cache" / "census.txt").read_bytes() == CONTENT


def test_a_staged_file_that_changed_is_broken_input(tmp_path: Path) -> None:
    """Nothing runs on data that is not what was verified."""
    plan(tmp_path, "import os", *notebooks.census_cells(URL, by="urllib"), datasets=["census"])
    (tmp_path / "cache" / "census.txt").write_bytes(CONTENT + b"x")

    ended = run(tmp_path)

    assert ended.code == 9, ended.err
    assert "census" in cli.metrics(tmp_path / "out", "n")["reason"]


def test_a_half_written_product_is_not_taken_for_data(tmp_path: Path) -> None:
    """A run killed while it wrote leaves a file; the next run moves it aside, lists it and makes its own."""
    cells = (
        "import os, time",
        "if not os.path.exists('out.csv'):\n    f = open('out.csv', 'w'); f.write('half'); f.flush()\n"
        "    if os.environ.get('SLOW'): print('begun', flush=True); time.sleep(300)\n    f.write(' whole'); f.close()",
        "print(open('out.csv').read())",
    )
    plan(tmp_path, *cells, products=["nb/out.csv"])
    first = cli.start("run", "n", "--plan", tmp_path / "plan.yaml", "--output-dir", tmp_path / "out", env={"SLOW": "1"})
    cli.until((tmp_path / "nb" / "out.csv").exists, "the first half")
    first.kill()
    first.wait()

    ended = run(tmp_path)

    assert ended.code == 0, ended.err
    assert "half whole" in cli.text_of(cli.executed(tmp_path / "out", "n"))
    record = cli.metrics(tmp_path / "out", "n")
    assert len(record["outputs"]["products_moved"]) == 1
    assert record["outputs"]["products"] == ["nb/out.csv"]

    again = run(tmp_path)
    assert again.code == 0, again.err
    assert cli.metrics(tmp_path / "out", "n")["outputs"]["products_moved"] == []


def test_parameters_and_rules_reach_the_kernel(tmp_path: Path) -> None:
    """An assignment is rewritten, a dropped cell is shown and not run, indices stay the source's."""
    plan(
        tmp_path,
        "n_cells = 10",
        notebooks.SHUTDOWN,
        "print('cells', n_cells)",
        parameters={"n_cells": 500},
        prepare=[{"replace": {"find": "'cells'", "with": "'CELLS'"}}],
    )

    ended = run(tmp_path)

    assert ended.code == 0, ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert [cell["status"] for cell in record["cells"]] == ["succeeded", "dropped", "succeeded"]
    assert "CELLS 500" in cli.text_of(cli.executed(tmp_path / "out", "n"))
    assert {change["rule"] for change in record["preparation"]} == {"parameter", "drop_cells", "replace"}


def test_a_parameter_wins_over_a_later_assignment(tmp_path: Path) -> None:
    """The tagged cell's value and the one that would undo it are both the parameter's."""
    cells = [notebooks.code("n = 5", tags=["parameters"]), "n = 10", "print('got', n)"]
    plan(tmp_path, *cells, parameters={"n": 7})

    ended = run(tmp_path, "--no-html")

    assert ended.code == 0, ended.err
    assert "got 7" in cli.text_of(cli.executed(tmp_path / "out", "n"))


@pytest.mark.parametrize("file", ["got.txt", "old.txt"])
def test_a_dataset_that_was_never_asked_for_is_told(tmp_path: Path, file: str) -> None:
    """A staged dataset that the notebook took from somewhere else is a warning; one it downloaded is none."""
    (tmp_path / "nb").mkdir()
    (tmp_path / "nb" / "old.txt").write_text("old")
    fetch = f"import os, urllib.request\nif not os.path.exists({file!r}): urllib.request.urlretrieve({URL!r}, {file!r})"
    plan(tmp_path, fetch, datasets=["census"])

    ended = run(tmp_path, "--no-html")

    assert ended.code == 0, ended.err
    told = [
        text
        for text in cli.metrics(tmp_path / "out", "n")["warnings"]
        if "never requested by the notebook: census" in text
    ]
    assert len(told) == (file == "old.txt")


def test_half_a_character_beside_a_url_costs_nothing(tmp_path: Path) -> None:
    """JSON can hold a lone surrogate: the plan is checked and the notebook runs as any other, and is told."""
    plan(tmp_path, f"x = '{URL}'  # \ud800", "print('whole')", datasets=["census"])

    checked = cli.runner("plan", "check", "--checkout", tmp_path, tmp_path / "plan.yaml")
    assert checked.code == 0, checked.err
    ended = run(tmp_path, "--no-html")
    assert ended.code == 0, ended.err
    assert "whole" in cli.text_of(cli.executed(tmp_path / "out", "n"))
    assert [c["old"] for c in cli.metrics(tmp_path / "out", "n")["preparation"]] == ["\\ud800", URL]


def test_prepare_only_writes_the_notebook_and_lists_the_changes(tmp_path: Path) -> None:
    """What would run is shown, nothing runs."""
    plan(tmp_path, "n_cells = 10", "open('ran', 'w')", parameters={"n_cells": 7})

    ended = run(tmp_path, "--prepare-only")

    assert ended.code == 0, ended.err
    assert "n_cells" in ended.out
    assert "n_cells = 7" in (tmp_path / "out" / "n.prepared.ipynb").read_text()
    assert not (tmp_path / "nb" / "ran").exists()


def test_a_rerun_that_skips_its_work_meets_what_is_expected_of_it(tmp_path: Path) -> None:
    """A product that an earlier run of the same source and parameters made may be taken as it is."""
    work = "import os\nif not os.path.exists('out.csv'): open('out.csv', 'w').write('a,b')"
    plan(tmp_path, work, products=["nb/out.csv"], expect={"files": ["nb/out.csv"]})
    assert run(tmp_path).code == 0
    made = (tmp_path / "nb" / "out.csv").stat()
    time.sleep(2.5)  # longer than the slack that clocks get

    again = run(tmp_path)

    assert again.code == 0, again.err
    assert (tmp_path / "nb" / "out.csv").stat().st_mtime_ns == made.st_mtime_ns
    [expected] = cli.metrics(tmp_path / "out", "n")["expectations"]
    assert expected["met"] is True


def test_unmet_expectations_replace_a_success(tmp_path: Path) -> None:
    """All cells ran, a file is missing: status and code say so."""
    plan(tmp_path, "1", expect={"files": ["nb/missing.h5ad"], "min_figures": 1})

    ended = run(tmp_path)

    record = cli.metrics(tmp_path / "out", "n")
    assert (ended.code, record["status"]) == (7, "unexpected-results")
    assert "missing.h5ad" in record["reason"]
    assert cli.executed(tmp_path / "out", "n").metadata.runner.status == "unexpected-results"
    assert "unexpected-results" in (tmp_path / "out" / "n.html").read_text()


READERS = {
    "urllib": "import urllib.request\nprint(urllib.request.urlopen(url()).read().decode())",
    "urllib-request": (
        "from urllib.request import Request, build_opener\n"
        "asked = Request(url(), headers={'User-Agent': 'x'})\n"
        "print(build_opener().open(asked).read().decode())\nassert asked.full_url == url()"
    ),
    "requests": "import requests\nprint(requests.get(url(), params={}).text)",
    "requests-session": "import requests\nwith requests.Session() as s: print(s.get(url() + '#top', stream=True).text)",
    "httpx": "import httpx2 as httpx\nprint(httpx.get(url()).text)",
    "httpx-stream": (
        "import httpx2 as httpx\nwith httpx.Client() as c, c.stream('GET', httpx.URL(url())) as r:\n"
        "    print(r.read().decode())"
    ),
    "pandas": "import pandas\nprint('\\n'.join(pandas.read_csv(url(), header=None)[0]))",
    "pooch": "import pooch\nprint(open(pooch.retrieve(url(), known_hash=None, path='.', fname='x')).read())",
}
MADE = "def url(): return '/'.join(['https:', '', 'data.example.org', 'census.txt'])"
"""What a library does: the URL stands nowhere as it is."""


def hooked(folder: Path, *cells: str) -> None:
    plan(folder, *cells, datasets=["census"])
    document = yaml.safe_load((folder / "plan.yaml").read_text())
    document["datasets"]["census"]["hook"] = True
    (folder / "plan.yaml").write_text(yaml.safe_dump(document))


def test_urls_that_libraries_make_come_from_the_mirror(tmp_path: Path) -> None:
    """Offline and in spite of a proxy, by every reader that the field uses, imported after the kernel's start or before."""
    hooked(tmp_path, MADE, *READERS.values())

    ended = run(tmp_path, "--offline", env={"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"})

    assert ended.code == 0, ended.err
    executed = cli.executed(tmp_path / "out", "n")
    texts = ["".join(out.get("text", "") for out in cell.outputs) for cell in executed.cells]
    for name, text in zip(READERS, texts[-len(READERS) :], strict=True):
        assert "keep 1\ndrop 2\nkeep 3" in text, name
    assert not cli.metrics(tmp_path / "out", "n")["warnings"]


def test_the_hook_is_silent_for_urls_that_are_not_declared(tmp_path: Path) -> None:
    """They fail by the library's own error, objects that are no URL too, and nothing of ours is in the traceback's end."""
    hooked(
        tmp_path,
        MADE,
        "import requests, urllib.request\nrequests.get(url())",
        "class Odd:\n    def __str__(self): raise KeyError('odd')",
        "for wrong in (Odd(), 5, None, b'x', 'data:,hello', 'no scheme'):\n"
        "    for get in (urllib.request.urlopen, requests.get):\n"
        "        try:\n            print(get(wrong))\n"
        "        except Exception as error:\n            print(type(error).__module__, type(error).__name__)",
        "import os\nprint([name for name in os.environ if 'MIRROR' in name], [n for n in dir() if 'ook' in n])",
    )
    ended = run(tmp_path, "--offline")
    assert ended.code == 0, ended.err
    text = cli.text_of(cli.executed(tmp_path / "out", "n"))
    assert "runner_mirror" not in text
    assert "[] []" in text


def test_a_hooked_dataset_that_was_never_asked_for_is_a_warning(tmp_path: Path) -> None:
    """The plan says that it is used."""
    hooked(tmp_path, "print(1)")
    assert run(tmp_path).code == 0
    (warning,) = cli.metrics(tmp_path / "out", "n")["warnings"]
    assert "census" in warning
