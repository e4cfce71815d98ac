# SPDX-License-Identifier: Apache-2.0
"""A dataset is whole, verified and under its name, or it is not there; whatever the server does."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import gzip
import hashlib
import json
import os
import pty
import random
import re
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import asdict, replace
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.cli import PATIENCE
from support.proxy import Proxy, proxying
from support.server import Reply, Server, serving

from runner.core import log
from runner.core.errors import BrokenInputError, NetworkError, PlanError, RefusedError, UsageError
from runner.data import fetch as fetch_stage
from runner.data.download import progress_bar
from runner.data.download.partial import Version
from runner.data.download.request import Limits
from runner.data.download.transfer import Patience
from runner.data.locate import locate, shown
from runner.plan.model import Plan, parse

MB = 1 << 20
CONTENT = random.Random(7).randbytes(12 * MB + 4321)
QUICK = Limits(attempts=4, backoff_seconds=0.01, longest_wait_seconds=0.2, connect_seconds=5, stall_seconds=1)


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def plan(**datasets) -> Plan:
    document = {"version": 1, "name": "p", "notebooks": [{"name": "n", "path": "n.ipynb"}], "datasets": datasets}
    return parse(json.dumps(document), "plan.yaml")


def fetch(tmp_path, url, *, limits=QUICK, connections=4, offline=False, watcher=None, **fields):
    """Fetch one dataset that is called `data`."""
    wanted = plan(data={"url": url, "path": "sub/data.bin", **fields})
    (staged,) = fetch_stage.fetch(
        wanted, cache=tmp_path, connections=connections, limits=limits, offline=offline, watcher=watcher
    )
    return staged


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def left(tmp_path) -> set[str]:
    """Return the names of all files in the cache, locks left out."""
    return {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}


# What arrives


@pytest.mark.parametrize("connections", [1, 3, 8])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_the_file_is_the_servers(tmp_path, server, connections, ranges, chunked):
    """With ranges and without, with a length and without, on one connection and on many."""
    url = server.add("/data.bin", Reply(content=CONTENT, ranges=ranges, chunked=chunked))
    staged = fetch(tmp_path, url, connections=connections, sha256=sha256(CONTENT), bytes=len(CONTENT))
    assert staged.path.read_bytes() == CONTENT
    assert (staged.bytes, staged.sha256, staged.verified_by, staged.fetched) == (
        len(CONTENT),
        sha256(CONTENT),
        "sha256",
        True,
    )
    assert left(tmp_path) == {"data.bin", "data.bin.json"}


@pytest.mark.parametrize(("status", "says_range"), [(200, True), (200, False), (206, False)])
def test_a_part_is_never_taken_for_the_whole(tmp_path, server, status, says_range):
    """Servers that send a range with the wrong status, or do not say which, give the whole file or none."""
    reply = Reply(content=CONTENT, range_status=status, says_range=says_range)
    assert fetch(tmp_path, server.add("/data.bin", reply)).path.read_bytes() == CONTENT
    assert (len(server.ranges) > 2) is says_range


@pytest.mark.parametrize("size", [1, 2 * MB - 1, 2 * MB, 2 * MB + 1, 4 * MB + 1])
def test_sizes_at_the_edges_of_ranges_are_whole(tmp_path, server, size):
    """One byte, and one more or less than a range."""
    url = server.add("/data.bin", Reply(content=CONTENT[:size]))
    assert fetch(tmp_path, url).path.read_bytes() == CONTENT[:size]


def test_an_empty_file_is_fetched_only_if_the_plan_says_so(tmp_path, server):
    """Zero bytes are what a failed download looks like."""
    url = server.add("/data.bin", Reply(content=b""))
    with pytest.raises(BrokenInputError, match=r"it is empty \(0 bytes\)"):
        fetch(tmp_path, url)
    assert fetch(tmp_path, url, bytes=0).bytes == 0


def test_several_connections_are_used(tmp_path, server):
    """A server that throttles each connection is asked on as many as allowed, and not on more."""
    url = server.add("/data.bin", Reply(content=CONTENT, bytes_per_second=20 * MB))
    fetch(tmp_path, url, connections=4)
    assert 2 <= server.most_connections <= 4
    assert len(server.ranges) > 3


def test_what_is_staged_is_not_fetched_again(tmp_path, server):
    """The second fetch asks the server nothing."""
    url = server.add("/data.bin", Reply(content=CONTENT))
    fetch(tmp_path, url)
    asked = len(server.requests)
    assert not fetch(tmp_path, url).fetched
    assert len(server.requests) == asked


def test_without_a_checksum_the_hash_is_reported(tmp_path, server):
    """So that it can be pinned."""
    lines = []
    stop = log.add_sink(lines.append)
    staged = fetch(tmp_path, server.add("/data.bin", Reply(content=CONTENT)))
    stop()
    assert staged.verified_by is None
    assert any("dataset-unverified" in line and sha256(CONTENT) in line for line in lines)


def test_redirects_are_followed(tmp_path, server):
    """To another path, as download pages do."""
    server.add("/real.bin", Reply(content=CONTENT))
    url = server.add("/data", Reply(statuses=[302] * 50, headers={"Location": server.url + "/real.bin"}))
    assert fetch(tmp_path, url).bytes == len(CONTENT)


# What can pass


@pytest.mark.parametrize("status", [202, 408, 429, 500, 502, 503, 504])
def test_what_can_pass_is_tried_again(tmp_path, server, status):
    """Busy servers, and an answer 202 with nothing."""
    url = server.add("/data.bin", Reply(content=CONTENT, statuses=[status, status]))
    assert fetch(tmp_path, url).path.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [202, 500])
def test_what_does_not_pass_is_a_network_error(tmp_path, server, status):
    """After all tries; the message says what the server did and that it can go on later."""
    url = server.add("/data.bin", Reply(content=CONTENT, statuses=[status] * 99))
    with pytest.raises(NetworkError, match=f"answered {status}.*, 4 times in a row") as caught:
        fetch(tmp_path, url)
    assert caught.value.exit_code == 75
    assert len(server.requests) == 4
    assert "data.bin" not in left(tmp_path)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(tmp_path, server, form):
    """As long as the server asks, as a number or as a date."""
    lines = []
    stop = log.add_sink(lines.append)
    value = "2" if form == "seconds" else formatdate(time.time() + 2.9, usegmt=True)
    reply = Reply(content=b"x", statuses=[429], headers={"Retry-After": value})
    patient = Limits(attempts=4, backoff_seconds=0.01, longest_wait_seconds=10)
    fetch(tmp_path, server.add("/data.bin", reply), limits=patient)
    stop()
    (retry,) = [line for line in lines if "fetch-retry" in line]
    assert 1 <= float(retry.rpartition("again_in=")[2].removesuffix("s")) <= 3


def test_a_server_that_has_too_many_gets_fewer_connections(tmp_path, server):
    """Answered 429, half of the connections remain."""
    reply = Reply(content=CONTENT)
    refuse = iter([False, True, True, False])
    reply.before = lambda: reply.statuses.append(429) if next(refuse, False) else None
    assert fetch(tmp_path, server.add("/data.bin", reply), connections=8).path.read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_continued(tmp_path, server, ranges):
    """Where it stopped, or from the start if the server cannot."""
    url = server.add("/data.bin", Reply(content=CONTENT, ranges=ranges, cut_after=[100_000, 5, 0]))
    assert fetch(tmp_path, url).path.read_bytes() == CONTENT
    if ranges:
        assert any(asked.startswith("bytes=100000-") for asked in server.ranges)


def test_a_connection_that_stalls_is_given_up(tmp_path, server):
    """Half of a body and then nothing does not hold the download for ever."""
    url = server.add("/data.bin", Reply(content=CONTENT, stalls=1))
    assert fetch(tmp_path, url).path.read_bytes() == CONTENT


def test_a_server_that_announces_more_than_it_sends_is_not_believed(tmp_path, server):
    """The connection ends early each time; what is missing is an error, never a short file."""
    url = server.add("/data.bin", Reply(content=b"x" * 1000, ranges=False, announced=5000))
    with pytest.raises(NetworkError, match="times in a row"):
        fetch(tmp_path, url)
    assert "data.bin" not in left(tmp_path)


def test_a_server_that_is_not_there_is_a_network_error(tmp_path):
    """Nobody listens."""
    with pytest.raises(NetworkError, match="times in a row"):
        fetch(tmp_path, "http://127.0.0.1:9/data.bin")


def cut_off() -> None:
    raise ConnectionResetError


def test_several_streams_that_fail_at_once_are_one_fault(tmp_path, server):
    """All connections of a server that goes away for a moment end together; that is one try and not eight."""
    reply = Reply(content=CONTENT)
    reply.before = lambda: cut_off() if 2 <= len(server.requests) <= 6 else None
    url = server.add("/data.bin", reply)
    lines = []
    stop = log.add_sink(lines.append)
    assert fetch(tmp_path, url, connections=5, limits=replace(QUICK, attempts=3)).path.read_bytes() == CONTENT
    stop()
    assert 1 <= sum("fetch-retry" in line for line in lines) <= 2


def test_a_server_that_serves_one_connection_is_content_with_one(tmp_path, server):
    """However many were wanted; being told so is no reason to give up."""
    reply = Reply(content=CONTENT, at_once=1, headers={"Retry-After": "0"}, bytes_per_second=32 * MB)
    url = server.add("/data.bin", reply)
    assert fetch(tmp_path, url, connections=16, limits=replace(QUICK, attempts=2)).path.read_bytes() == CONTENT


def test_faults_are_counted_by_rounds():
    """A round is what was asked for between two pauses; progress begins the count anew, waiting does not."""
    now = [0.0]
    patience = Patience(Limits(attempts=3, backoff_seconds=1), clock=lambda: now[0])
    assert patience.fault(0, 0, retry_after=None)
    assert not any(patience.fault(0, 0, retry_after=None) for _ in range(20))
    assert 0.8 <= patience.pause_seconds <= 1.2
    assert patience.fault(1, 0, retry_after=7, counts=False)
    assert patience.pause_seconds == 7
    assert not patience.fault(1, 0, retry_after=9)
    assert patience.pause_seconds == 9
    now[0] = 9
    assert patience.pause_seconds == 0
    assert patience.fault(2, 0, retry_after=None)
    assert (patience.faults, patience.exhausted) == (2, False)
    assert patience.fault(3, MB, retry_after=None)
    assert (patience.faults, patience.exhausted) == (1, False)
    for number in (4, 5):
        patience.fault(number, MB, retry_after=None)
    assert patience.exhausted


def test_restarts_are_counted_whatever_comes_between_them():
    """A server that never has the same file twice is given up."""
    patience = Patience(Limits(attempts=3, backoff_seconds=1))
    for there in (MB, 5 * MB, 9 * MB):
        assert not patience.exhausted
        patience.fault(patience.round, there, retry_after=None)
        patience.restart()
    assert patience.exhausted


# What cannot pass


@pytest.mark.parametrize("status", [400, 404, 410, 451])
def test_what_cannot_pass_is_not_tried_again(tmp_path, server, status):
    """One request, and the status in the message."""
    url = server.add("/data.bin", Reply(statuses=[status] * 9))
    with pytest.raises(BrokenInputError, match=f"answered {status}"):
        fetch(tmp_path, url)
    assert len(server.requests) == 1


def test_a_refused_access_names_the_missing_variable(tmp_path, server, monkeypatch):
    """For the hub its token; a token that is set and refused is said to be so."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    url = server.add("/data.bin", Reply(content=CONTENT, token="Bearer good"))
    with pytest.raises(BrokenInputError, match="answered 401: access needs HF_TOKEN, which is not set"):
        fetch(tmp_path, url)
    monkeypatch.setenv("HF_TOKEN", "bad-token")
    with pytest.raises(BrokenInputError, match="HF_TOKEN, which is set but was rejected") as caught:
        fetch(tmp_path, url)
    assert "bad-token" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "good")
    assert fetch(tmp_path, url).bytes == len(CONTENT)
    assert len(server.requests) - 2 == len(server.ranges) - 2


