# SPDX-License-Identifier: Apache-2.0
"""What no node can host is known before anything waits for it."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from runner.cluster.api import Api
from runner.cluster.capacity import Node, Policy, Taint, judge, quantity, read_nodes
from runner.core.errors import NetworkError
from runner.core.records import (
    Cause,
    Failure,
    Gate,
    GateGpu,
    Metrics,
    Source,
    Status,
    read_metrics,
    to_json,
)
from runner.core.requirements import Requirements
from runner.plan.model import parse

PLAN = """
version: 1
name: test
defaults: {timeout: 10m}
notebooks:
- {name: small, path: a.ipynb, requires: {gpus: 0, cpus: 1, memory_gb: 2}}
- {name: gpu, path: b.ipynb, retry_larger: true, requires: {gpus: 1, gpu_memory_gb: 24, cpus: 8, memory_gb: 32}}
- {name: big, path: c.ipynb, optional: true, requires: {gpus: 8, gpu_memory_gb: 80, cpus: 8, memory_gb: 32}}
"""


@pytest.fixture
def notebooks():
    return parse(PLAN, "test").notebooks


def node(name="n", *, cpu=64.0, memory=256 * 2**30, gpus=0, memory_mib=None, **more):
    labels = {"nvidia.com/gpu.memory": str(memory_mib)} if memory_mib else {}
    allocatable = {"cpu": cpu, "memory": float(memory), "nvidia.com/gpu": float(gpus)}
    return Node(name=name, allocatable=allocatable, labels=labels, **more)


def outcomes(notebooks, nodes, policy=None):
    return {one.notebook: one.outcome for one in judge(notebooks, nodes, policy or Policy())}


def test_each_notebook_is_judged_by_what_it_asks(notebooks):
    """One 24 GB GPU hosts the small ones; the optional notebook with eight GPUs is skipped."""
    assert outcomes(notebooks, [node(gpus=1, memory_mib=23028)]) == {
        "small": "hosted",
        "gpu": "hosted",
        "big": "skipped",
    }
    assert outcomes(notebooks, [node(gpus=8, memory_mib=81559)])["big"] == "hosted"


def test_a_pod_cannot_ask_for_a_gpu_if_there_is_one():
    """With cpu_fallback it requests none, so any node hosts it."""
    text = PLAN.replace("retry_larger: true, ", "").replace(
        "gpus: 1, gpu_memory_gb: 24,", "gpus: 1, gpu_memory_gb: 24, cpu_fallback: true,"
    )
    assert outcomes(parse(text, "test").notebooks, [node()])["gpu"] == "hosted"


def test_a_required_notebook_without_a_node_is_refused_unless_all_may_be_skipped(notebooks):
    """Required means fail; a policy may skip it as well, or refuse the optional ones too."""
    nodes = [node()]
    assert outcomes(notebooks, nodes)["gpu"] == "refused"
    assert outcomes(notebooks, nodes, Policy(skip_all=True))["gpu"] == "skipped"
    assert outcomes(notebooks, nodes, Policy(skip_optional=False))["big"] == "refused"


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (node(gpus=1, memory_mib=15360), "has GPUs of 15360 MiB, 21744 MiB required"),
        (node(gpus=1), "has no label nvidia.com/gpu.memory"),
        (node(gpus=1, memory_mib=24564, cpu=4.0), "offers 4 CPU, 8 requested"),
        (node(gpus=1, memory_mib=24564, memory=16 * 2**30), "offers 16.0 GiB memory, 32 GiB requested"),
        (node(gpus=1, memory_mib=24564, unschedulable=True), "is cordoned"),
        (node(gpus=1, memory_mib=24564, taints=(Taint(key="team", value="x"),)), "has the taint team=x:NoSchedule"),
        (node(), "offers 0 nvidia.com/gpu, 1 requested"),
    ],
)
def test_the_reason_names_what_a_node_lacks(notebooks, made, why):
    """The message says which node lacks what, in the units of the request."""
    verdict = judge(notebooks, [made], Policy())[1]
    assert verdict.outcome == "refused"
    assert f"n: {why}" in verdict.reason


def test_tolerated_taints_keep_nobody_away(notebooks):
    """GPU nodes usually carry the taint that our runs tolerate; PreferNoSchedule only prefers."""
    taints = (Taint(key="nvidia.com/gpu"), Taint(key="x", effect="PreferNoSchedule"))
    assert outcomes(notebooks, [node(gpus=1, memory_mib=24564, taints=taints)])["gpu"] == "hosted"


def test_many_nodes_make_a_short_reason(notebooks):
    """A hundred nodes with one fault are told in one line; no nodes at all as well."""
    reason = judge(notebooks, [node(f"n{i}") for i in range(100)], Policy())[1].reason
    assert "and 97 more" in reason
    assert len(reason) < 400
    assert "the cluster has no nodes" in judge(notebooks, [], Policy())[1].reason


@pytest.mark.parametrize(
    ("text", "value"),
    [("1500m", 1.5), ("8", 8.0), ("16Gi", 16 * 2**30), ("1k", 1e3), ("2M", 2e6), ("1e3", 1e3), ("", 0.0), ("x", 0.0)],
)
def test_quantities_of_kubernetes(text, value):
    """Binary, decimal and milli units are read; what cannot be read is nothing."""
    assert quantity(text) == value


def test_nodes_as_the_api_gives_them():
    """A bare NodeList item is a node without anything, not an error."""
    (bare,) = read_nodes([{"metadata": {"name": "n"}}])
    assert bare == Node(name="n")


class ApiServer:
    """A Kubernetes API of one list, over TLS, in two pages."""

    def __init__(self, folder: Path, chain: str = "ca.crt") -> None:
        self.folder = folder
        self.items: list[dict] = []
        self.status = 200
        self.existing = "nothing"
        self.requests: list[tuple[str, str, dict]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            do_POST = do_DELETE = do_PATCH = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / chain, folder / "key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler) -> None:
        assert handler.headers["Authorization"] == "Bearer token-1"
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append((handler.command, handler.path, json.loads(body or "{}")))
        document: dict = {"items": self.items[:1], "metadata": {"continue": "more" if len(self.items) > 1 else ""}}
        if "more" in parse_qs(urlsplit(handler.path).query).get("continue", []):
            document = {"items": self.items[1:], "metadata": {}}
        if handler.command == "POST":
            document = {"metadata": {"name": "complete-analysis-x7"}}
        if self.status != 200:
            document = {"message": "nodes is forbidden: User cannot list"}
        data = json.dumps(document).encode()
        exists = handler.command == "POST" and handler.path.endswith(self.existing)
        handler.send_response(409 if exists else self.status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


@pytest.fixture
def api(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; it makes the certificate of the API server")
    folder = tmp_path / "account"
    folder.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=api",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "ca.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "token").write_text("token-1\n")
    (folder / "namespace").write_text("scrna")
    server = ApiServer(folder)
    yield server
    server.server.shutdown()


def in_pod(api, tmp_path, *arguments):
    """Run the CLI as a Pod would; the account's folder is at its place for this process alone."""
    code = (
        "import sys; from pathlib import Path; import runner.cluster.api as api;"
        "api.Api.from_pod.__func__.__defaults__ = (None, Path(sys.argv.pop(1)));"
        "from runner.cli import main; main()"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RUNNER_", "KUBERNETES_"))}
    environment |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "https_proxy": "http://127.0.0.1:9"}
    environment["KUBERNETES_SERVICE_PORT"] = str(api.server.server_address[1])
    return subprocess.run(
        [sys.executable, "-c", code, str(api.folder), "cluster", *arguments],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip


def capacity(api, tmp_path, *arguments):
    (tmp_path / "plan.yaml").write_text(PLAN)
    results = tmp_path / "results"
    done = in_pod(
        api, tmp_path, "capacity", "--output-dir", "outputs", "--run-id", "run-1", "--results-dir", str(results),
        *arguments, "--", "plan.yaml",
    )  # fmt: skip
    return done, json.loads((results / "skipped-notebooks").read_text()), (results / "capacity").read_text()


def api_node(name, gpus, memory_mib):
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.memory": str(memory_mib)}},
        "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "nvidia.com/gpu": str(gpus)}},
    }


