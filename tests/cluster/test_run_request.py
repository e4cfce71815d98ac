# SPDX-License-Identifier: Apache-2.0
"""What a run takes with it: image, plan and volume, for all of a plan, for a part, and for one more try."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from click.testing import CliRunner
from support.kubectl import FakeKubectl, node, tekton_cluster
from support.tekton import ROOT, of_kind, references

from runner.cli import cli
from runner.cluster.install import fitted
from runner.core.errors import RunnerError, UsageError
from runner.core.units import duration_seconds

PLAN = """version: 1
name: mine
notebooks:
- {name: a, path: a.ipynb, timeout: 10m}
- {name: b, path: b.ipynb, needs: [a], datasets: [d]}
- {name: c, path: c.ipynb}
datasets:
  d: {url: "https://x.example/1", path: one}
"""
PLAN_NAME = re.compile(r"mine-plan-[0-9a-f]{10}")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Give a cluster on which the image runner:7 was installed, and the repository as current folder."""
    fake = FakeKubectl(tmp_path / "cluster")
    fake.add(*(fitted(doc, "scrna", "runner:7") for _, doc in of_kind("Task", "Pipeline")))
    fake.add(*(doc for _, doc in of_kind("ConfigMap", "ServiceAccount")), *tekton_cluster("scrna"))
    fake.add(
        {"kind": "PersistentVolumeClaim", "metadata": {"name": "mine"}}, node("big", gpus="8", memory_mib="184000")
    )
    monkeypatch.setenv("PATH", fake.path)
    monkeypatch.chdir(ROOT)
    return fake


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(PLAN)
    return path


def invoke(*arguments):
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def start(cluster, *arguments):
    """Start a run and return it as it lies on the cluster."""
    name = invoke("cluster", "run", "--no-wait", *arguments).strip()
    return next(run for run in cluster.objects("PipelineRun") if run["metadata"]["name"] == name)


def values(run):
    """Return the parameters of a run, the pipeline's defaults where it gives none."""
    spec = run["spec"].get("pipelineSpec", {})
    found = {one["name"]: one.get("default") for one in spec.get("params", [])}
    return found | {one["name"]: one["value"] for one in run["spec"].get("params", [])}


@pytest.mark.parametrize("own", [True, False], ids=["plan", "file"])
def test_a_run_that_holds_failures_has_the_time_for_it(cluster, plan, own):
    """A TaskRun that ended while its notebook waits for a repair would end the notebook, too."""
    which = ("--plan", plan, "--repository-url", "https://x.example/r") if own else ("preprocessing",)

    def seconds(*arguments):
        run = start(cluster, *which, *arguments)
        found = {one["pipelineTaskName"]: duration_seconds(one["timeout"]) for one in run["spec"]["taskRunSpecs"]}
        return values(run).get("on-failure"), found, duration_seconds(run["spec"]["timeouts"]["pipeline"])

    _, before, whole = seconds()
    given, after, longer = seconds("--param", "on-failure=hold=3h")
    assert given == "hold=3h"
    tasks = [name for name in before if name.startswith("notebook-")]
    assert tasks
    assert all(after[name] - before[name] >= 3 * 3600 for name in tasks)
    assert all(after[name] == before[name] for name in before if name not in tasks)
    assert longer - whole >= len(tasks) * 3 * 3600


def notebooks(run):
    tasks = run["spec"]["pipelineSpec"]["tasks"]
    return [task["name"] for task in tasks if task["name"].startswith("notebook-")]


def own_plan(cluster, plan, *arguments):
    return start(cluster, "--plan", plan, "--repository-url", "https://git.example/me/nb", *arguments)


def test_a_plan_of_ones_own_runs_with_the_image_and_the_plan_of_its_start(cluster, plan):
    """The installation's image, and an immutable ConfigMap that is named after the plan and goes with the run."""
    run = own_plan(cluster, plan)
    assert values(run)["image"] == "runner:7"
    name = values(run)["plan-configmap"]
    assert PLAN_NAME.fullmatch(name)
    [config] = [one for one in cluster.objects("ConfigMap") if one["metadata"]["name"] == name]
    assert config["immutable"] is True
    assert config["data"]["plan.yaml"] == PLAN
    assert [owner["uid"] for owner in config["metadata"]["ownerReferences"]] == [run["metadata"]["uid"]]
    assert notebooks(run) == ["notebook-a", "notebook-b", "notebook-c"]
    assert "pipelineRef" not in run["spec"]
    # Another plan of the same name gets another ConfigMap; the same plan shares it and both runs keep it.
    plan.write_text(PLAN.replace("10m", "20m"))
    assert values(own_plan(cluster, plan))["plan-configmap"] != name
    plan.write_text(PLAN)
    again = own_plan(cluster, plan)
    [config] = [one for one in cluster.objects("ConfigMap") if one["metadata"]["name"] == name]
    owners = {owner["uid"] for owner in config["metadata"]["ownerReferences"]}
    assert owners == {run["metadata"]["uid"], again["metadata"]["uid"]}