def test_a_token_does_not_follow_a_redirect_to_another_host(tmp_path, server, monkeypatch):
    """The hub sends downloads elsewhere, and elsewhere must not learn the token."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serving() as other:
        target = other.add("/real.bin", Reply(content=b"data")).replace("127.0.0.1", "localhost")
        fetch(tmp_path, server.add("/data.bin", Reply(statuses=[302] * 9, headers={"Location": target})))
        assert server.requests[0][2]["authorization"] == "Bearer secret"
        assert all("authorization" not in headers for _method, _path, headers in other.requests)


def test_a_redirect_to_another_protocol_is_refused(tmp_path, server):
    """A server cannot make the download read local files."""
    url = server.add("/data.bin", Reply(statuses=[302] * 9, headers={"Location": "file:///etc/hostname"}))
    with pytest.raises(BrokenInputError, match=r"[Pp]rotocol"):
        fetch(tmp_path, url)


def test_a_web_page_is_no_dataset(tmp_path, server):
    """A login page answers 200 as well."""
    url = server.add("/data.bin", Reply(content=b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}))
    with pytest.raises(BrokenInputError, match="is a web page"):
        fetch(tmp_path, url)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"9" * 64 + b"\nsize 330454481\n"
PAGE = b"<!doctype html>\n<html lang=en>\n<title>Sign in</title>"
DENIED = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>'
HDF5 = b"\x89HDF\r\n\x1a\n" + b"\0" * 100


@pytest.mark.parametrize("source", ["http", "file", "cache"])
@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("d.h5ad", LFS, "a git-lfs pointer, not the file itself, which has 330454481 bytes"),
        ("d.csv", LFS, "a git-lfs pointer"),
        ("d", LFS, "a git-lfs pointer"),
        ("d.h5ad", PAGE, "an HTML page ('Sign in')"),
        ("d.csv", PAGE, "an HTML page"),
        ("d", b"\n <!-- login -->\n<HTML>", "an HTML page"),
        ("d.zarr.tar.gz", DENIED, "an XML error message ('AccessDenied')"),
        ("d.csv", DENIED, "an XML error message"),
        ("d", DENIED, "an XML error message"),
        ("d.tsv", b"<?xml version='1.0'?><list/>", "an XML document"),
        (
            "d.h5ad",
            b'{"error": "not found"}',
            'not a valid .h5ad file (HDF5): it begins with b\'{"error": "not found"}\'',
        ),
        ("D.H5AD", b"\x1f\x8b\x08", "not a valid .h5ad file (HDF5)"),
        ("d.csv.gz", b"gene,cell\n", "not a valid .gz file (gzip)"),
        ("d.npz", HDF5, "not a valid .npz file (zip)"),
    ],
)
def test_what_comes_in_place_of_the_data_is_named_for_what_it_is(tmp_path, server, path, content, message, source):
    """Pointers, pages and error messages are refused without a checksum too, wherever they come from, and not kept."""
    headers = {"Content-Type": "application/octet-stream"}
    url = server.add("/" + path, Reply(content=content, headers=headers))
    if source == "file":
        (tmp_path / path).write_bytes(content)
        url = f"file://{tmp_path / path}"
    cache = tmp_path / "cache"
    if source == "cache":
        cache.mkdir()
        (cache / path).write_bytes(content)
    with pytest.raises(BrokenInputError) as caught:
        fetch_stage.fetch(plan(data={"url": url, "path": path}), cache=cache, limits=QUICK)
    assert message in str(caught.value)
    assert source == "cache" or not (cache / path).exists()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("d.h5ad", HDF5),
        ("d.h5", b"\0" * 2048 + HDF5),
        ("d.csv.gz", b"\x1f\x8b\x08"),
        ("d.csv", b"<a,b\n"),
        ("d.html", PAGE),
        ("d.xml", DENIED),
        ("d", b"<?xml version='1.0'?><list/>"),
        ("d.bin", b"version https://git-lfs.github.com/spec/v1 is a text"),
    ],
)
def test_data_is_taken_for_what_it_is(tmp_path, server, path, content):
    """Names and first bytes that fit each other, or promise nothing, are no reason to refuse."""
    url = server.add("/" + path, Reply(content=content))
    (staged,) = fetch_stage.fetch(plan(data={"url": url, "path": path}), cache=tmp_path, limits=QUICK)
    assert staged.path.read_bytes() == content


def test_a_checksum_decides_against_the_name(tmp_path, server):
    """What the plan pins is what the plan wants, whatever it is called; what it does not want is named."""
    url = server.add("/d.h5ad", Reply(content=LFS))
    staged = fetch(tmp_path, url, sha256=sha256(LFS))
    assert staged.path.read_bytes() == LFS
    with pytest.raises(BrokenInputError, match=r"its sha256 is .*; it is a git-lfs pointer"):
        fetch(tmp_path / "other", url, sha256="0" * 64)


@pytest.mark.parametrize("fields", [{}, {"sha256": sha256(CONTENT)}, {"bytes": len(CONTENT)}])
def test_gzip_that_nobody_asked_for_is_named(tmp_path, server, fields):
    """Encoded bytes are never staged as the file."""
    packed = gzip.compress(CONTENT)
    url = server.add("/data.bin", Reply(content=packed, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(BrokenInputError, match="the server sent it gzip-encoded"):
        fetch(tmp_path, url, **fields)
    assert not {"data.bin", "data.bin.json"} & left(tmp_path)


@pytest.mark.parametrize(("path", "pinned"), [("d.csv.gz", False), ("d.bin", True)])
def test_a_stored_gzip_file_that_is_called_encoded_is_the_file(tmp_path, server, path, pinned):
    """Some servers call the file itself an encoding: its name or its checksum says that it is the file."""
    packed = gzip.compress(CONTENT)
    url = server.add("/" + path, Reply(content=packed, headers={"Content-Encoding": "gzip"}))
    fields = {"sha256": sha256(packed)} if pinned else {}
    (staged,) = fetch_stage.fetch(plan(data={"url": url, "path": path, **fields}), cache=tmp_path, limits=QUICK)
    assert staged.path.read_bytes() == packed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sha256": "0" * 64}, f"its sha256 is {sha256(CONTENT)}, the plan has 000"),
        ({"md5": "0" * 32}, "its md5 is .*, the plan has 000"),
        ({"bytes": 5}, f"it has {len(CONTENT)} bytes, the plan has 5"),
    ],
)
def test_another_content_than_the_plans_is_refused_and_not_kept(tmp_path, server, fields, message):
    """Nothing stays that could be taken for the dataset; a wrong size is seen before a byte is written."""
    with pytest.raises(BrokenInputError, match=message):
        fetch(tmp_path, server.add("/data.bin", Reply(content=CONTENT)), **fields)
    assert not {"data.bin", "data.bin.json"} & left(tmp_path)


def test_md5_verifies(tmp_path, server):
    """Older archives publish nothing else."""
    digest = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert fetch(tmp_path, server.add("/data.bin", Reply(content=CONTENT)), md5=digest.upper()).verified_by == "md5"


def test_the_disk_is_looked_at_before_the_first_byte(tmp_path, server, monkeypatch):
    """Too little room is refused with both numbers, by the plan's size and by the server's."""
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=1000))
    url = server.add("/data.bin", Reply(content=CONTENT))
    with pytest.raises(RefusedError, match=r"12\.6 MB needed, .* has 1\.0 kB free"):
        fetch(tmp_path, url, bytes=len(CONTENT))
    assert server.requests == []
    with pytest.raises(RefusedError, match=r"12\.6 MB needed"):
        fetch(tmp_path, url)
    assert all(path.stat().st_size == 0 for path in tmp_path.rglob("*.part"))


# Resuming


CHILD = """
import sys
from pathlib import Path
from runner.data.fetch import fetch
from runner.plan.model import load
fetch(load(Path(sys.argv[1])), cache=Path(sys.argv[2]), connections=int(sys.argv[3]))
"""


def start_child(tmp_path, url, *, connections=3, **fields):
    """Fetch in a process of its own, to be killed."""
    path = tmp_path / "plan.yaml"
    path.write_text(plan(data={"url": url, "path": "sub/data.bin", **fields}).model_dump_json(by_alias=True))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, str(path), str(tmp_path / "cache"), str(connections)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=PATIENCE):
    """Wait for something that will happen, for as long as a slow machine needs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_killed_fetch_is_continued(tmp_path, server, how, pinned):
    """The next one asks only for what is missing, and the file is right."""
    reply = Reply(content=CONTENT, bytes_per_second=1.5 * MB)
    fields = {"sha256": sha256(CONTENT)} if pinned else {}
    child = start_child(tmp_path, server.add("/data.bin", reply), **fields)
    journal = tmp_path / "cache" / ".staged" / "sub" / "data.bin.journal"
    wait_for(lambda: journal.exists() and sum(b - a for a, b in json.loads(journal.read_text())["done"]) > MB)
    child.send_signal(how)
    child.communicate()
    there = sum(end - start for start, end in json.loads(journal.read_text())["done"])
    assert not (tmp_path / "cache" / "sub" / "data.bin").exists()
    server.requests.clear()
    reply.bytes_per_second = None
    staged = fetch(tmp_path / "cache", server.url + "/data.bin", **fields)
    assert staged.path.read_bytes() == CONTENT
    asked = [tuple(map(int, value.removeprefix("bytes=").split("-"))) for value in server.ranges]
    assert sum(end - start + 1 for start, end in asked) <= len(CONTENT) - there + 2 * MB


