# SPDX-License-Identifier: Apache-2.0
"""The notebook's own download code runs unchanged and finds its data on this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support import notebooks
from support.cli import PATIENCE

from runner.core.errors import BrokenInputError
from runner.core.notebook_document import read_notebook
from runner.data.cache import Staged
from runner.data.mirror import Mirror
from runner.data.serve import place, serving
from runner.plan.model import parse
from runner.stages.prepare.prepare import prepare

URL = "https://data.example.org/raw/dli_census.txt"
TEXT = b"keep 1\ndrop 2\nkeep 3\n"


def staged(tmp_path: Path, *, name: str = "census", url: str = URL, content: bytes = TEXT) -> Staged:
    """Return a dataset as `fetch` does."""
    path = tmp_path / "cache" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Staged(name=name, url=url, path=path, bytes=len(content), sha256=digest, verified_by="sha256")


def get(url: str, **headers: str):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, headers=headers), timeout=PATIENCE)


def status_of(url: str, **headers: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(url, **headers)
    return caught.value.code


@pytest.mark.parametrize(
    ("asked", "status", "content", "range_"),
    [
        (None, 200, TEXT, None),
        ("bytes=0-3", 206, b"keep", "bytes 0-3/21"),
        ("bytes=16-", 206, TEXT[16:], "bytes 16-20/21"),
        ("bytes=-5", 206, TEXT[-5:], "bytes 16-20/21"),
        ("bytes=5-999", 206, TEXT[5:], "bytes 5-20/21"),
        ("bytes=0-1,4-5", 200, TEXT, None),
        ("lines=1-2", 200, TEXT, None),
        ("bytes=-", 200, TEXT, None),
    ],
)
def test_whole_files_and_ranges_are_served(tmp_path, asked, status, content, range_):
    """With the right length; a range that cannot be understood is ignored, as HTTP says."""
    with Mirror([staged(tmp_path)]) as mirror:
        reply = get(mirror.urls[URL], **({"Range": asked} if asked else {}))
        assert (reply.status, reply.read()) == (status, content)
        assert reply.headers["Content-Length"] == str(len(content))
        assert reply.headers["Content-Range"] == range_
        assert "Last-Modified" not in reply.headers


def test_head_and_ranges_beyond_the_end(tmp_path):
    """HEAD has the length and no body; 416 has the size."""
    with Mirror([staged(tmp_path)]) as mirror:
        url = mirror.urls[URL]
        reply = get(url)
        head = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            urllib.request.Request(url, method="HEAD"), timeout=PATIENCE
        )
        assert head.headers["Content-Length"] == reply.headers["Content-Length"] == "21"
        assert head.read() == b""
        assert status_of(url, Range="bytes=21-") == 416


def test_only_declared_files_are_served(tmp_path):
    """Nothing beside them, nothing above them, nothing without the token; the address is this machine's."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "secret").write_text("x")
    with Mirror([staged(tmp_path)]) as mirror:
        url = mirror.urls[URL]
        origin, token, name, file = url.removeprefix("http://").split("/")
        assert origin.startswith("127.0.0.1:")
        assert len(token) >= 20
        for path in ("", token, f"{token}/{name}", f"{token}/{name}/../secret", f"{token}/secret", f"x/{name}/{file}"):
            assert status_of(f"http://{origin}/{path}") == 404
    with Mirror([staged(tmp_path)]) as other:
        assert token not in other.urls[URL]


def test_a_url_keeps_its_file_name(tmp_path):
    """`wget URL` without a name of its own writes the same file; names that are odd stay one path part."""
    items = [
        staged(tmp_path, name="a", url="https://x.org/dir/genes.csv?download=true"),
        staged(tmp_path, name="b", url="https://x.org/a%2Fb/"),
        staged(tmp_path, name="c", url="https://x.org"),
    ]
    with Mirror(items) as mirror:
        assert [url.rpartition("/")[2] for url in mirror.urls.values()] == ["genes.csv", "b", "data"]
        assert [get(url).read() for url in mirror.urls.values()] == [TEXT] * 3