def test_a_file_of_plan_render_is_a_run(cluster, plan, tmp_path):
    """Pipeline, PipelineRun and ConfigMap as they are printed start the same run as the plan itself."""
    path = tmp_path / "rendered.yaml"
    path.write_text(invoke("plan", "render", plan, "--repository-url", "https://git.example/me/nb"))
    kinds = [one["kind"] for one in yaml.safe_load_all(path.read_text())]
    assert kinds == ["Pipeline", "PipelineRun", "ConfigMap"]
    run, direct = start(cluster, path), own_plan(cluster, plan)
    assert run["spec"]["pipelineSpec"] == direct["spec"]["pipelineSpec"]
    assert values(run)["plan-configmap"] == values(direct)["plan-configmap"]
    given = tmp_path / "other.yaml"
    given.write_text(invoke("plan", "render", plan, "--repository-url", "x", "--image", "mine:1"))
    assert values(start(cluster, given))["image"] == "mine:1"


def test_an_installed_plan_is_kept_as_it_was_at_the_start(cluster):
    """A later installation changes the ConfigMap of the plan, and not the one of the run."""
    run = start(cluster, "complete")
    name = values(run)["plan-configmap"]
    assert name != "gpu-resource-config"
    [copy] = [one for one in cluster.objects("ConfigMap") if one["metadata"]["name"] == name]
    [original] = [one for one in cluster.objects("ConfigMap") if one["metadata"]["name"] == "gpu-resource-config"]
    assert copy["data"]["plan.yaml"] == original["data"]["plan.yaml"]
    assert run["spec"]["pipelineRef"]["name"] == "complete-scrna-analysis-workflow"


@pytest.mark.parametrize(
    ("text", "problem"),
    [(PLAN, "not one PipelineRun"), ("a: [", "cannot be read"), ("- 1", "not one PipelineRun"), ("", "nothing")],
)
def test_a_file_without_a_run_is_a_usage_error(cluster, tmp_path, text, problem):
    """A plan given as FILE, broken YAML and the like say what was expected."""
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=problem):
        invoke("cluster", "run", path)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("continue-on-failur=false", "did you mean 'continue-on-failure'"),
        ("continue-on-failure=flase", "true or false"),
    ],
)
def test_a_misspelt_parameter_starts_nothing(cluster, setting, problem):
    """Tekton would ignore the name and hand on the value."""
    with pytest.raises(UsageError) as caught:
        invoke("cluster", "run", "complete", "--param", setting)
    assert problem in str(caught.value)
    assert not cluster.objects("PipelineRun")


def test_where_nothing_is_installed_no_run_starts(cluster):
    """Exit code 3 as the usage says, instead of a run that fails because its pipeline is missing."""
    cluster._write([])
    with pytest.raises(RunnerError, match="nothing is installed") as caught:
        invoke("cluster", "run", "complete")
    assert caught.value.exit_code == 3


def sound(run):
    """Check that a part names only tasks that it has."""
    spec = run["spec"]["pipelineSpec"]
    tasks = {task["name"] for task in spec["tasks"]}
    for task in [*spec["tasks"], *spec["finally"]]:
        assert set(task.get("runAfter", [])) <= tasks
        assert references(task, "tasks") <= tasks
    assert {one["pipelineTaskName"] for one in run["spec"]["taskRunSpecs"]} == tasks | {"report"}


@pytest.mark.parametrize(
    ("arguments", "chosen", "data"),
    [
        (["--only", "c"], ["c"], set()),
        (["--from", "b"], ["b", "c"], {"data-stage-1"}),
        (["--only", "a", "--only", "b"], ["a", "b"], {"data-stage-1"}),
    ],
)
def test_a_part_of_a_plan(cluster, plan, arguments, chosen, data):
    """Only what was chosen and the data it reads; its needs may be met by an earlier run on that volume."""
    run = own_plan(cluster, plan, *arguments, "--claim", "mine")
    assert notebooks(run) == [f"notebook-{name}" for name in chosen]
    sound(run)
    assert {task["name"] for task in run["spec"]["pipelineSpec"]["tasks"] if task["name"].startswith("data")} == data
    report = run["spec"]["pipelineSpec"]["finally"][0]
    assert {"name": "only", "value": [f"--only={name}" for name in chosen]} in report["params"]
    assert {"name": "needs-of-any-run", "value": "true"} in run["spec"]["pipelineSpec"]["tasks"][-1]["params"]
    assert run["spec"]["workspaces"][0]["persistentVolumeClaim"] == {"claimName": "mine"}