def test_a_file_that_changed_upstream_is_not_mixed(tmp_path, server):
    """Half of the old one and half of the new one is neither."""
    reply = Reply(content=CONTENT, cut_after=[3 * MB] * 50, statuses=[])
    reply.before = lambda: reply.statuses.append(500) if len(server.requests) > 2 else None
    url = server.add("/data.bin", reply)
    with pytest.raises(NetworkError):
        fetch(tmp_path, url, connections=1)
    assert (tmp_path / ".staged" / "sub" / "data.bin.journal").exists()
    newer = bytes(reversed(CONTENT))
    server.add("/data.bin", Reply(content=newer, etag='"v2"'))
    assert fetch(tmp_path, url).path.read_bytes() == newer


def test_a_continued_download_that_does_not_verify_is_begun_anew(tmp_path, server):
    """Bytes of a part file that went wrong do not make the dataset unfetchable."""
    staged = tmp_path / ".staged" / "sub"
    staged.mkdir(parents=True)
    url = server.add("/data.bin", Reply(content=CONTENT))
    (staged / "data.bin.part").write_bytes(b"\0" * MB)
    version = asdict(Version.of(url, len(CONTENT), {"etag": '"v1"'}))
    (staged / "data.bin.journal").write_text(json.dumps({"version": version, "boot": "", "done": [[0, MB]]}))
    assert fetch(tmp_path, url, sha256=sha256(CONTENT)).path.read_bytes() == CONTENT