def test_a_file_that_changed_is_not_served(tmp_path):
    """Not as if it were what was verified."""
    item = staged(tmp_path)
    with Mirror([item]) as mirror:
        item.path.write_bytes(b"other")
        assert status_of(mirror.urls[URL]) == 500
        item.path.unlink()
        assert status_of(mirror.urls[URL]) == 500


def test_the_mirror_ends_with_its_block(tmp_path):
    """Nobody answers afterwards."""
    with Mirror([staged(tmp_path)]) as mirror:
        url = mirror.urls[URL]
    with pytest.raises(urllib.error.URLError):
        get(url)


def test_the_proxy_is_told_to_leave_the_mirror_alone(tmp_path):
    """Hosts that were excepted stay so."""
    with Mirror([], environment={"NO_PROXY": "intra.example.org, 10.0.0.0/8"}) as mirror:
        assert mirror.env["no_proxy"] == mirror.env["NO_PROXY"] == "intra.example.org,10.0.0.0/8,127.0.0.1,localhost"
        assert set(mirror.env) == {"no_proxy", "NO_PROXY"}


DOWNLOADS = [
    "wget",
    "urllib",
    "requests",
    "wget.download",
]


@pytest.mark.parametrize("by", DOWNLOADS)
def test_downloading_code_is_served_and_its_filter_runs(tmp_path, monkeypatch, by):
    """All four ways; with a proxy set that leads nowhere; the filter in place runs on the raw file."""
    if by == "wget" and not shutil.which("wget"):
        pytest.skip("no wget on PATH")
    if by in {"requests", "wget.download"}:
        pytest.importorskip(by.partition(".")[0])
    item = staged(tmp_path)
    source = read_notebook(notebooks.write(tmp_path / "01.ipynb", *notebooks.census_cells(URL, by=by)))
    workdir = tmp_path / "notebooks"
    workdir.mkdir()
    with Mirror([item], environment={}) as mirror:
        prepared = prepare(source, replacements=mirror.urls).notebook
        code = "\n".join(
            cell.source.removeprefix("%%time\n") for cell in prepared.cells if "dropped" not in cell.metadata.runner
        )
        environment = {
            **os.environ,
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
            **mirror.env,
        }

        done = subprocess.run(
            [sys.executable, "-c", code], cwd=workdir, env=environment, capture_output=True, text=True, check=False
        )
        assert "rows 2" in done.stdout, done.stderr
        assert mirror.served == {"census": 1}
    assert (workdir / "h5" / "census.txt").read_text() == "keep 1\nkeep 3\n"
    assert item.path.read_bytes() == TEXT


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("by", ["wget", "urllib"])
def test_offline_whatever_is_not_staged_fails_by_name(tmp_path, scheme, by):
    """Python and wget are told what it was, and so is whoever runs the notebook."""
    if by == "wget" and not shutil.which("wget"):
        pytest.skip("no wget on PATH")

    url = f"{scheme}://data.example.org/other.bin?token=secret"
    commands = {
        "wget": ["wget", "--tries=1", "-O", "x", url],
        "urllib": [sys.executable, "-c", f"import urllib.request; urllib.request.urlopen({url!r})"],
    }
    with Mirror([], offline=True, environment={}) as mirror:
        environment = {"PATH": os.environ["PATH"], **mirror.env}
        done = subprocess.run(
            commands[by], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode != 0
        assert "offline" in done.stderr
        assert "data.example.org" in done.stderr
        assert len(mirror.refused) == 1
        assert "data.example.org" in mirror.refused[0]
        assert "secret" not in mirror.refused[0]


PLAN = """
version: 1
name: p
notebooks: [{name: n, path: n.ipynb, datasets: [hne]}]
datasets:
  hne:
    url: https://data.example.org/hne.h5ad
    path: hne.h5ad
    place: {path: data/cache/hne.h5ad, env: {CACHE_DIR: "{checkout}/data/cache", PLAIN: x}}
"""


def test_a_placed_dataset_lies_where_the_library_looks(tmp_path):
    """A copy, with the variables that lead there; what the notebook does to it stays out of the cache."""
    plan = parse(PLAN, "plan.yaml")
    item = staged(tmp_path, name="hne", url=plan.datasets["hne"].url)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    placed = place(plan, [item], checkout)
    target = checkout / "data" / "cache" / "hne.h5ad"
    assert target.read_bytes() == TEXT
    assert placed.env == {"CACHE_DIR": f"{checkout.resolve()}/data/cache", "PLAIN": "x"}
    assert [(change.rule, change.new) for change in placed.changes] == [("place", "data/cache/hne.h5ad")]
    target.write_bytes(b"changed by the notebook")
    assert item.path.read_bytes() == TEXT
    place(plan, [item], checkout)
    assert target.read_bytes() == TEXT
    before = target.stat().st_mtime_ns
    assert "already there" in place(plan, [item], checkout).changes[0].detail
    assert target.stat().st_mtime_ns == before
    assert [path.name for path in target.parent.iterdir()] == ["hne.h5ad"]


def test_a_copy_of_a_changed_cache_is_not_placed(tmp_path):
    """It is hashed before it gets the name."""
    plan = parse(PLAN, "plan.yaml")
    item = staged(tmp_path, name="hne")
    item.path.write_bytes(b"other")
    with pytest.raises(BrokenInputError, match="changed since it was verified"):
        place(plan, [item], tmp_path)
    assert not (tmp_path / "data" / "cache" / "hne.h5ad").exists()


SERVED = """
version: 1
name: p
notebooks: [{name: n, path: n.ipynb, datasets: [census, hne]}]
datasets:
  census: {url: "https://data.example.org/raw/dli_census.txt", path: census.txt}
  hne: {url: "https://data.example.org/hne", path: hne, place: {path: data/hne, env: {HNE: "{checkout}/data"}}}
"""


def test_a_run_gets_its_data_from_the_cache(tmp_path):
    """URLs to replace, URLs that need not stand in the source, variables, and what was placed."""
    plan = parse(SERVED, "plan.yaml")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "census.txt").write_bytes(TEXT)
    (cache / "hne").write_bytes(b"h")
    with serving(plan, ["census", "hne"], cache=cache, checkout=tmp_path, environment={}) as served:
        assert served.unasked == ("census",)  # the library needs no download of what was placed
        assert get(served.replacements[URL]).read() == TEXT
        assert served.unasked == ()
        assert served.placed == {"https://data.example.org/hne"}
        assert served.env["HNE"] == f"{tmp_path.resolve()}/data"
        assert "127.0.0.1" in served.env["no_proxy"]
        assert (tmp_path / "data" / "hne").read_bytes() == b"h"
        assert [change.rule for change in served.changes] == ["place"]
        assert served.warnings == ()


def test_a_dataset_that_is_not_in_the_cache_stops_the_run(tmp_path):
    """Before a GPU is held for a download; without a cache the notebook fetches by itself, unless offline."""
    plan = parse(SERVED, "plan.yaml")
    with (
        pytest.raises(BrokenInputError, match=r"not in the cache .*: census"),
        serving(plan, ["census"], cache=tmp_path, checkout=tmp_path),
    ):
        pass
    with serving(plan, ["census"], cache=None, checkout=tmp_path) as served:
        assert served.replacements == {}
        assert served.env == {}
        assert "census" in served.warnings[0]
    with (
        pytest.raises(BrokenInputError, match="offline, but no cache given for census"),
        serving(plan, ["census"], cache=None, checkout=tmp_path, offline=True),
    ):
        pass


def test_a_run_without_datasets_is_left_alone(tmp_path):
    """No variable is set; offline, everything else is refused all the same."""
    with serving(None, [], cache=None, checkout=tmp_path) as served:
        assert served.env == {}
    with serving(None, [], cache=None, checkout=tmp_path, offline=True, environment={}) as served:
        assert served.env["https_proxy"].startswith("http://127.0.0.1:")
