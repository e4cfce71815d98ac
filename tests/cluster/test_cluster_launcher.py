# SPDX-License-Identifier: Apache-2.0
"""The launcher against a cluster that records what it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.kubectl import REAL, FakeKubectl, node, tekton_cluster
from support.tekton import TEKTON, of_kind

from runner.cluster.install import fitted

pytestmark = pytest.mark.skipif(REAL is None, reason="kubectl is not installed; it builds the kustomizations")
SCRIPT = TEKTON / "scripts" / "run-complete-analysis.sh"
PART_OF = {"app.kubernetes.io/part-of": "rapids-notebook-runner"}
STARTED = PART_OF | {"rapids-notebook-runner/started-by": "launcher"}


@pytest.fixture
def cluster(tmp_path: Path) -> FakeKubectl:
    fake = FakeKubectl(tmp_path / "cluster")
    fake.add(*tekton_cluster("scrna"), node("gpu-1", gpus="1", memory_mib="24564"))
    fake.add({"kind": "StorageClass", "metadata": {"name": "fast"}})
    return fake


def installed(cluster):
    """Put what an installation of the image runner:7 leaves onto the cluster."""
    tasks = [doc for _, doc in of_kind("Task")]
    accounts = [doc for _, doc in of_kind("ServiceAccount")]
    pipelines = [doc for _, doc in of_kind("Pipeline")]
    configs = [doc for _, doc in of_kind("ConfigMap")]
    cluster.add(*(fitted(one, "scrna", "runner:7") for one in (*tasks, *pipelines)), *configs, *accounts)
    return cluster


def launch(cluster, *arguments, script=SCRIPT, cwd=None, check=None):
    """Run the launcher with our runner and the recording kubectl on the PATH."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RUNNER_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{cluster.path}"
    bin_folder = cluster.folder / "bin"
    environment["PATH"] = f"{bin_folder}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", str(script), *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def run_object(name, *, labels=STARTED, created="2026-11-01T00:00:00Z", ended=None, status="Unknown", reason="Running"):
    tasks = [
        {"name": "validate", "displayName": "Check"},
        {
            "name": "notebook-01",
            "displayName": "Stage 1: 01",
            "runAfter": ["validate"],
            "params": [{"name": "notebook-name", "value": "01"}],
        },
        {
            "name": "notebook-02",
            "displayName": "Stage 1: 02",
            "runAfter": ["notebook-01"],
            "params": [{"name": "notebook-name", "value": "02"}],
        },
    ]
    return {
        "kind": "PipelineRun",
        "metadata": {
            "name": name, "namespace": "scrna", "uid": f"uid-{name}", "labels": labels, "creationTimestamp": created,
        },
        "spec": {
            "pipelineRef": {"name": "complete-scrna-analysis-workflow"},
            "workspaces": [{"name": "shared-storage", "volumeClaimTemplate": {"spec": {}}}],
            "taskRunTemplate": {"podTemplate": {"securityContext": {"runAsUser": 1001}}},
        },
        "status": {
            "startTime": created, **({"completionTime": ended} if ended else {}),
            "conditions": [{"type": "Succeeded", "status": status, "reason": reason, "message": ""}],
            "pipelineSpec": {"tasks": tasks, "params": [{"name": "image", "default": "runner:1"}],
                             "finally": [{"name": "report", "displayName": "Report"}]},
        },
    }  # fmt: skip


def task_run(run, task, *, status, reason, message="", results=None, pod=None):
    return {
        "kind": "TaskRun",
        "metadata": {
            "name": f"{run}-{task}",
            "labels": {"tekton.dev/pipelineRun": run, "tekton.dev/pipelineTask": task, **STARTED},
        },
        "spec": {"workspaces": [{"name": "shared-storage", "persistentVolumeClaim": {"claimName": "pvc-1"}}]},
        "status": {
            "podName": pod or "",
            "conditions": [{"type": "Succeeded", "status": status, "reason": reason, "message": message}],
            "results": [{"name": key, "value": value} for key, value in (results or {}).items()],
        },
    }


def test_the_script_is_short():
    """The shell finds runner and steps aside."""
    assert len(SCRIPT.read_text().splitlines()) <= 60


