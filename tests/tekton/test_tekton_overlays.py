# SPDX-License-Identifier: Apache-2.0
"""The kustomizations build, hold every manifest, and each overlay changes what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest
import yaml
from support.cli import PATIENCE
from support.kubectl import FakeKubectl, tekton_cluster
from support.tekton import TEKTON

from runner.cluster import capacity
from runner.cluster.capacity import Node
from runner.cluster.install import uninstall
from runner.cluster.kubectl import Kubectl
from runner.tekton import names

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
SHARED = {"ClusterQueue", "DeviceClass", "ResourceFlavor"}
OVERLAYS = sorted(path.parent.name for path in (TEKTON / "overlays").glob("*/kustomization.yaml"))


@cache
def built(folder: str):
    done = subprocess.run(
        ["kubectl", "kustomize", str(TEKTON / folder)], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def default_of(document, param):
    return next(one["default"] for one in document["spec"]["params"] if one["name"] == param)


@pytest.mark.parametrize("folder", ["tasks", "pipelines", "configs"])
def test_no_file_of_a_folder_is_forgotten(folder):
    """What lies in the folder is installed."""
    listed = yaml.safe_load((TEKTON / folder / "Kustomization").read_text())["resources"]
    assert sorted(listed) == sorted(path.name for path in (TEKTON / folder).glob("*.yaml"))


def test_a_folder_can_be_applied_as_it_is():
    """`kubectl apply -f tekton/tasks/` meets no file that is no object."""
    for folder in ("tasks", "pipelines"):
        for path in (TEKTON / folder).glob("*.y*ml"):
            assert yaml.safe_load(path.read_text())["apiVersion"] == "tekton.dev/v1"


def test_what_a_folder_names_is_in_it():
    """Runs are created one by one; `kubectl apply -f tekton/configs/` leaves no CronJob without its plan and account."""
    assert not {kind for kind, _ in built(".")} & {"PipelineRun", "TaskRun"}
    configs = [doc for path in (TEKTON / "configs").glob("*.yaml") for doc in yaml.safe_load_all(path.read_text())]
    there = {(doc["kind"], doc["metadata"]["name"]) for doc in configs}
    for job in (doc for doc in configs if doc["kind"] == "CronJob"):
        pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        named = {("ConfigMap", one["configMap"]["name"]) for one in pod["volumes"] if "configMap" in one}
        assert named | {("ServiceAccount", pod["serviceAccountName"])} <= there


@pytest.mark.parametrize("overlay", [".", "bundle", *(f"overlays/{overlay}" for overlay in OVERLAYS)])
def test_one_line_sets_the_image_of_everything(overlay, tmp_path):
    """As the guide says it, whatever is installed: Tasks, Pipelines and CronJobs, and nothing of it is an object."""
    guide = (TEKTON / "docs" / "README.md").read_text()
    (line,) = [line.strip() for line in guide.splitlines() if line.strip().startswith("sed -i")]
    shutil.copytree(TEKTON, tmp_path / "tekton")
    if overlay == "overlays/air-gapped":  # which has a registry of its own
        line = line.replace("registry.example/runner", "registry.example.internal/rapids-notebook-runner")
    subprocess.run(line, shell=True, check=True, cwd=tmp_path)
    objects = built(str(tmp_path / "tekton" / overlay))
    image = line.partition("- image=.*|- image=")[2].partition("|")[0]
    images = {
        one["default"]
        for (kind, _), doc in objects.items()
        if kind in {"Task", "Pipeline"}
        for one in doc["spec"]["params"]
        if one["name"] == "image"
    }
    for (kind, _), doc in objects.items():
        if kind == "CronJob":
            (container,) = doc["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
            images.add(container["image"])
    assert images == {image}
    assert ("ConfigMap", "runner-image") not in objects


def test_a_bundle_holds_every_task_and_pipeline():
    """And nothing else, which `tkn bundle push` would refuse; Tekton takes 20 objects a bundle."""
    assert set(built("bundle")) == {key for key in built(".") if key[0] in {"Task", "Pipeline"}}
    assert len(built("bundle")) <= 20


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_and_keeps_all_objects(overlay):
    """Nothing gets lost on the way; names change only for what is cluster-wide."""
    kept = {(kind, name.removesuffix("-scrna-analysis")) for kind, name in built(f"overlays/{overlay}")}
    assert set(built(".")) <= kept


def test_there_is_an_overlay_for_each_promise():
    """Namespace and storage class, one small GPU, many GPUs, air-gapped, MIG, DRA, Kueue."""
    assert OVERLAYS == ["air-gapped", "dra", "kueue", "many-gpus", "mig", "namespace", "one-small-gpu"]


def test_namespace_overlay():
    """Everything namespaced lands there, and the validator's right is for its account there."""
    objects = built("overlays/namespace")
    cluster_wide = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    spaces = {doc["metadata"].get("namespace") for (kind, _), doc in objects.items() if kind not in cluster_wide}
    assert spaces == {"scrna-analysis"}
    binding = objects["ClusterRoleBinding", "notebook-validator-scrna-analysis"]
    assert binding["subjects"][0]["namespace"] == "scrna-analysis"
    assert ("ClusterRole", binding["roleRef"]["name"]) in objects
    assert binding["roleRef"]["name"] == "notebook-validator-scrna-analysis"
    labels = objects["Namespace", "scrna-analysis"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert objects["PersistentVolumeClaim", "shared-storage"]["spec"]["storageClassName"] == "standard"


def test_small_gpu_overlay():
    """What does not fit is skipped instead of failing the run."""
    objects = built("overlays/one-small-gpu")
    pipeline = objects["Pipeline", "complete-scrna-analysis-workflow"]
    assert default_of(pipeline, "skip-unhostable-notebooks") == "true"
    assert (
        default_of(built(".")["Pipeline", "complete-scrna-analysis-workflow"], "skip-unhostable-notebooks") == "false"
    )


def test_air_gapped_overlay():
    """No image of another registry, no public address, no fetching."""
    text = yaml.safe_dump_all(built("overlays/air-gapped").values())
    assert "default: rapids-notebook-runner:" not in text
    assert "image: rapids-notebook-runner:" not in text
    assert "0.0.0.0/0" not in text
    for (kind, name), document in built("overlays/air-gapped").items():
        if kind == "Pipeline" and "-scrna-" in name:
            assert default_of(document, "offline") == "true"
            assert "internal" in default_of(document, "repository-url")


def test_kueue_overlay():
    """Pods of notebooks alone wait in the queue, whose quota covers every resource that they ask for."""
    objects = built("overlays/kueue")
    label = "kueue.x-k8s.io/queue-name"
    queued = {name: doc["metadata"]["labels"].get(label) for (kind, name), doc in objects.items() if kind == "Task"}
    (queue,) = {name for name in queued.values() if name}
    assert [task for task, name in queued.items() if name] == ["gpu-notebook-executor-task"]
    team = objects["ClusterQueue", objects["LocalQueue", queue]["spec"]["clusterQueue"]]["spec"]
    (group,) = team["resourceGroups"]
    (flavor,) = group["flavors"]
    assert ("ResourceFlavor", flavor["name"]) in objects
    assert {one["name"] for one in flavor["resources"]} == set(group["coveredResources"])
    (step,) = objects["Task", "gpu-notebook-executor-task"]["spec"]["steps"]
    assert set(step["computeResources"]["requests"]) <= set(group["coveredResources"])
    assert set(team["preemption"].values()) == {"Never"}


def test_dra_overlay():
    """The name that Pods ask for leads to whole GPUs of the driver whose slices the check of the nodes reads."""
    spec = built("overlays/dra")["DeviceClass", "notebook-gpu"]["spec"]
    (step,) = built("overlays/dra")["Task", "gpu-notebook-executor-task"]["spec"]["steps"]
    assert step["computeResources"]["limits"][spec["extendedResourceName"]] == "1"
    (selector,) = spec["selectors"]
    assert capacity.GPU_DRIVER in selector["cel"]["expression"]
    device = {"attributes": {"type": {"string": "gpu"}}, "capacity": {"memory": {"value": "80Gi"}}}
    slices = [{"spec": {"driver": capacity.GPU_DRIVER, "nodeName": "n", "devices": [device]}}]
    node = Node(name="n")
    (found,), unknown = capacity.with_devices([node], slices, [{"spec": spec}], names.GPU_RESOURCE)
    assert (found.allocatable, unknown) == ({names.GPU_RESOURCE: 1.0}, "")


@pytest.mark.parametrize("overlay", ["dra", "kueue"])
def test_what_other_namespaces_share_outlives_an_uninstall(overlay, tmp_path, monkeypatch):
    """A quota and a class of devices are the cluster's."""
    objects = built(f"overlays/{overlay}")
    shared = {(kind, name) for kind, name in objects if kind in SHARED}
    assert shared
    kubectl = FakeKubectl(tmp_path)
    kubectl.add(*tekton_cluster("scrna"))
    monkeypatch.setenv("PATH", f"{kubectl.folder / 'bin'}:{os.environ['PATH']}")
    left = uninstall(Kubectl(namespace="scrna"), list(objects.values()), volumes=False, dry_run=True)
    assert {tuple(one.split("/")) for one in left.kept} == shared


def test_mig_overlay():
    """The GPU step asks for a slice, and the check of the nodes looks for slices."""
    objects = built("overlays/mig")
    (step,) = objects["Task", "gpu-notebook-executor-task"]["spec"]["steps"]
    assert step["computeResources"]["limits"]["nvidia.com/mig-3g.40gb"] == "1"
    assert "nvidia.com/gpu" not in step["computeResources"]["limits"]
    assert default_of(objects["Task", "system-validation-task"], "gpu-resource") == "nvidia.com/mig-3g.40gb"


def test_many_gpus_overlay():
    """The weekly run is the parallel one, on a volume for all nodes."""
    job = built("overlays/many-gpus")["CronJob", "weekly-analysis"]
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert "--pipeline=parallel-scrna-analysis-workflow" in container["args"]
    assert "--order=parallel" in container["args"]
    assert "--access-mode=ReadWriteMany" in container["args"]