def test_optional_notebooks_get_a_record_and_a_result(api, tmp_path):
    """The skipped one has metrics of this run with the reason, and earlier outputs of its name are kept."""
    api.items = [api_node("cpu-only", 0, 0), api_node("gpu-1", 1, 24564)]  # the second node is on the second page
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    (outputs / "big.html").write_text("earlier")
    done, skipped, summary = capacity(api, tmp_path)
    assert done.returncode == 0, done.stderr
    assert skipped == ["big"]
    assert summary == "2 hosted, 1 skipped, 0 without a node"
    metrics = read_metrics((outputs / "big.metrics.json").read_bytes())
    assert (metrics.status, metrics.run_id, metrics.optional) == (Status.SKIPPED, "run-1", True)
    assert "no node can host 8 nvidia.com/gpu of 80 GB" in metrics.reason
    assert (outputs / "attempts" / "big" / "1" / "big.html").read_text() == "earlier"
    assert not list(outputs.glob("*.running"))


def test_a_required_notebook_without_a_node_fails_the_task(api, tmp_path):
    """Exit code 3, and the report will find a record that says why."""
    api.items = [api_node("cpu-only", 0, 0)]
    done, skipped, _ = capacity(api, tmp_path)
    assert done.returncode == 3
    assert skipped == ["big"]
    metrics = read_metrics((tmp_path / "outputs" / "gpu.metrics.json").read_bytes())
    assert metrics.status is Status.REFUSED
    assert "cpu-only: offers 0 nvidia.com/gpu" in metrics.reason