@pytest.mark.parametrize("arguments", [["--help"], ["help"]])
def test_help_lists_verbs_and_exit_codes(cluster, arguments):
    """Somebody who knows nothing finds the verbs."""
    done = launch(cluster, *arguments, check=0)
    for word in ("install", "uninstall", "fetch", "Exit codes", "75"):
        assert word in done.stdout


@pytest.mark.parametrize("arguments", [[], ["explode"]])
def test_an_unknown_verb_is_a_usage_error(cluster, arguments):
    """A typing error changes nothing and ends with 2."""
    launch(cluster, *arguments, check=2)
    assert cluster.calls() == []


def test_without_runner_it_says_how_to_get_one(tmp_path):
    """On a machine without runner the script names the command that makes one."""
    copy = tmp_path / "tekton" / "scripts" / SCRIPT.name
    copy.parent.mkdir(parents=True)
    copy.write_text(SCRIPT.read_text())
    done = subprocess.run(
        ["/bin/bash", str(copy), "status"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "pip install" in done.stderr


@pytest.mark.parametrize("link", [".tekton", "launch.sh"])
def test_through_a_link_it_finds_its_own_repository(tmp_path, link):
    """Another repository links the folder as its .tekton, or the script alone, and has no runner of its own."""
    script = tmp_path / "ours" / "tekton" / "scripts" / SCRIPT.name
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT.read_text())
    runner = tmp_path / "ours" / ".venv" / "bin" / "runner"
    runner.parent.mkdir(parents=True)
    runner.write_text('#!/bin/sh\necho "$@" "$RUNNER_CLUSTER_INSTALL_MANIFESTS"\n')
    runner.chmod(0o755)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / link).symlink_to(script.parents[1] if link == ".tekton" else script)
    called = f".tekton/scripts/{SCRIPT.name}" if link == ".tekton" else link
    done = subprocess.run(
        ["/bin/bash", called, "install"],
        env={"PATH": "/usr/bin:/bin"}, cwd=theirs, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"cluster install {tmp_path}/ours/tekton\n", done.stderr


def test_a_linked_folder_is_used_with_plain_commands(cluster, tmp_path):
    """A repository of notebooks has all of this as its .tekton: script, kustomization and files by that name."""
    (tmp_path / ".tekton").symlink_to(TEKTON)
    script = f".tekton/scripts/{SCRIPT.name}"
    launch(cluster, "install", "--manifests", ".tekton", script=script, cwd=tmp_path, check=0)
    assert {one["metadata"]["name"] for one in cluster.objects("Task")} == {
        doc["metadata"]["name"] for _, doc in of_kind("Task")
    }
    run = ".tekton/pipelineruns/preprocessing-pipelinerun.yaml"
    launch(cluster, "run", run, "--no-wait", script=script, cwd=tmp_path, check=0)
    launch(cluster, "run", "complete", "--no-wait", script=script, cwd=tmp_path, check=0)
    assert len(cluster.objects("PipelineRun")) == 2


def test_install_puts_everything_but_runs_onto_the_cluster(cluster, tmp_path):
    """Tasks, pipelines, configuration and accounts are applied, from whatever folder it is called."""
    done = launch(cluster, "install", "--namespace", "scrna", cwd=tmp_path, check=0)
    kinds = {one["kind"] for one in cluster.objects()}
    assert {"Task", "Pipeline", "ServiceAccount", "ClusterRole", "CronJob", "NetworkPolicy"} <= kinds
    assert not cluster.objects("PipelineRun")
    (binding,) = cluster.objects("ClusterRoleBinding")
    assert binding["metadata"]["name"] == "notebook-validator-scrna"
    assert binding["subjects"][0]["namespace"] == "scrna"
    # A role of its own as well: another namespace's uninstall leaves this one's validation its right.
    (role,) = cluster.objects("ClusterRole")
    assert role["metadata"]["name"] == binding["roleRef"]["name"] == "notebook-validator-scrna"
    assert "pass tekton: v1.15.0" in done.stdout
    assert all("--namespace scrna" in call for call in cluster.arguments())


def test_install_takes_an_image(cluster):
    """One option makes an image the default of every task, pipeline and CronJob."""
    launch(cluster, "install", "--image", "registry.example/runner:7", check=0)
    for kind in ("Task", "Pipeline"):
        for one in cluster.objects(kind):
            images = [param["default"] for param in one["spec"]["params"] if param["name"] == "image"]
            assert images in (["registry.example/runner:7"], []), one["metadata"]["name"]
    for job in cluster.objects("CronJob"):
        assert "registry.example/runner:7" in json.dumps(job)


def test_install_without_cluster_rights(cluster):
    """Who may not make ClusterRoles installs all the rest."""
    launch(cluster, "install", "--no-cluster-rights", check=0)
    assert not cluster.objects("ClusterRole") + cluster.objects("ClusterRoleBinding")
    assert cluster.objects("Task")


def test_a_dry_run_installs_nothing(cluster):
    """--dry-run asks the server and changes nothing."""
    before = cluster.objects()
    launch(cluster, "install", "--dry-run", check=0)
    assert cluster.objects() == before
    assert any(call.startswith("apply -f - --dry-run=server") for call in cluster.arguments())


def test_install_without_tekton_says_how_to_get_it(tmp_path):
    """A missing Tekton is exit code 3, with what to do; nothing is applied."""
    fake = FakeKubectl(tmp_path / "bare")
    fake.add({"kind": "Namespace", "metadata": {"name": "scrna"}})
    done = launch(fake, "install", check=3)
    assert "fail tekton" in done.stdout
    assert "release.yaml" in done.stdout
    assert not any(call.startswith("apply") for call in fake.arguments())


def test_install_refuses_an_old_tekton(cluster):
    """A release without the stable API is named."""
    for one in (objects := cluster.objects()):
        if one["metadata"]["name"] == "pipelines-info":
            one["data"]["version"] = "v0.44.0"
    cluster._write(objects)
    done = launch(cluster, "install", check=3)
    assert "v0.44.0" in done.stdout


def test_install_makes_the_namespace_when_asked(cluster):
    """--create-namespace makes what is missing; without it that is said."""
    done = launch(cluster, "install", "--namespace", "fresh", check=3)
    assert "kubectl create namespace fresh" in done.stdout
    launch(cluster, "install", "--namespace", "fresh", "--create-namespace", check=0)
    assert "fresh" in {one["metadata"]["name"] for one in cluster.objects("Namespace")}


@pytest.mark.parametrize(
    ("flag", "line"), [("true", "pass namespace"), ("false", "fail namespace"), (None, "warn namespace")]
)
def test_a_restricted_namespace_needs_a_flag_of_tekton(cluster, flag, line):
    """Set, it is fine; not set, runs would be rejected; unseen, it is said; what to do is a command."""
    objects = cluster.objects()
    [namespace] = [one for one in objects if one["kind"] == "Namespace"]
    namespace["metadata"]["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}
    if flag is not None:
        data = {"set-security-context": flag}
        objects.append({"kind": "ConfigMap", "metadata": {"name": "feature-flags"}, "data": data})
    cluster._write(objects)
    shown = launch(cluster, "validate", "--namespace", "scrna").stdout
    assert line in shown
    assert ("kubectl patch configmap feature-flags" in shown) is (flag != "true")


def test_validate_tells_for_each_notebook_whether_a_node_hosts_it(cluster):
    """Required ones fit the 24 GB GPU; optional ones that do not are named as skipped, with the reason."""
    done = launch(cluster, "validate", check=0)
    assert "pass 01_scRNA_analysis_preprocessing: fits gpu-1" in done.stdout
    assert "warn 07_scRNA_analysis_1.3M_brain_example: no node can host 1 nvidia.com/gpu of 80 GB" in done.stdout
    assert "has GPUs of 24564 MiB" in done.stdout
    strict = launch(cluster, "validate", "--param", "skip-optional-notebooks=false", "--json", check=3)
    failed = [check["name"] for check in json.loads(strict.stdout)["checks"] if check["status"] == "fail"]
    assert "07_scRNA_analysis_1.3M_brain_example" in failed


def test_validate_knows_the_parameters_of_a_run(cluster):
    """What Tekton would ignore or hand on is a usage error before anything starts."""
    assert "did you mean 'gate-wait'" in launch(cluster, "validate", "--param", "gate-wat=1m", check=2).stderr
    assert "true or false" in launch(cluster, "validate", "--param", "continue-on-failure=never", check=2).stderr
    assert "hold=2h" in launch(cluster, "validate", "--param", "on-failure=wait", check=2).stderr


def test_validate_says_how_long_a_run_may_take_with_failures_held(cluster):
    """Seven notebooks that may each be held for two hours: Tekton lets the run go on for fourteen hours more."""
    assert "pass timeouts: a run may take 29h34m0s\n" in launch(cluster, "validate", check=0).stdout
    held = launch(cluster, "validate", "--param", "on-failure=hold=2h", check=0).stdout
    assert "pass timeouts: a run may take 43h34m0s, 14h00m of it while failed notebooks are held" in held


def test_validate_knows_that_a_volume_ties_a_run_to_one_node(cluster, tmp_path):
    """Each notebook fits a node, and no node fits all: on ReadWriteOnce the run would wait for hours."""
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "version: 1\nname: two\nnotebooks:\n"
        "- {name: large, path: a.ipynb, requires: {gpus: 1, gpu_memory_gb: 80}}\n"
        "- {name: many, path: b.ipynb, requires: {gpus: 2, gpu_memory_gb: 48}}\n"
    )
    cluster.add(node("a", gpus="1", memory_mib="81559"), node("b", gpus="2", memory_mib="49140"))
    done = launch(cluster, "validate", "--plan", str(plan), check=3)
    assert "pass large: fits a" in done.stdout
    assert "fail one node for all: no node hosts every notebook of the plan: large fits a only" in done.stdout
    assert "ReadWriteMany" in done.stdout


def test_run_creates_a_run_and_prints_its_name(cluster, tmp_path):
    """The name is on stdout, parameters are set, and the run carries our label."""
    installed(cluster)
    done = launch(
        cluster, "run", "complete", "--no-wait", "--param", "continue-on-failure=false", "--storage-class", "fast",
        cwd=tmp_path, check=0,
    )  # fmt: skip
    (run,) = cluster.objects("PipelineRun")
    assert done.stdout.strip() == run["metadata"]["name"]
    assert run["metadata"]["labels"]["rapids-notebook-runner/started-by"] == "launcher"
    values = {param["name"]: param["value"] for param in run["spec"]["params"]}
    assert values["continue-on-failure"] == "false"
    assert values["skip-optional-notebooks"] == "true"
    claim = run["spec"]["workspaces"][0]["volumeClaimTemplate"]["spec"]
    assert claim["storageClassName"] == "fast"


def test_run_fits_a_run_to_mig_slices(cluster):
    """Another GPU resource takes the place of the plain one in requests and in node labels."""
    installed(cluster)
    slices = node("mig-1")
    slices["metadata"]["labels"]["nvidia.com/mig-3g.40gb.memory"] = "40192"
    slices["status"]["allocatable"]["nvidia.com/mig-3g.40gb"] = "2"
    cluster.add(slices)
    launch(cluster, "run", "--no-wait", "--gpu-resource", "nvidia.com/mig-3g.40gb", check=0)
    (run,) = cluster.objects("PipelineRun")
    text = json.dumps(run["spec"])
    assert '"nvidia.com/gpu": "1"' not in text
    assert '"nvidia.com/mig-3g.40gb": "1"' in text
    assert '"key": "nvidia.com/mig-3g.40gb.memory"' in text
    assert '"key": "nvidia.com/gpu.memory"' not in text


def test_run_follows_until_the_end_and_tells_the_verdict_by_its_code(cluster):
    """A run that failed is exit code 1, and each change is told."""
    cluster.add(run_object("old", ended="2026-11-01T01:00:00Z", status="False", reason="Failed"))
    results = {"status": "kernel-died", "reason": "out of memory", "wall-seconds": "61.0"}
    cluster.add(task_run("old", "notebook-01", status="False", reason="Failed", results=results))
    done = launch(cluster, "monitor", "old", check=1)
    assert "kernel-died: out of memory" in done.stderr


def test_monitor_survives_a_dropped_connection(cluster):
    """What the network does in between is told and waited out."""
    cluster.add(run_object("r", ended="2026-11-01T01:00:00Z", status="True", reason="Succeeded"))
    cluster.trouble("", "Unable to connect to the server: net/http: TLS handshake timeout", "")
    done = launch(cluster, "monitor", "r", check=0)
    assert "connection lost, retrying" in done.stderr


def test_status_says_what_waits_and_why(cluster):
    """One screen: done, waiting for a node and why, not started and for whom it waits."""
    cluster.add(
        run_object("r"),
        task_run("r", "validate", status="True", reason="Succeeded"),
        task_run("r", "notebook-01", status="Unknown", reason="ExceededNodeResources",
                 message="TaskRun Pod exceeded available resources"),
    )  # fmt: skip
    view = json.loads(launch(cluster, "status", "--json", check=0).stdout)
    states = {task["task"]: (task["state"], task["reason"]) for task in view["tasks"]}
    assert states["validate"][0] == "done"
    assert states["notebook-01"][0] == "waiting"
    assert states["notebook-01"][1] == "waits for a node: no suitable one has enough free resources"
    assert states["notebook-02"] == ("waiting", "after notebook-01")
    assert states["report"] == ("waiting", "not started yet")
    shown = launch(cluster, "status", check=0).stdout
    assert "waiting" in shown
    assert "ExceededNodeResources" not in shown


def test_status_says_since_when_a_task_runs_in_one_short_word(cluster):
    """Date and time to the minute: a narrow terminal has to hold them."""
    running = task_run("r", "validate", status="Unknown", reason="Running")
    running["status"]["steps"] = [{"running": {"startedAt": "2026-11-25T04:02:32Z"}}]
    cluster.add(run_object("r"), running)
    assert " 11-25 04:02Z " in launch(cluster, "status", check=0).stdout


def test_status_shows_no_control_characters_of_the_cluster(cluster):
    """A reason that a notebook wrote cannot drive the terminal."""
    cluster.add(run_object("r"), task_run("r", "notebook-01", status="False", reason="Failed",
                                          results={"status": "failed", "reason": "\x1b[2Jgone\x07"}))  # fmt: skip
    view = json.loads(launch(cluster, "status", "--json", check=0).stdout)
    reasons = [task["reason"] for task in view["tasks"]]
    assert "[2Jgone" in reasons[1]
    assert all(character.isprintable() for reason in reasons for character in reason)


def test_without_a_run_status_says_so(cluster):
    """An empty namespace is no traceback."""
    done = launch(cluster, "status", check=1)
    assert "no run in this namespace" in done.stderr


def test_logs_of_a_notebook_by_its_name(cluster):
    """The Pod is found by the notebook's name; an unknown name lists those that exist."""
    cluster.add(run_object("r"), task_run("r", "notebook-01", status="Unknown", reason="Running", pod="pod-7"))
    assert "log of pod-7" in launch(cluster, "logs", "01", check=0).stdout
    assert "it has validate, 01, 02, report" in launch(cluster, "logs", "09", check=1).stderr
    assert "has no Pod" in launch(cluster, "logs", "02", check=1).stderr


def test_cancel_lets_the_report_run(cluster):
    """The state that Tekton is given is the one that still runs `finally`; an ended run is left alone."""
    cluster.add(run_object("r"), run_object("over", ended="2026-11-01T01:00:00Z", status="True", reason="Succeeded"))
    launch(cluster, "cancel", "r", check=0)
    states = {one["metadata"]["name"]: one["spec"].get("status") for one in cluster.objects("PipelineRun")}
    assert states == {"r": "CancelledRunFinally", "over": None}
    launch(cluster, "cancel", "over", check=0)
    assert sum("patch" in call for call in cluster.arguments()) == 1


def test_cleanup_keeps_the_newest_and_what_is_not_its_own(cluster):
    """Only ended runs that we started go, oldest first; a running one and somebody else's stay."""
    for day in range(1, 6):
        cluster.add(run_object(f"day-{day}", created=f"2026-11-0{day}T00:00:00Z", ended="2026-11-09T00:00:00Z",
                               status="True", reason="Succeeded"))  # fmt: skip
    cluster.add(run_object("running", created="2026-10-01T00:00:00Z"))
    cluster.add(run_object("by-hand", labels=PART_OF, created="2026-10-01T00:00:00Z", ended="2026-10-02T00:00:00Z"))
    cluster.add(run_object("foreign", labels={}, created="2026-10-01T00:00:00Z", ended="2026-10-02T00:00:00Z"))
    done = launch(cluster, "cleanup", "--keep", "2", "--dry-run", check=0)
    assert "would delete day-3" in done.stdout
    assert len(cluster.objects("PipelineRun")) == 8
    launch(cluster, "cleanup", "--keep", "2", check=0)
    left = {one["metadata"]["name"] for one in cluster.objects("PipelineRun")}
    assert left == {"day-5", "day-4", "running", "by-hand", "foreign"}


def test_uninstall_removes_what_it_made_and_says_what_it_leaves(cluster):
    """Runs go as orphans so that their volumes stay; the volumes are named; other people's objects stay."""
    launch(cluster, "install", check=0)
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "pvc-1", "ownerReferences": [{"uid": "uid-r"}]}}
    other = {"kind": "PersistentVolumeClaim", "metadata": {"name": "theirs"}}
    mine = [
        {"kind": "Pipeline", "metadata": {"name": "mine-workflow", "labels": PART_OF}},
        {"kind": "ConfigMap", "metadata": {"name": "mine-plan-1", "labels": PART_OF}},
        {"kind": "Pod", "metadata": {"name": "fetch-1", "labels": PART_OF | {"app.kubernetes.io/component": "helper"}}},
    ]
    cluster.add(run_object("r"), run_object("foreign", labels={}), claim, other, *mine)
    done = launch(cluster, "uninstall", check=0)
    left = {one["metadata"]["name"] for one in cluster.objects()}
    assert not left & {"mine-workflow", "mine-plan-1", "fetch-1"}
    assert "left: volume claim pvc-1" in done.stdout
    assert "theirs" not in done.stdout
    assert not cluster.objects("Task")
    assert not cluster.objects("ClusterRoleBinding")
    assert [one["metadata"]["name"] for one in cluster.objects("PipelineRun")] == ["foreign"]
    assert {one["metadata"]["name"] for one in cluster.objects("PersistentVolumeClaim")} == {"pvc-1", "theirs"}
    assert any("--cascade=orphan" in call for call in cluster.arguments())