def test_a_part_of_an_installed_pipeline(cluster):
    """The checked-in runs have parts as well; a name that is not there is told with the nearest one."""
    name = "03_scRNA_analysis_with_pearson_residuals"
    sound(start(cluster, "parallel", "--only", name))
    with pytest.raises(UsageError, match="did you mean"):
        invoke("cluster", "run", "complete", "--only", name[:-1])


def ended(cluster, run, **states):
    """Let a run end with these states of its tasks, on the claim pvc-1."""
    objects = [one for one in cluster.objects() if one["metadata"].get("uid") != run["metadata"]["uid"]]
    condition = {"type": "Succeeded", "status": "False", "reason": "Failed", "message": ""}
    run["status"] = {"completionTime": "2026-11-01T01:00:00Z", "conditions": [condition],
                     "pipelineSpec": run["spec"]["pipelineSpec"]}  # fmt: skip
    name = run["metadata"]["name"]
    for task, status in states.items():
        label = task.replace("_", "-")
        objects.append({
            "kind": "TaskRun",
            "metadata": {"name": f"{name}-{label}",
                         "labels": {"tekton.dev/pipelineRun": name, "tekton.dev/pipelineTask": label}},
            "spec": {"workspaces": [{"name": "shared-storage", "persistentVolumeClaim": {"claimName": "pvc-1"}}]},
            "status": {"conditions": [{"type": "Succeeded", "status": status, "reason": "x"}]},
        })  # fmt: skip
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "pvc-1", "ownerReferences": [{"uid": "first"}]}}
    cluster._write([*objects, run, claim])


def test_rerun_repeats_what_failed_under_the_same_id(cluster, plan):
    """Failed and not reached, on the same volume and without a new clone; the report speaks of the whole run."""
    run = own_plan(cluster, plan)
    ended(cluster, run, clone="True", validate="True", notebook_a="True", notebook_b="False")
    name = invoke("cluster", "rerun", "--no-wait").strip()
    [again] = [one for one in cluster.objects("PipelineRun") if one["metadata"]["name"] == name]
    assert notebooks(again) == ["notebook-b", "notebook-c"]
    sound(again)
    spec = again["spec"]["pipelineSpec"]
    assert "clone" not in {task["name"] for task in spec["tasks"]}
    ids = {
        one["value"] for task in [*spec["tasks"], *spec["finally"]] for one in task["params"] if one["name"] == "run-id"
    }
    assert ids == {run["metadata"]["uid"]}
    assert not [one for one in spec["finally"][0]["params"] if one["name"] == "only"]
    assert again["spec"]["workspaces"][0] == {
        "name": "shared-storage", "persistentVolumeClaim": {"claimName": "pvc-1"},
    }  # fmt: skip
    # Volume and plan stay as long as one of both runs does.
    uid = again["metadata"]["uid"]
    for kind, held in (("PersistentVolumeClaim", "pvc-1"), ("ConfigMap", values(run)["plan-configmap"])):
        [one] = [one for one in cluster.objects(kind) if one["metadata"]["name"] == held]
        assert uid in {owner["uid"] for owner in one["metadata"]["ownerReferences"]}


def test_rerun_of_named_notebooks(cluster, plan):
    """A name repeats what succeeded as well; nothing failed, no name and a run under way are usage errors."""
    run = own_plan(cluster, plan)
    with pytest.raises(UsageError, match="still running"):
        invoke("cluster", "rerun")
    ended(cluster, run, **dict.fromkeys(("clone", "validate", "notebook_a", "notebook_b", "notebook_c"), "True"))
    with pytest.raises(UsageError, match=r"no notebook of .* failed"):
        invoke("cluster", "rerun", "--failed")
    invoke("cluster", "rerun", "a", "--no-wait", "--dry-run")
    assert len(cluster.objects("PipelineRun")) == 1
    name = invoke("cluster", "rerun", "a", "--no-wait").strip()
    [again] = [one for one in cluster.objects("PipelineRun") if one["metadata"]["name"] == name]
    assert notebooks(again) == ["notebook-a"]


def test_rerun_clones_where_the_clone_failed(cluster, plan):
    """Without the source on the volume nothing could run."""
    run = own_plan(cluster, plan)
    ended(cluster, run, clone="False")
    name = invoke("cluster", "rerun", "--no-wait").strip()
    [again] = [one for one in cluster.objects("PipelineRun") if one["metadata"]["name"] == name]
    assert again["spec"]["pipelineSpec"]["tasks"][0]["name"] == "clone"
    sound(again)


def test_a_run_is_what_tekton_admits(cluster, plan):
    """Whole, in part and repeated, a run is valid by Tekton's own schemas."""
    import jsonschema
    from support.tekton import crd_schemas

    schemas, why = crd_schemas()
    if not schemas:
        pytest.skip(why)
    run = own_plan(cluster, plan, "--from", "b")
    run["metadata"].pop("uid")
    jsonschema.validate(json.loads(json.dumps(run)), schemas["PipelineRun"])