@pytest.mark.parametrize("pinned", [True, False])
def test_a_server_that_names_each_answer_anew_is_asked_a_few_times(tmp_path, server, pinned):
    """As nodes behind a load balancer do: then a checksum tells, or the file comes in one answer."""
    reply = Reply(content=CONTENT)
    reply.before = lambda: setattr(reply, "etag", f'"{len(server.requests)}"')
    fields = {"sha256": sha256(CONTENT)} if pinned else {}
    assert fetch(tmp_path, server.add("/data.bin", reply), **fields).path.read_bytes() == CONTENT
    assert len(server.requests) < 25
    assert ("range" in server.requests[-1][2]) is pinned


def test_a_server_that_has_another_size_each_time_is_given_up(tmp_path, server):
    """With a checksum as well: parts of files of two sizes never make the wanted one."""
    reply = Reply(content=CONTENT)
    reply.before = lambda: setattr(reply, "content", reply.content[:-1])
    url = server.add("/data.bin", reply)
    with pytest.raises(NetworkError, match=r"the file changed on the server: total was .*, restarted 4 times"):
        fetch(tmp_path, url, sha256=sha256(CONTENT))
    assert len(server.requests) < 40


def test_a_range_that_makes_no_sense_is_asked_for_a_few_times(tmp_path, server):
    """A size that is not told, a range that is not the one, and one that holds nothing."""
    for said in ("bytes 0-99/*", "bytes 5-104/1000", "bytes 0-99/50", "bytes 0-99/1000"):
        reply = Reply(content=CONTENT[:100], content_range=said)
        with pytest.raises(NetworkError, match=r"times"):
            fetch(tmp_path, server.add("/data.bin", reply))
    assert len(server.requests) < 40