def test_a_context_that_does_not_exist_is_not_a_missing_installation(cluster):
    """Kubectl's configuration error is passed on, with the command that lists the contexts."""
    cluster.trouble("Error in configuration: context was not found for specified context: x")
    done = launch(cluster, "run", "demo", "--context", "x", check=3)
    assert "context was not found" in done.stderr
    assert "kubectl config get-contexts" in done.stderr
    assert "nothing is installed" not in done.stderr


def test_no_connection_is_its_own_exit_code(cluster):
    """A cluster that does not answer is 75, like every other lost network."""
    cluster.trouble("Unable to connect to the server: dial tcp 10.0.0.1:6443: i/o timeout")
    done = launch(cluster, "status", check=75)
    assert "current-context" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def with_outputs(cluster):
    """Give a cluster with an ended run whose volume holds outputs."""
    outputs = cluster.volume / "outputs"
    (outputs / "reports").mkdir(parents=True)
    (outputs / "01.executed.ipynb").write_bytes(os.urandom(300_000))
    (outputs / "reports" / "summary.json").write_text("{}")
    (outputs / ".01.html.x.part").write_text("half")
    (outputs / "link").symlink_to("/etc/passwd")
    cluster.add(run_object("r", ended="2026-11-01T01:00:00Z", status="True", reason="Succeeded"))
    cluster.add(task_run("r", "validate", status="True", reason="Succeeded"))
    return cluster


