# SPDX-License-Identifier: Apache-2.0
"""The whole story on the cluster of the current kubeconfig. Needs Tekton, and an image in RUNNER_TEST_IMAGE.

Every test works in a namespace of its own, made and removed here; simulated GPUs are put on one node and taken
away again. Nothing here waits a fixed time: states are polled with generous deadlines.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tekton" / "scripts" / "run-complete-analysis.sh"
IMAGE = os.environ.get("RUNNER_TEST_IMAGE")
MINUTES = 60
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(40 * MINUTES),
    pytest.mark.skipif(not IMAGE, reason="RUNNER_TEST_IMAGE is not set"),
]


def kubectl(*arguments, stdin=None, check=True):
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def until(question, what, minutes=15):
    """Ask until the answer is not empty and return it."""
    deadline = time.monotonic() + minutes * MINUTES
    while time.monotonic() < deadline:
        answer = question()
        if answer:
            return answer
        time.sleep(2)
    raise AssertionError(f"waited {minutes} min for {what}")


class Place:
    """A namespace with everything installed."""

    def __init__(self, name):
        self.name = name

    def launch(self, *arguments, code=0):
        """Run the launcher; ``code`` None accepts any end."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        verb, *rest = arguments
        done = subprocess.run(
            ["bash", str(SCRIPT), verb, "--namespace", self.name, *rest],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert code is None or done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def get(self, *arguments):
        return json.loads(kubectl("-n", self.name, "get", *arguments, "-o", "json"))

    def pod_that_says(self, text, run, notebook):
        """Return the Pod of a notebook once its log has a text."""

        def pods():
            tasks = json.loads(self.launch("status", run, "--json"))["tasks"]
            return [task["pod"] for task in tasks if task["notebook"] == notebook and task["started_at"]]

        [pod] = until(pods, f"{notebook} to run")
        until(lambda: text in kubectl("-n", self.name, "logs", pod, "--all-containers", check=False), f"{text!r} there")
        return pod

    def summary(self, run, folder):
        """Fetch a run's outputs and return its summary: verdict, and notebooks by name."""
        self.launch("fetch", run, "--to", str(folder))
        document = json.loads((folder / "reports" / "summary.json").read_text())
        return document["verdict"], {one["name"]: one for one in document["notebooks"]}


@pytest.fixture(scope="module")
def place():
    """Give a namespace with our objects, and remove it afterwards."""
    if not kubectl("get", "crd", "pipelineruns.tekton.dev", "--ignore-not-found", check=False):
        pytest.skip("no cluster, or no Tekton on it")
    name = f"runner-test-{uuid.uuid4().hex[:8]}"
    found = Place(name)
    flags = kubectl("get", "configmap", "feature-flags", "-n", "tekton-pipelines", "-o", "json", check=False) or "{}"
    try:
        kubectl("create", "namespace", name)
        if json.loads(flags).get("data", {}).get("set-security-context") == "true":
            kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        found.launch("install", "--image", IMAGE)
        yield found
    finally:
        found.launch("uninstall", "--delete-volumes", code=None)
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found", check=False)


PLAN = """
version: 1
name: story
defaults: {{timeout: 10m, requires: {{gpus: 0, cpus: 0.5, memory_gb: 1.5}}}}
notebooks:
- name: first
  path: 03_pearson_residuals.ipynb
  prepare: [{{insert: {{before: "import scanpy as sc", source: "{first}"}}}}]
- {{name: second, path: 01_quality_and_pca.ipynb, needs: [first]}}
- name: third
  path: 01_quality_and_pca.ipynb
  prepare: [{{insert: {{before: "import scanpy as sc", source: "print(1)"}}}}]
- {{name: giant, path: 01_quality_and_pca.ipynb, optional: true, requires: {{gpus: 64, gpu_memory_gb: 80}}}}
"""


@contextlib.contextmanager
def planned(place, tmp_path, *, first, timeouts=None, **params):
    """Start a run of a plan on the demo's notebooks whose first one does something of its own."""
    text = PLAN.format(first=first)
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gpu-resource-config"}}
    kubectl("-n", place.name, "apply", "-f", "-", stdin=json.dumps({**config, "data": {"plan.yaml": text}}))
    given = {"plan": "/etc/runner/plan/plan.yaml", "image": IMAGE, **params}
    rendered = subprocess.run(
        [sys.executable, "-m", "runner", "plan", "render", str(path), "--source", "demo", "--storage", "1Gi",
         "--pipeline-name", "story", *(part for key, value in given.items() for part in ("--param", f"{key}={value}"))],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    pipeline, run = rendered.split("\n---\n")
    kubectl("-n", place.name, "apply", "-f", "-", stdin=pipeline)
    made = tmp_path / "run.yaml"
    document = yaml.safe_load(run)
    if timeouts:  # Tekton refuses a task that may take longer than all of them
        document["spec"]["timeouts"] = timeouts
        for one in document["spec"]["taskRunSpecs"]:
            one["timeout"] = timeouts["tasks"]
    made.write_text(yaml.safe_dump(document))
    yield place.launch("run", str(made), "--no-wait").strip()


def test_the_demo_is_green_and_its_report_comes_home(place, tmp_path):
    """Install, validate, run, fetch: three notebooks succeeded, with pages and a report on this disk."""
    checks = json.loads(place.launch("validate", "--json", "--plan", str(ROOT / "runner/demo/plan.yaml")))["checks"]
    assert {check["name"]: check["status"] for check in checks}["01_quality_and_pca"] == "pass"
    name = place.launch("run", "demo").strip()
    verdict, notebooks = place.summary(name, tmp_path)
    assert verdict == "succeeded"
    assert {one["status"] for one in notebooks.values()} == {"succeeded"}
    assert list(tmp_path.glob("reports/complete_analysis_report_*.html"))
    assert len(list(tmp_path.glob("*.executed.ipynb"))) == 3
    results = [run["status"].get("results", []) for run in place.get("taskruns")["items"]]
    assert {"name": "status", "type": "string", "value": "succeeded"} in [one for many in results for one in many]


def test_a_run_stops_after_the_first_failure_when_told_to(place, tmp_path):
    """continue-on-failure=false: what follows is skipped and names the failure; the run is Failed, the report whole."""
    with planned(place, tmp_path, first="raise SystemError(7)", **{"continue-on-failure": "false"}) as name:
        place.launch("monitor", name, code=1)
    verdict, notebooks = place.summary(name, tmp_path / "out")
    assert verdict == "failed"
    assert {key: one["status"] for key, one in notebooks.items()} == {
        "first": "failed",
        "second": "skipped",
        "third": "skipped",
        "giant": "skipped",
    }
    assert "first" in notebooks["third"]["reason"]
    assert "no node can host" in notebooks["giant"]["reason"]


def test_a_run_goes_on_after_a_failure_when_told_to(place, tmp_path):
    """continue-on-failure=true: only what needs the failed notebook is skipped; the run is still Failed."""
    with planned(place, tmp_path, first="raise SystemError(7)", **{"continue-on-failure": "true"}) as name:
        place.launch("monitor", name, code=1)
    verdict, notebooks = place.summary(name, tmp_path / "out")
    assert verdict == "failed"
    assert {key: notebooks[key]["status"] for key in ("first", "second", "third")} == {
        "first": "failed",
        "second": "skipped",
        "third": "succeeded",
    }


def test_optional_notebooks_without_a_node_are_skipped_and_the_run_is_green(place, tmp_path):
    """A notebook with 64 GPUs never gets a Pod, and has a record that says why."""
    with planned(place, tmp_path, first="print(1)") as name:
        place.launch("monitor", name, code=0)
    tasks = {run["metadata"]["labels"]["tekton.dev/pipelineTask"] for run in place.get(
        "taskruns", "-l", f"tekton.dev/pipelineRun={name}")["items"]}  # fmt: skip
    assert "notebook-third" in tasks
    assert "notebook-giant" not in tasks
    verdict, notebooks = place.summary(name, tmp_path / "out")
    assert verdict == "succeeded"
    assert notebooks["giant"]["status"] == "skipped"


def test_a_required_notebook_without_a_node_fails_at_the_start(place, tmp_path):
    """skip-optional-notebooks=false makes it required: the run fails before any notebook, and the report says why."""
    with planned(place, tmp_path, first="print(1)", **{"skip-optional-notebooks": "false"}) as name:
        place.launch("monitor", name, code=1)
    verdict, notebooks = place.summary(name, tmp_path / "out")
    assert verdict == "failed"
    assert notebooks["giant"]["status"] == "refused"
    assert notebooks["first"]["status"] == "not-run"


@pytest.fixture
def simulated_gpus():
    """Put 64 GPUs of 80 GB onto a node that has none, as the scheduler sees it."""
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    resource = "/status/capacity/nvidia.com~1gpu"
    add = json.dumps([{"op": "add", "path": resource, "value": "64"}])
    kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", add)
    kubectl("label", "node", node, "nvidia.com/gpu.memory=81559", "--overwrite")
    try:
        until(
            lambda: kubectl("get", "node", node, "-o", r"jsonpath={.status.allocatable.nvidia\.com/gpu}") == "64",
            "the node to offer its simulated GPUs",
        )
        yield node
    finally:
        remove = json.dumps([{"op": "remove", "path": resource}])
        kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", remove, check=False)
        kubectl("label", "node", node, "nvidia.com/gpu.memory-", check=False)


def test_with_the_gpus_there_the_notebook_gets_its_pod(place, tmp_path, simulated_gpus):
    """With 64 GPUs on a node the task starts; the gate inside finds no driver and skips the optional notebook."""
    with planned(place, tmp_path, first="print(1)") as name:
        place.launch("monitor", name, code=0)
    tasks = {run["metadata"]["labels"]["tekton.dev/pipelineTask"] for run in place.get(
        "taskruns", "-l", f"tekton.dev/pipelineRun={name}")["items"]}  # fmt: skip
    assert "notebook-giant" in tasks
    _, notebooks = place.summary(name, tmp_path / "out")
    assert notebooks["giant"]["status"] == "skipped"
    assert "no node can host" not in notebooks["giant"]["reason"]


def test_a_cancelled_run_leaves_notebook_metrics_and_a_whole_report(place, tmp_path):
    """The notebook that ran is `terminated` and saved; the report waited for it although it started at once."""
    with planned(place, tmp_path, first="import time; time.sleep(1200)") as name:
        place.pod_that_says("cell=", name, "first")
        place.launch("cancel", name, "--wait")
    verdict, notebooks = place.summary(name, tmp_path / "out")
    assert verdict == "failed"
    assert notebooks["first"]["status"] == "terminated"
    assert {"first", "second", "third", "giant"} == set(notebooks)
    assert (tmp_path / "out" / "first.executed.ipynb").exists()


def test_a_held_notebook_is_repaired_from_outside_its_pod(place, tmp_path):
    """Its kernel waits in the Pod; the corrected cell comes through kubectl, and what needs the notebook runs."""
    with planned(place, tmp_path, first="print(answer)", **{"on-failure": "hold=15m"}) as name:
        pod = place.pod_that_says(" held ", name, "first")
        repair = ("runner", "repair", "first", "--output-dir", "outputs")
        inside = ("-n", place.name, "exec", "-i", pod, "-c", "step-execute-notebook", "--", *repair)
        assert "name 'answer' is not defined" in kubectl(*inside)
        demo = nbformat.read(ROOT / "runner" / "demo" / "03_pearson_residuals.ipynb", as_version=4)
        first = next(cell.source for cell in demo.cells if cell.cell_type == "code")
        changed = ("--cell", "1", "--source", "/dev/stdin", "--from-cell", "1")
        kubectl(*inside, *changed, stdin=f"answer = 42\n{first}")
        place.launch("monitor", name, code=0)
    _, notebooks = place.summary(name, tmp_path / "out")
    assert {notebooks[key]["status"] for key in ("first", "second", "third")} == {"succeeded"}
    record = json.loads((tmp_path / "out" / "first.metrics.json").read_text())
    assert record["repaired"]
    assert [len(cell["runs"]) for cell in record["cells"]][:2] == [2, 1]
    assert "answer = 42" in (tmp_path / "out" / "first.executed.ipynb").read_text()


def test_a_run_out_of_time_leaves_notebook_metrics_and_a_whole_report(place, tmp_path):
    """`timeouts.tasks` of the PipelineRun ends the notebook as a cancel does."""
    limits = {"tasks": "3m0s", "pipeline": "20m0s", "finally": "17m0s"}
    with planned(place, tmp_path, first="import time; time.sleep(1200)", timeouts=limits) as name:
        place.launch("monitor", name, code=1)
    verdict, notebooks = place.summary(name, tmp_path / "out")
    assert verdict == "failed"
    assert notebooks["first"]["status"] == "terminated"
    assert notebooks["second"]["status"] in {"not-run", "skipped"}
    assert (tmp_path / "out" / "first.executed.ipynb").exists()


def test_a_repeated_notebook_keeps_the_outputs_of_before(place, tmp_path):
    """A TaskRun of the same notebook on the same volume moves the earlier files to attempts/ first."""
    with planned(place, tmp_path, first="print(1)") as name:
        place.launch("monitor", name, code=0)
    [done] = place.get("taskruns", "-l", f"tekton.dev/pipelineRun={name},tekton.dev/pipelineTask=notebook-first")[
        "items"
    ]
    again = {
        "apiVersion": "tekton.dev/v1",
        "kind": "TaskRun",
        "metadata": {"generateName": "again-"},
        "spec": {
            key: done["spec"][key] for key in ("params", "taskRef", "workspaces", "podTemplate", "stepSpecs", "serviceAccountName") if key in done["spec"]
        },
    }  # fmt: skip
    made = json.loads(kubectl("-n", place.name, "create", "-o", "json", "-f", "-", stdin=json.dumps(again)))
    until(lambda: place.get("taskrun", made["metadata"]["name"]).get("status", {}).get("completionTime"), "its end")
    _, notebooks = place.summary(name, tmp_path / "out")
    assert notebooks["first"]["status"] == "succeeded"
    earlier = tmp_path / "out" / "attempts" / "first" / "1"
    assert json.loads((earlier / "first.metrics.json").read_text())["status"] == "succeeded"
    assert (earlier / "first.executed.ipynb").exists()


def test_the_weekly_job_starts_a_run_with_its_own_account(place):
    """The suspended CronJob, started by hand: a PipelineRun of the seven notebooks appears, and is deleted here."""
    kubectl("-n", place.name, "apply", "-f", str(ROOT / "tekton" / "configs" / "gpu-resource-config.yaml"))
    before = {run["metadata"]["name"] for run in place.get("pipelineruns")["items"]}
    kubectl("-n", place.name, "create", "job", "weekly-now", "--from=cronjob/weekly-analysis")
    name = until(
        lambda: {run["metadata"]["name"] for run in place.get("pipelineruns")["items"]} - before, "the weekly run"
    ).pop()
    assert name.startswith("rapids-single-cell-")
    # Cancelled, its report would still wait for a node with a GPU.
    kubectl("-n", place.name, "delete", "pipelinerun", name, "--wait=false")


def test_a_notebook_on_an_empty_volume_names_the_clone_step(place):
    """The mission's two parameters alone, on an empty volume: exit code 9, and what to do."""
    run = {
        "apiVersion": "tekton.dev/v1",
        "kind": "TaskRun",
        "metadata": {"generateName": "empty-"},
        "spec": {
            "taskRef": {"name": "gpu-notebook-executor-task"},
            "params": [{"name": "notebook-name", "value": "first"}, {"name": "min-gpu-memory-gb", "value": "24"}],
            "workspaces": [{"name": "shared-storage", "volumeClaimTemplate": {"spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}],
            "stepSpecs": [{"name": "execute-notebook", "computeResources": {
                kind: {"cpu": "250m", "memory": "1Gi", "nvidia.com/gpu": "0"} for kind in ("requests", "limits")}}],
            "podTemplate": {"securityContext": {"runAsNonRoot": True, "runAsUser": 12345, "fsGroup": 12345,
                                                "seccompProfile": {"type": "RuntimeDefault"}}},
        },
    }  # fmt: skip
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gpu-resource-config"}}
    kubectl("-n", place.name, "apply", "-f", "-",
            stdin=json.dumps({**config, "data": {"plan.yaml": PLAN.format(first="print(1)")}}))  # fmt: skip
    name = json.loads(kubectl("-n", place.name, "create", "-o", "json", "-f", "-", stdin=json.dumps(run)))["metadata"][
        "name"
    ]
    status = until(
        lambda: (
            place.get("taskrun", name).get("status", {}).get("completionTime") and place.get("taskrun", name)["status"]
        ),
        "its end",
    )
    results = {one["name"]: one["value"] for one in status["results"]}
    assert results["status"] == "broken-input"
    assert "safe-git-clone-task" in results["reason"]


def test_cleanup_removes_old_runs_with_their_volumes(place):
    """After all the runs above, one stays."""
    until(
        lambda: all(run["status"].get("completionTime") for run in place.get("pipelineruns")["items"]),
        "all runs to end",
    )
    place.launch("cleanup", "--keep", "1")
    until(lambda: len(place.get("pipelineruns")["items"]) == 1, "the others to be gone")