def test_a_file_that_shrinks_while_it_comes_in_one_answer_is_the_later_one(tmp_path, server):
    """The size of the first answer says nothing about the second, when nothing is continued."""
    reply = Reply(content=CONTENT, ranges=False, cut_after=[MB])
    url = server.add("/data.bin", reply)
    reply.before = lambda: setattr(reply, "content", CONTENT[: 3 * MB]) if len(server.requests) > 1 else None
    assert fetch(tmp_path, url).path.read_bytes() == CONTENT[: 3 * MB]
    assert len(server.requests) == 2


def half_fetched(tmp_path, server, reply, **fields) -> str:
    """Leave a download that stopped in the middle and return its URL."""
    reply.cut_after = [3 * MB] * 50
    reply.before = lambda: reply.statuses.append(500) if len(server.requests) > 2 else None
    url = server.add("/data.bin", reply)
    with pytest.raises(NetworkError):
        fetch(tmp_path, url, connections=1, **fields)
    server.requests.clear()
    return url


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({"Last-Modified": formatdate(1e9, usegmt=True)}, {"Last-Modified": formatdate(1.1e9, usegmt=True)}),
        ({"ETag": 'W/"a"'}, {"ETag": 'W/"b"'}),
        ({}, {}),
    ],
)
@pytest.mark.parametrize("pinned", [True, False])
def test_versions_are_told_apart_by_whatever_names_them(tmp_path, server, then, now, pinned):
    """By date and by a weak ETag as well; where nothing names them, nothing is continued."""
    newer = bytes(reversed(CONTENT))
    fields = {"sha256": sha256(newer)} if pinned else {}
    url = half_fetched(tmp_path, server, Reply(content=CONTENT, etag=None, headers=then), **fields)
    server.add("/data.bin", Reply(content=newer, etag=None, headers=now))
    assert fetch(tmp_path, url, **fields).path.read_bytes() == newer


def test_a_version_that_is_named_is_continued(tmp_path, server):
    """By a date alone, and by an ETag that a proxy made weak on the way."""
    date = {"Last-Modified": formatdate(1e9, usegmt=True)}
    url = half_fetched(tmp_path, server, Reply(content=CONTENT, etag='"a"', headers=date))
    server.add("/data.bin", Reply(content=CONTENT, etag='W/"a"', headers=date))
    assert fetch(tmp_path, url).path.read_bytes() == CONTENT
    assert not server.ranges[0].startswith("bytes=0-")


def test_on_a_slow_link_a_kill_costs_little(tmp_path, server):
    """What came in the first second is on the disk and in the record soon."""
    reply = Reply(content=CONTENT, bytes_per_second=100_000)
    child = start_child(tmp_path, server.add("/data.bin", reply))
    journal = tmp_path / "cache" / ".staged" / "sub" / "data.bin.journal"
    wait_for(lambda: journal.exists() or child.poll() is not None)
    child.kill()
    child.communicate()
    spans = json.loads(journal.read_text())["done"]
    assert 0 < sum(end - start for start, end in spans) < MB
    part = (journal.parent / "data.bin.part").read_bytes()
    assert all(part[start:end] == CONTENT[start:end] for start, end in spans)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"done": [[0, 5]]}', '{"done": "x", "version": {}, "boot": ""}'])
def test_a_damaged_journal_is_no_obstacle(tmp_path, server, text):
    """The download begins anew."""
    staged = tmp_path / ".staged" / "sub"
    staged.mkdir(parents=True)
    (staged / "data.bin.part").write_bytes(b"\0" * 100)
    (staged / "data.bin.journal").write_text(text)
    assert fetch(tmp_path, server.add("/data.bin", Reply(content=CONTENT))).path.read_bytes() == CONTENT