def test_fetch_copies_outputs_and_removes_its_pod(with_outputs, tmp_path):
    """Whole files come, links and temporary files do not; the helper Pod is restricted and gone afterwards."""
    target = tmp_path / "here"
    done = launch(with_outputs, "fetch", "--to", str(target), check=0)
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert files == {"01.executed.ipynb", "reports/summary.json"}
    source = with_outputs.volume / "outputs" / "01.executed.ipynb"
    assert (target / "01.executed.ipynb").read_bytes() == source.read_bytes()
    assert "2 files copied" in done.stdout
    assert not with_outputs.objects("Pod")
    created = next(json.loads(call["stdin"]) for call in with_outputs.calls() if call["arguments"][0] == "create")
    (container,) = created["spec"]["containers"]
    assert container["image"] == "runner:1"
    assert container["volumeMounts"][0]["readOnly"] is True
    assert created["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "pvc-1"
    assert created["spec"]["activeDeadlineSeconds"]
    again = launch(with_outputs, "fetch", "--to", str(target), check=0)
    assert "0 files copied" in again.stdout
    assert "2 already there" in again.stdout


def test_fetch_goes_on_where_it_was_cut(with_outputs, tmp_path):
    """A stream that ends early is continued at its byte, not begun again."""
    (with_outputs.folder / "cut.json").write_text("100000")
    target = tmp_path / "here"
    launch(with_outputs, "fetch", "--to", str(target), check=0)
    offsets = [
        call["arguments"][-1]
        for call in with_outputs.calls()
        if call["arguments"][0] == "exec" and "copyfileobj" in call["arguments"][5] and "01" in call["arguments"][-2]
    ]
    assert offsets == ["0", "100000"]
    source = with_outputs.volume / "outputs" / "01.executed.ipynb"
    assert (target / "01.executed.ipynb").read_bytes() == source.read_bytes()
    assert not list(target.rglob("*.part"))


def test_a_failed_fetch_removes_its_pod_too(with_outputs, tmp_path):
    """Whatever goes wrong, no helper Pod stays."""
    (tmp_path / "reports").write_text("in the way of a folder")
    done = launch(with_outputs, "fetch", "--to", str(tmp_path))
    assert done.returncode == 74
    assert not with_outputs.objects("Pod")


def test_status_tells_a_timeout_from_a_cancel(cluster):
    """Of a task, and of a run whose time is up, which Tekton ends by cancelling what is left of it."""
    over = {"ended": "2026-11-01T01:00:00Z", "status": "False"}
    cluster.add(
        run_object("late", **over, reason="PipelineRunTimeout"),
        task_run("late", "validate", status="False", reason="TaskRunTimeout"),
        task_run("late", "notebook-01", status="False", reason="TaskRunCancelled"),
        run_object("stopped", **over, reason="Cancelled"),
        task_run("stopped", "notebook-01", status="False", reason="TaskRunCancelled"),
    )

    def states(name):
        view = json.loads(launch(cluster, "status", name, "--json", check=0).stdout)
        return [(task["state"], task["status"]) for task in view["tasks"]][:2]

    assert states("late") == [("timed-out", "timed-out")] * 2
    assert states("stopped")[1] == ("cancelled", "cancelled")


def test_status_says_what_a_pod_waits_for_in_words_that_fit_a_terminal(cluster):
    """Conditions of Pods are for machines; nothing is wider than 80 columns."""
    message = (
        'pod status "PodScheduled":"False"; message: "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. '
        'preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."'
    )
    cluster.add(run_object("r"), task_run("r", "notebook-01", status="Unknown", reason="Pending", message=message))
    view = json.loads(launch(cluster, "status", "--json", check=0).stdout)
    assert view["tasks"][1]["reason"].startswith("waits for a node: 0/1 nodes are available: 1 Insufficient")
    shown = launch(cluster, "status", check=0).stdout
    assert "pod status" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_without_a_cluster_there_is_one_line_and_a_hint(cluster):
    """Kubectl's log of its own attempts is left out."""
    noise = "E1128 10:15:02.104331   47 memcache.go:265] couldn't get current server API group list: dial tcp\n" * 4
    cluster.trouble(f"{noise}The connection to the server localhost:8080 was refused - did you specify the right host?")
    done = launch(cluster, "status", check=75)
    assert "memcache" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