def test_only_the_named_notebooks_are_judged(api, tmp_path):
    """--only limits the check to the part of the plan that runs."""
    api.items = [api_node("cpu-only", 0, 0)]
    done, skipped, _ = capacity(api, tmp_path, "--only=small")
    assert (done.returncode, skipped) == (0, [""])


def test_without_the_right_all_are_let_through(api, tmp_path):
    """A refusal of the API server is said, and stops nothing."""
    api.status = 403
    done, skipped, summary = capacity(api, tmp_path)
    assert (done.returncode, skipped) == (0, [""])
    assert summary.startswith("not checked: GET /api/v1/nodes is not allowed: nodes is forbidden")
    assert not (tmp_path / "outputs").exists()


def test_without_an_account_all_are_let_through(api, tmp_path):
    """So is a Pod that has no token, or an API server that does not answer."""
    (api.folder / "token").unlink()
    done, skipped, summary = capacity(api, tmp_path)
    assert (done.returncode, skipped) == (0, [""])
    assert "no ServiceAccount token" in summary


def test_a_server_with_a_foreign_certificate_gets_no_token(api, tmp_path):
    """The token goes to the cluster's own API server and to nobody else."""
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=other",
         "-keyout", other / "key.pem", "-out", api.folder / "ca.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    done, skipped, summary = capacity(api, tmp_path)
    assert (done.returncode, skipped) == (0, [""])
    assert "no answer from the API server" in summary
    assert api.requests == []


def test_a_ca_without_key_usage_is_taken_and_another_name_is_not(api, tmp_path, monkeypatch):
    """Python 3.13 is strict by default, and CAs of clusters have no keyUsage; chain and host are still checked."""
    folder = tmp_path / "strict"
    shutil.copytree(api.folder, folder)

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(*new, "-x509", "-subj", "/CN=ca", "-keyout", "ca.pem", "-out", "ca.crt")
    openssl(*new, "-subj", "/CN=api", "-keyout", "key.pem", "-out", "request.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid")
    openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.crt", "-CAkey", "ca.pem", "-CAcreateserial",
            "-extfile", "names", "-out", "api.crt")  # fmt: skip
    server = ApiServer(folder, "api.crt")
    default = ssl.create_default_context

    def strict(*args, **kwargs):
        context = default(*args, **kwargs)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    port = str(server.server.server_address[1])
    try:
        here = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
        assert Api.from_pod(here, folder).request("GET", "/api/v1/nodes")["items"] == []
        other = Api.from_pod(here | {"KUBERNETES_SERVICE_HOST": "localhost"}, folder)
        with pytest.raises(NetworkError, match=r"doesn't match|not valid for") as caught:
            other.request("GET", "/api/v1/nodes")
        assert "ca.crt" in str(caught.value.hint)
    finally:
        server.server.shutdown()


def test_the_check_can_be_switched_off(api, tmp_path):
    """Where nodes are made on demand nobody is asked."""
    done, skipped, summary = capacity(api, tmp_path, "--no-check")
    assert (done.returncode, skipped, summary) == (0, [""], "not checked: it was switched off")
    assert api.requests == []


def first_try(tmp_path, *, cause=Cause.DEVICE_MEMORY, run_id="run-1", card=25.4e9):
    """Leave the record of a notebook that failed on a card of so many bytes."""
    gpu = GateGpu(uuid="GPU-1", index=0, name="L4", total_bytes=int(card), free_bytes=int(card), good=True, reason="")
    gate = Gate(passed=True, reason="", asked=Requirements(gpus=1, gpu_memory_gb=24), gpus=(gpu,), chosen=("GPU-1",))
    record = Metrics(
        notebook="gpu", source=Source(path="b.ipynb"), run_id=run_id, status=Status.FAILED, reason="it raised",
        exit_code=1, started_at="2026-11-01T00:00:00Z", ended_at="2026-11-01T00:01:00Z", wall_seconds=60.0, gate=gate,
        failure=Failure(message="it raised", cause=cause),
    )  # fmt: skip
    path = tmp_path / "outputs" / "gpu.metrics.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(to_json(record))
    return path