def test_two_fetches_at_once_do_it_once(tmp_path, server):
    """The second waits for the first and takes its file."""
    url = server.add("/data.bin", Reply(content=CONTENT, bytes_per_second=8 * MB))
    children = [start_child(tmp_path, url) for _ in range(2)]
    errors = [child.communicate(timeout=PATIENCE)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    assert sum("fetched" in line for text in errors for line in text.splitlines()) == 1
    assert (tmp_path / "cache" / "sub" / "data.bin").read_bytes() == CONTENT


# The cache


class Killed(BaseException):
    """Nothing that is done afterwards has an effect."""


def killed_at(step: int, monkeypatch) -> None:
    """Let this process do no more to files from its so manieth step on."""
    left = [step]

    def counted(function):
        def stepping(*arguments, **options):
            if threading.current_thread() is threading.main_thread():
                left[0] -= 1
                if left[0] <= 0:
                    raise Killed
            return function(*arguments, **options)

        return stepping

    for name in ("fsync", "replace", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_a_kill_while_a_file_takes_the_place_of_another_leaves_one_of_them(
    tmp_path, server, monkeypatch, pinned, scheme
):
    """After any step: the old file with its record or the new one with its own, and both plans work."""
    contents = {"old": b"old", "new": b"newer"}
    urls, checksums = {}, {}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        urls[name] = server.add(f"/{name}", Reply(content=content))
        if scheme == "file":
            urls[name] = f"file://{tmp_path}/{name}"
        checksums[name] = {"sha256": sha256(content)} if pinned else {}
    for step in range(1, 30):
        cache = tmp_path / f"cache{step}"
        fetch(cache, urls["old"], **checksums["old"])
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            killed_at(step, patch)
            fetch(cache, urls["new"], **checksums["new"])
            break
        there = (cache / "sub" / "data.bin").read_bytes()
        name = "old" if there == contents["old"] else "new"
        assert there == contents[name]
        assert not fetch(cache, urls[name], **checksums[name], offline=True).fetched
        for name in ("new", "old", "new"):
            assert fetch(cache, urls[name], **checksums[name]).path.read_bytes() == contents[name]
        assert {path for path in left(cache) if not path.startswith(".")} == {"data.bin", "data.bin.json"}
    assert 5 < step < 29


def test_a_staged_file_that_changed_is_broken_input(tmp_path, server):
    """Another size, or other bytes; touched or copied it is still the same."""
    url = server.add("/data.bin", Reply(content=CONTENT))
    path = fetch(tmp_path, url).path
    os.utime(path, (1, 1))
    assert not fetch(tmp_path, url).fetched
    path.write_bytes(b"?" + CONTENT[1:])
    with pytest.raises(BrokenInputError, match="changed since it was verified: sha256"):
        fetch(tmp_path, url)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(BrokenInputError, match="changed since it was verified: 12"):
        fetch(tmp_path, url, offline=True)


def test_a_file_somebody_put_there_is_verified(tmp_path):
    """Without network; if it is not the plan's, that is said."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data.bin").write_bytes(b"data")
    url = "https://data.example.org/data.bin"
    assert fetch(tmp_path, url, offline=True, sha256=sha256(b"data")).bytes == 4
    (tmp_path / ".staged" / "sub" / "data.bin.json").unlink()
    with pytest.raises(BrokenInputError, match="does not match the plan"):
        fetch(tmp_path, url, offline=True, sha256="0" * 64)


def test_offline_says_what_is_missing(tmp_path):
    """All of it, and where it was looked for."""
    wanted = plan(a={"url": "https://x.org/a", "path": "a"}, b={"url": "https://x.org/b", "path": "b"})
    with pytest.raises(BrokenInputError, match=f"not in the cache {tmp_path}: a, b"):
        fetch_stage.fetch(wanted, cache=tmp_path, offline=True)


def test_another_url_or_checksum_in_the_plan_fetches_anew(tmp_path, server):
    """The plan decides what the file is; a pinned file stays whatever its URL."""
    server.add("/old", Reply(content=b"old"))
    server.add("/new", Reply(content=b"new"))
    assert fetch(tmp_path, server.url + "/old").path.read_bytes() == b"old"
    assert fetch(tmp_path, server.url + "/new").path.read_bytes() == b"new"
    assert not fetch(tmp_path, server.url + "/old", sha256=sha256(b"new")).fetched
    assert fetch(tmp_path, server.url + "/old", sha256=sha256(b"old")).path.read_bytes() == b"old"


def test_only_named_datasets_are_fetched(tmp_path, server):
    """None means all, an empty list none; an unknown name lists the known ones."""
    wanted = plan(
        a={"url": server.add("/a", Reply(content=b"a")), "path": "a"}, b={"url": "https://x.org/b", "path": "b"}
    )
    assert [item.name for item in fetch_stage.fetch(wanted, ["a"], cache=tmp_path)] == ["a"]
    assert fetch_stage.fetch(wanted, [], cache=tmp_path) == []
    with pytest.raises(PlanError, match=r"no dataset 'c' \(it has a, b\)"):
        fetch_stage.fetch(wanted, ["c"], cache=tmp_path)


# Other places than the web


def test_local_files_are_copied_and_verified(tmp_path):
    """A file URL; the original stays."""
    source = tmp_path / "my data.bin"
    source.write_bytes(CONTENT)
    staged = fetch(tmp_path / "cache", f"file://{tmp_path}/my%20data.bin", sha256=sha256(CONTENT))
    assert staged.path.read_bytes() == CONTENT == source.read_bytes()
    with pytest.raises(BrokenInputError, match="cannot be copied: No such file"):
        fetch(tmp_path / "c2", f"file://{tmp_path}/none")
    with pytest.raises(BrokenInputError, match="cannot be copied: Is a directory"):
        fetch(tmp_path / "c2", f"file://{tmp_path}")
    with pytest.raises(BrokenInputError, match="has the host 'server'"):
        fetch(tmp_path / "c2", "file://server/share")


def test_a_local_file_that_cannot_be_read_is_broken_input(tmp_path):
    """The source is named and not the cache."""
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for source, reason in {
        "/proc/self/mem": "Input/output error",
        f"{tmp_path}/file/below": "Not a directory",
        f"{tmp_path}/pipe": "Is not a regular file",
    }.items():
        with pytest.raises(BrokenInputError, match=f"{source} cannot be copied: {reason}"):
            fetch(tmp_path / "cache", f"file://{source}")
    if os.getuid():
        (tmp_path / "file").chmod(0)
        with pytest.raises(BrokenInputError, match="file cannot be copied: Permission denied"):
            fetch(tmp_path / "cache", f"file://{tmp_path}/file")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://x.org/a", "has the unknown scheme 'ftp'; use one of http, https, s3, hf, file"),
        ("data.bin", "has the unknown scheme ''"),
        ("https:///a", "has no host"),
        ("s3://bucket", "is not of the form s3://BUCKET/KEY"),
        ("hf://datasets/owner/name", "is not of the form hf://"),
    ],
)
def test_other_urls_are_refused(url, message):
    """With what is known."""
    if url.startswith("s3"):
        pytest.importorskip("boto3")
    if url.startswith("hf"):
        pytest.importorskip("huggingface_hub")
    with pytest.raises(BrokenInputError, match=message):
        locate(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("hf://datasets/owner/name/dir/f.h5ad", "/datasets/owner/name/resolve/main/dir/f.h5ad"),
        ("hf://datasets/owner/name@v1/f.h5ad", "/datasets/owner/name/resolve/v1/f.h5ad"),
        ("hf://owner/model/f.bin", "/owner/model/resolve/main/f.bin"),
    ],
)
def test_hub_urls_are_resolved(tmp_path, server, monkeypatch, url, path):
    """Repository, revision and file, at the endpoint that is set."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "t")
    server.add(path, Reply(content=b"data", token="Bearer t"))
    assert fetch(tmp_path, url).path.read_bytes() == b"data"


def test_s3_urls_are_signed_with_the_credentials_there_are(tmp_path, server, monkeypatch):
    """A signature in the query with credentials, none without; neither reaches a message."""
    pytest.importorskip("boto3")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    signed = locate("s3://bucket/dir/f.h5ad")
    assert signed.url.startswith(f"{server.url}/bucket/dir/f.h5ad?")
    assert "X-Amz-Signature" in signed.url
    assert "Signature" not in shown(signed.url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    server.add("/bucket/dir/f.h5ad", Reply(content=b"public"))
    assert fetch(tmp_path, "s3://bucket/dir/f.h5ad").path.read_bytes() == b"public"
    with pytest.raises(BrokenInputError, match="answered 404"):
        fetch(tmp_path, "s3://bucket/none")


@pytest.fixture
def object_store(tmp_path):
    """Run a real S3 server over a folder; give the folder and its address."""
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if rclone is None:
        pytest.skip("no rclone")
    pytest.importorskip("boto3")
    folder = tmp_path / "store"
    (folder / "bucket" / "a dir").mkdir(parents=True)
    command = [rclone, "--config", str(tmp_path / "none"), "serve", "s3", "--addr", "127.0.0.1:0"]
    server = subprocess.Popen([*command, "--auth-key", "key,secret-secret", folder], stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if match := re.search(r"http://127\.0\.0\.1:\d+", line):
            yield folder, match.group()
            break
    server.kill()
    server.communicate()


@pytest.mark.parametrize("with_credentials", [True, False])
def test_a_real_object_store_answers_signed_requests_only(tmp_path, object_store, monkeypatch, with_credentials):
    """Ranges on several connections, each with a signature; without credentials the variables are named."""
    folder, endpoint = object_store
    (folder / "bucket" / "a dir" / "f.h5ad").write_bytes(CONTENT)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    if with_credentials:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-secret")
        assert fetch(tmp_path, "s3://bucket/a%20dir/f.h5ad").path.read_bytes() == CONTENT
    else:
        with pytest.raises(BrokenInputError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, which is not set"):
            fetch(tmp_path, "s3://bucket/a%20dir/f.h5ad")


@pytest.mark.parametrize(("library", "url"), [("boto3", "s3://b/k"), ("huggingface_hub", "hf://datasets/o/n/f")])
def test_a_missing_library_is_named(monkeypatch, library, url):
    """With what to install."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=f"{library} is not installed"):
        locate(url)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
def test_a_proxy_is_used(tmp_path, server, monkeypatch, name):
    """The request goes to the proxy, for a host that nobody could reach."""
    monkeypatch.setenv(name, server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server.add("http://data.invalid/data.bin", Reply(content=b"proxied"))
    assert fetch(tmp_path, "http://data.invalid/data.bin").path.read_bytes() == b"proxied"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Give a file with the key and the certificate of a server on this machine that nobody else trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=DNS:data.invalid,IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


@pytest.fixture
def secure(certificate, monkeypatch):
    """Give a server that speaks TLS, and is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(certificate))
    with serving(context) as running:
        yield running


@pytest.fixture
def proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with proxying() as running:
        monkeypatch.setenv("https_proxy", running.url)
        yield running


def elsewhere(url: str) -> str:
    """Return the URL with a host that only the proxy can find."""
    return url.replace("127.0.0.1", "data.invalid")


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_https_goes_through_a_tunnel_of_the_proxy(tmp_path, secure: Server, proxy: Proxy, ranges, pinned):
    """What the proxy says when it opens a tunnel is not taken for the answer of the server."""
    url = elsewhere(secure.add("/data.bin", Reply(content=CONTENT, ranges=ranges)))
    staged = fetch(tmp_path, url, **({"sha256": sha256(CONTENT)} if pinned else {}))
    assert staged.path.read_bytes() == CONTENT
    assert proxy.tunnels
    assert all(tunnel.startswith("data.invalid:") for tunnel in proxy.tunnels)
    assert secure.requests


def test_a_cut_download_is_continued_through_the_proxy(tmp_path, secure: Server, proxy: Proxy):
    """A download of several tunnels is one file; a tunnel that fails for the moment is tried again."""
    proxy.statuses = [503, 502]
    url = elsewhere(secure.add("/data.bin", Reply(content=CONTENT, cut_after=[MB, MB // 2])))
    assert fetch(tmp_path, url).path.read_bytes() == CONTENT


def test_an_empty_file_comes_through_the_proxy(tmp_path, secure: Server, proxy: Proxy):
    """The size of an empty file is the server's word, not the proxy's."""
    url = elsewhere(secure.add("/data.bin", Reply(content=b"", ranges=False)))
    assert fetch(tmp_path, url, bytes=0).bytes == 0


def test_a_proxy_gets_the_credentials_it_wants_or_is_named(tmp_path, secure: Server, proxy: Proxy, monkeypatch):
    """A refusal of the proxy is called that, with what to set; its password is in no message."""
    proxy.authorization = "Basic " + base64.b64encode(b"ada:pass-word").decode()
    url = elsewhere(secure.add("/data.bin", Reply(content=b"proxied")))
    with pytest.raises(NetworkError, match="the proxy answered 407") as caught:
        fetch(tmp_path, url)
    assert "USER:PASSWORD" in (caught.value.hint or "")
    monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//ada:pass-word@"))
    assert fetch(tmp_path, url).path.read_bytes() == b"proxied"
    proxy.statuses = [403]
    with pytest.raises(NetworkError, match="the proxy answered 403") as caught:
        fetch(tmp_path / "other", url)
    assert "no_proxy" in (caught.value.hint or "")
    assert "pass-word" not in str(caught.value)


def test_user_and_password_of_a_url_are_used_and_not_shown(tmp_path, server):
    """Neither in the log nor in an error."""
    lines = []
    stop = log.add_sink(lines.append)
    token = "Basic " + base64.b64encode(b"ada:pass-word").decode()
    server.add("/data.bin", Reply(content=b"x", token=token))
    url = server.url.replace("//", "//ada:pass-word@")
    fetch(tmp_path, url + "/data.bin")
    with pytest.raises(BrokenInputError) as caught:
        fetch(tmp_path / "other", url + "/none.bin")
    stop()
    assert "pass-word" not in str(caught.value)
    assert lines
    assert not any("pass-word" in line for line in lines)


def test_what_a_url_carries_is_nowhere_written(tmp_path, server, monkeypatch):
    """A token in the query is neither in the log, nor in the records, nor in the errors."""
    lines = []
    stop = log.add_sink(lines.append)
    path = "/data.bin?token=s3cret"
    reply = Reply(content=CONTENT, etag='"v1"')
    reply.before = lambda: setattr(reply, "etag", f'"{len(server.requests)}"')
    fetch(tmp_path, server.add(path, reply))
    half_fetched(tmp_path / "half", server, Reply(content=CONTENT))
    other = server.add("/data.bin?token=s3cret2", Reply(content=CONTENT))
    monkeypatch.setattr("runner.data.download.partial.Partial.finish", cut_off)
    with pytest.raises((NetworkError, TypeError)):
        fetch(tmp_path / "half", other)
    stop()
    assert any("fetch-restart" in line and "the file changed" in line for line in lines)
    written = [path for path in tmp_path.rglob("*") if path.suffix in {".json", ".journal"}]
    assert {path.suffix for path in written} == {".json", ".journal"}
    for text in (*lines, *(path.read_text() for path in written)):
        assert "s3cret" not in text


@pytest.mark.parametrize(
    ("endpoint", "url", "sent"),
    [
        (None, "https://huggingface.co/o/n/resolve/main/f", True),
        (None, "https://HuggingFace.co:443/o/n/resolve/main/f", True),
        (None, "http://huggingface.co/o/n/resolve/main/f", False),
        (None, "https://huggingface.co:8443/f", False),
        (None, "https://huggingface.co.evil.org/f", False),
        (None, "https://evil.org/huggingface.co", False),
        (None, "https://cdn.huggingface.co/f", False),
        ("https://hub.example.org", "https://hub.example.org/f", True),
        ("https://hub.example.org", "https://huggingface.co/f", False),
        ("http://hub.example.org", "http://hub.example.org/f", False),
        ("http://127.0.0.1:80", "http://127.0.0.1/f", True),
    ],
)
def test_the_token_of_the_hub_goes_to_the_hub_alone(monkeypatch, endpoint, url, sent):
    """To the very host, and never in the clear, except on this machine."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    if endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert ("Authorization" in locate(url).headers) is sent


def test_progress_on_a_terminal_is_a_bar(tmp_path, server):
    """With name, bytes and speed; what is logged meanwhile stays readable, the answer is on stdout."""
    url = server.add("/data.bin", Reply(content=CONTENT, bytes_per_second=4 * MB, statuses=[500]))
    path = tmp_path / "plan.yaml"
    path.write_text(plan(dataset={"url": url, "path": "data.bin"}).model_dump_json(by_alias=True))
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "runner", "fetch", str(path), "--cache", str(tmp_path / "c"), "--connections", "2"]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    shown_there = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(master, 65536):
            shown_there += data
    os.close(master)
    answer = child.communicate()[0]
    assert child.returncode == 0
    assert f"sha256={sha256(CONTENT)}" in answer
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown_there.decode())
    assert re.search(r"dataset .*━.* \d+\.\d/12\.6 MB .*B/s", text), text
    assert re.search(r"Z fetch-retry level=warning .*500", text), text


def test_progress_is_told_in_lines(tmp_path, server):
    """Where nobody watches, the log says now and then how far it is and how fast."""
    lines = []
    stop = log.add_sink(lines.append)
    url = server.add("/data.bin", Reply(content=CONTENT, bytes_per_second=8 * MB))
    fetch(tmp_path, url, watcher=functools.partial(progress_bar.lines, every_seconds=0.1), connections=2)
    stop()
    told = [line for line in lines if " fetching " in line]
    assert told
    assert all('of="12.6 MB"' in line and "rate=" in line for line in told)


def test_nothing_is_left_running(tmp_path, server):
    """No threads and no open files stay behind a failed fetch."""
    url = server.add("/data.bin", Reply(statuses=[404] * 9))
    before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(BrokenInputError):
            fetch(tmp_path, url)
    wait_for(lambda: threading.active_count() <= before[0] + 1)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before[1] + 2
