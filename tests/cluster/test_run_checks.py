# SPDX-License-Identifier: Apache-2.0
"""Before a run starts, what it needs of the cluster is looked for; what is missing is named with what to do."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from support.kubectl import FakeKubectl, node, tekton_cluster
from support.tekton import ROOT, of_kind

from runner.cli import cli
from runner.cluster.capacity import Node, with_devices
from runner.cluster.install import fitted

PLAN = """
version: 1
name: mine
notebooks:
- {name: large, path: a.ipynb, requires: {gpus: 1, gpu_memory_gb: 80}}
- {name: many, path: b.ipynb, requires: {gpus: 2, gpu_memory_gb: 40, memory_gb: 32}}
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Give a cluster with everything installed, on which the run of the plan has all it needs."""
    fake = FakeKubectl(tmp_path / "cluster")
    fake.add(*(fitted(doc, "scrna", "registry.example/runner:7") for _, doc in of_kind("Task", "Pipeline")))
    fake.add(*(doc for _, doc in of_kind("ConfigMap", "ServiceAccount")), *tekton_cluster("scrna"))
    fake.add(node("big", gpus="2", memory_mib="81559"))
    (tmp_path / "mine.yaml").write_text(PLAN)
    monkeypatch.setenv("PATH", fake.path)
    monkeypatch.chdir(ROOT)
    return fake


def start(cluster, *arguments):
    """Run it and return the exit code, what was said, and whether a run was created."""
    given = ["--plan", str(cluster.folder.parent / "mine.yaml"), "--repository-url", "https://x.example/r"]
    command = ["cluster", "run", "--no-wait", *given, *arguments]
    done = CliRunner().invoke(cli, command, catch_exceptions=False, standalone_mode=False)
    return done.return_value, done.stderr, bool(cluster.objects("PipelineRun"))


def without(cluster, kind, name=None):
    cluster._write(
        [one for one in cluster.objects() if one["kind"] != kind or name not in {None, one["metadata"]["name"]}]
    )


def test_a_run_that_has_all_it_needs_starts_without_a_word(cluster):
    """Neither warning nor failure."""
    assert start(cluster) == (0, "", True)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("CustomResourceDefinition", "fail tekton: no CRD"),
        ("Namespace", "fail namespace: scrna does not exist"),
        ("StorageClass", "fail volume: there is no default storage class"),
        ("ServiceAccount", "fail serviceaccount notebook-runner: is not in this namespace"),
    ],
)
def test_what_is_missing_stops_the_run_before_anything_is_created(cluster, kind, said):
    """Exit code 3; with --no-validate it is started all the same."""
    without(cluster, kind)
    code, err, started = start(cluster)
    assert (code, started) == (3, False)
    assert said in err
    assert "nothing was started" in err
    assert start(cluster, "--no-validate")[::2] == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--claim", "gone"], "fail persistentvolumeclaim gone: is not in this namespace"),
        (["--storage-class", "fast"], "fail volume: there is no storage class 'fast'; available: standard"),
    ],
)
def test_what_the_user_names_has_to_exist(cluster, arguments, said):
    """A claim, a class: Tekton would leave Pods pending for hours."""
    code, err, started = start(cluster, *arguments)
    assert (code, started, said in err) == (3, False, True), err


def test_a_volume_for_one_node_cannot_be_shared(cluster):
    """The provisioner decides, not the wish."""
    without(cluster, "StorageClass")
    cluster.add({"kind": "StorageClass", "metadata": {"name": "gp3"}, "provisioner": "ebs.csi.aws.com"})
    code, err, _ = start(cluster, "--storage-class", "gp3", "--access-mode", "ReadWriteMany")
    assert code == 3
    assert "gp3 (ebs.csi.aws.com) provisions single-node volumes" in err
    assert start(cluster, "--storage-class", "gp3")[0] == 0


def test_read_write_once_needs_one_node_for_all(cluster):
    """Each notebook fits a node and no node fits both; on a shared volume they may be apart."""
    without(cluster, "Node")
    cluster.add(node("a", gpus="1", memory_mib="81559"), node("b", gpus="2", memory_mib="49140"))
    code, err, _ = start(cluster)
    assert code == 3
    assert "no node hosts every notebook of the plan: large fits a only; many fits b only" in err
    assert start(cluster, "--access-mode", "ReadWriteMany")[0] == 0


def quota(hard, used="0", key="requests.nvidia.com/gpu"):
    return {
        "kind": "ResourceQuota",
        "metadata": {"name": "team"},
        "status": {"hard": {key: hard}, "used": {key: used}},
    }


def test_a_quota_that_is_too_small_stops_the_run_and_a_full_one_warns(cluster):
    """Two GPUs at once: of one they can never be had, of two they are waited for."""
    cluster.add(quota("2", "1"))
    code, err, started = start(cluster)
    assert (code, started) == (0, True)
    assert "warn quota team: requests.nvidia.com/gpu: 1 of 2 used, 2 more requested" in err
    without(cluster, "ResourceQuota")
    cluster.add(quota("1"))
    assert start(cluster)[0] == 3
    without(cluster, "ResourceQuota")
    cluster.add(quota("5Gi", key="requests.storage"))
    assert "fail quota team: requests.storage" in start(cluster)[1]


@pytest.mark.parametrize(
    ("held", "code", "said"),
    [
        ([{"names": ["docker.io/library/runner:7"]}], 0, ""),
        ([{"names": ["localhost/runner:7"]}], 0, ""),
        ([{"names": ["docker.io/library/other:1"]}], 3, "fail image: runner:7 has no registry and is on no node"),
        ([], 0, "warn image: runner:7"),
    ],
)
def test_an_image_without_a_registry_has_to_be_on_a_node(cluster, held, code, said):
    """Else it ends in ImagePullBackOff; where nodes list no images it cannot be known."""
    without(cluster, "Node")
    cluster.add(node("big", gpus="2", memory_mib="81559", images=held))
    found, err, _ = start(cluster, "--param", "image=runner:7")
    assert found == code, err
    assert said in err


def test_what_may_not_be_looked_at_stops_nobody(cluster):
    """A user with rights in the namespace alone gets warnings; the run checks the nodes itself."""
    refusal = 'Error from server (Forbidden): nodes is forbidden: User "me" cannot list resource'
    task, config_map = "", ""
    cluster.trouble(task, config_map, *[refusal] * 3)
    code, err, started = start(cluster)
    assert (code, started) == (0, True), err
    assert err.count("warn ") == 3


def test_truth_words_are_those_of_the_tasks(cluster):
    """`no` is what the tasks take for false as well."""
    without(cluster, "Node")
    cluster.add(node("small"))
    assert start(cluster)[0] == 3
    assert start(cluster, "--param", "skip-unhostable-notebooks=yes")[0] == 0
    assert start(cluster, "--param", "check-capacity=off")[0] == 0


def slices(*sizes, driver="gpu.nvidia.com"):
    devices = [
        {"name": f"gpu-{n}", "attributes": {"type": {"string": "gpu"}}, "capacity": {"memory": {"value": size}}}
        for n, size in enumerate(sizes)
    ]
    return {
        "kind": "ResourceSlice",
        "metadata": {"name": "s"},
        "spec": {"driver": driver, "nodeName": "dra", "devices": devices},
    }


def test_gpus_of_dynamic_resource_allocation_are_counted_or_said_to_be_unknown(cluster):
    """A DeviceClass with the extended resource name leads there; without one nobody says that no node has them."""
    without(cluster, "Node")
    cluster.add(node("dra"), slices("81559Mi", "81559Mi"))
    code, err, started = start(cluster)
    assert (code, started) == (0, True)
    assert "warn large: unknown whether a node can host" in err
    assert "no node" not in err.replace("fit no node", "")
    cluster.add({"kind": "DeviceClass", "metadata": {"name": "g"}, "spec": {"extendedResourceName": "nvidia.com/gpu"}})
    assert start(cluster)[1] == ""


def test_the_check_of_the_cluster_knows_its_devices_too(cluster):
    """It does not miss a GPU operator where the GPUs of Dynamic Resource Allocation are."""
    without(cluster, "Node")
    cluster.add(node("dra"), slices("81559Mi"))

    def gpus():
        shown = CliRunner().invoke(cli, ["cluster", "validate", "--namespace", "scrna"]).stdout
        return next(line for line in shown.splitlines() if " gpus: " in line)

    assert "no DeviceClass has the extended resource name nvidia.com/gpu" in gpus()
    cluster.add({"kind": "DeviceClass", "metadata": {"name": "g"}, "spec": {"extendedResourceName": "nvidia.com/gpu"}})
    assert gpus() == "pass gpus: dra: 1 nvidia.com/gpu"


def test_devices_of_others_and_slices_that_cannot_be_read():
    """Network cards are no GPUs; without the right, a cluster whose nodes offer GPUs is judged as ever."""
    plain = Node(name="dra", allocatable={"cpu": 8.0})
    assert with_devices([plain], [slices("80Gi", driver="nic.example")], [], "nvidia.com/gpu") == ([plain], "")
    assert "right to read ResourceSlices" in with_devices([plain], None, [], "nvidia.com/gpu")[1]
    offering = Node(name="n", allocatable={"nvidia.com/gpu": 1.0})
    assert with_devices([offering], None, [], "nvidia.com/gpu") == ([offering], "")
    basic = slices("40Gi")
    basic["spec"]["devices"] = [{"name": "g", "basic": device} for device in basic["spec"]["devices"]]
    classes = [{"spec": {"extendedResourceName": "nvidia.com/gpu"}}]
    [found], why = with_devices([plain], [basic], classes, "nvidia.com/gpu")
    assert (found.allocatable["nvidia.com/gpu"], found.labels, why) == (1.0, {"nvidia.com/gpu.memory": "40960"}, "")