@pytest.mark.parametrize(
    ("made", "mib", "skipped", "summary"),
    [
        ({}, 32607, [""], "1 hosted, 0 skipped, 0 without a node"),
        ({}, 24564, ["gpu"], "0 hosted, 1 skipped, 0 without a node"),  # no node has a larger card
        ({"cause": Cause.HOST_MEMORY}, 32607, ["gpu"], "0 hosted, 1 skipped, 0 without a node"),
        ({"run_id": "run-0"}, 32607, ["gpu"], "0 hosted, 1 skipped, 0 without a node"),
        ({"card": 34.2e9}, 32607, ["gpu"], "0 hosted, 1 skipped, 0 without a node"),  # it had the larger one already
    ],
)
def test_a_second_try_is_worth_it_where_memory_was_full_and_a_node_has_more(api, tmp_path, made, mib, skipped, summary):
    """All else ends the same way on any card; the first try's record stands in each case."""
    api.items = [api_node("gpu-1", 1, mib)]
    path = first_try(tmp_path, **made)
    before = path.read_bytes()
    done, found, said = capacity(api, tmp_path, "--larger-card=gpu")
    assert (done.returncode, found, said) == (0, skipped, summary), done.stderr
    assert path.read_bytes() == before
    assert not (tmp_path / "outputs" / "attempts").exists()


def test_a_cron_job_starts_a_run(api, tmp_path):
    """The run of the plan, with our label and fitted to the cluster; the plan travels with it and goes with it."""
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nname: mine\nnotebooks: [{name: a, path: a.ipynb}]\n")
    arguments = [
        "start",
        str(plan),
        "--pipeline",
        "mine-workflow",
        "--param",
        "gate-wait=1m",
        "--storage-class",
        "fast",
    ]
    done = in_pod(api, tmp_path, *arguments)
    assert done.stdout.strip() == "complete-analysis-x7", done.stderr
    (first, config_map), (second, run), (third, patch) = [((m, p), body) for m, p, body in api.requests]
    held = config_map["metadata"]["name"]
    assert config_map["data"]["plan.yaml"] == plan.read_text()
    assert first == ("POST", "/api/v1/namespaces/scrna/configmaps")
    assert second == ("POST", "/apis/tekton.dev/v1/namespaces/scrna/pipelineruns")
    assert third == ("PATCH", f"/api/v1/namespaces/scrna/configmaps/{held}")
    assert patch["metadata"]["ownerReferences"][0]["name"] == "complete-analysis-x7"
    assert run["spec"]["pipelineRef"] == {"name": "mine-workflow"}
    assert run["metadata"]["labels"]["rapids-notebook-runner/started-by"] == "launcher"
    assert {"name": "gate-wait", "value": "1m"} in run["spec"]["params"]
    assert {"name": "plan-configmap", "value": held} in run["spec"]["params"]
    assert run["spec"]["workspaces"][0]["volumeClaimTemplate"]["spec"]["storageClassName"] == "fast"


def test_a_second_run_of_a_plan_shares_its_config_map(api, tmp_path):
    """The name says what is in it, so that it is there already is no fault."""
    api.existing = "configmaps"
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nname: mine\nnotebooks: [{name: a, path: a.ipynb}]\n")
    done = in_pod(api, tmp_path, "start", str(plan), "--pipeline", "mine-workflow")
    assert done.returncode == 0, done.stderr
    assert [method for method, _, _ in api.requests] == ["POST", "POST", "PATCH"]


def test_a_cron_job_prunes_old_runs(api, tmp_path):
    """Only what ended, is ours and is not among the newest is deleted."""
    label = {"rapids-notebook-runner/started-by": "launcher"}
    api.items = [
        {"metadata": {"name": f"r{day}", "labels": label, "creationTimestamp": f"2026-11-0{day}T00:00:00Z"},
         "status": {} if day == 1 else {"completionTime": "2026-11-09T00:00:00Z"}}
        for day in range(1, 5)
    ]  # fmt: skip
    done = in_pod(api, tmp_path, "prune", "--keep", "1")
    assert done.stdout.split() == ["deleted", "r3", "deleted", "r2"], done.stderr
    deleted = [path.rpartition("/")[2] for method, path, _ in api.requests if method == "DELETE"]
    assert deleted == ["r3", "r2"]
