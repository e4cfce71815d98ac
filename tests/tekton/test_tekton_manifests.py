# SPDX-License-Identifier: Apache-2.0
"""Rules of our own for every manifest; each was a fault that no linter and no schema finds."""

from __future__ import annotations

import graphlib
import itertools
import re

import pytest
import yaml
from support import tekton

from runner import __version__

TASKS = tekton.tasks()
PIPELINES = tekton.pipelines()
RUNS = dict(tekton.of_kind("PipelineRun", "TaskRun"))
ALL = tekton.of_kind(
    *("Task", "Pipeline", "PipelineRun", "TaskRun", "ConfigMap", "CronJob", "ServiceAccount", "Role", "RoleBinding"),
    *("ClusterRole", "ClusterRoleBinding", "NetworkPolicy"),
)
# Tasks that build images play by other rules; their own tests look at them.
OURS = {name: task for name, task in TASKS.items() if "image-build" not in name}
each_task = pytest.mark.parametrize("task", OURS.values(), ids=OURS)
each_pipeline = pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
ANALYSES = {name: pipeline for name, pipeline in PIPELINES.items() if name != "image-build-workflow"}
each_analysis = pytest.mark.parametrize("pipeline", ANALYSES.values(), ids=ANALYSES)
each_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


def resources_of(run: dict) -> dict[str, dict]:
    """Return the step resources of a PipelineRun by pipeline task."""
    return {
        spec["pipelineTaskName"]: step["computeResources"]
        for spec in run["spec"].get("taskRunSpecs", [])
        for step in spec.get("stepSpecs", [])
    }


def seconds(text: str) -> int:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


def test_the_missions_names_are_there():
    """Every name that users rely on exists."""
    assert {
        *("gpu-notebook-executor-task", "system-validation-task", "safe-git-clone-task"),
        *("jupyter-nbconvert-complete", "large-dataset-download-task", "analysis-report-task"),
    } <= set(TASKS)
    assert {
        *("complete-scrna-analysis-workflow", "gpu-scrna-analysis-preprocessing-workflow"),
        "parallel-scrna-analysis-workflow",
    } <= set(PIPELINES)


@each_task
def test_a_task_has_no_script(task):
    """No value of a user is ever part of a shell script."""
    for step in task["spec"]["steps"]:
        assert "script" not in step
        assert step["command"] == ["runner"]
    assert "sidecars" not in task["spec"]


@each_task
def test_user_values_cannot_become_options(task):
    """What a user writes as a positional argument stands behind `--`, or in the environment."""
    for step in task["spec"]["steps"]:
        arguments = step["args"]
        free = [i for i, argument in enumerate(arguments) if re.search(r"\$\(params\.[\w-]+\)", argument)]
        assert all("--" in arguments[:position] for position in free), arguments


@each_task
def test_only_declared_parameters_are_used_and_all_of_them_are(task):
    """Parameters and workspaces that a Task uses are those that it declares."""
    declared = {param["name"] for param in task["spec"]["params"]}
    assert tekton.references(task["spec"], "params") == declared
    spaces = {workspace["name"] for workspace in task["spec"]["workspaces"]}
    assert tekton.references(task["spec"], "workspaces") <= spaces


@each_task
def test_parameters_that_may_be_empty_reach_the_runner_as_environment(task):
    """An empty argument is a value, an empty variable is none; so what may be empty is never an argument."""
    empty = {param["name"] for param in task["spec"]["params"] if param.get("default") == ""}
    for step in task["spec"]["steps"]:
        assert not tekton.references(step["args"], "params") & empty


@each_task
def test_at_most_one_step_asks_for_a_gpu(task):
    """The requests of steps add up, and a GPU of one container is not visible in another."""
    asking = [s["name"] for s in task["spec"]["steps"] if "nvidia.com/gpu" in s["computeResources"].get("limits", {})]
    expected = ["execute-notebook"] if task["metadata"]["name"] == "gpu-notebook-executor-task" else []
    assert asking == expected


@each_task
def test_steps_without_a_gpu_see_none(task):
    """On a node whose runtime gives GPUs to everybody, the small steps still hold none."""
    environment = {one["name"]: one.get("value") for one in task["spec"]["stepTemplate"].get("env", [])}
    gpu = task["metadata"]["name"] == "gpu-notebook-executor-task"
    assert environment.get("NVIDIA_VISIBLE_DEVICES") == (None if gpu else "void")


@each_task
def test_each_step_has_requests_and_limits(task):
    """No container runs without bounds, and none is refused by a quota."""
    for step in task["spec"]["steps"]:
        resources = step["computeResources"]
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(resources[kind]), step["name"]
        assert "timeout" not in step, "it kills without SIGTERM; our own deadline has to fire first"


@each_task
def test_a_task_is_restricted(task):
    """Any uid, no privileges, a root filesystem that is read-only, and one place to write."""
    security = task["spec"]["stepTemplate"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "runAsUser" not in security
    volumes = {volume["name"]: volume for volume in task["spec"]["volumes"]}
    homes = [
        {e["name"]: e.get("value") for e in where.get("env", [])}.get("HOME")
        for where in (*task["spec"]["steps"], task["spec"]["stepTemplate"])
    ]
    assert any(homes), "the image's own home is read-only"
    assert volumes["tmp"] == {"name": "tmp", "emptyDir": {}}
    for step in task["spec"]["steps"]:
        assert {"name": "tmp", "mountPath": "/tmp"} in step["volumeMounts"]
        assert {mount["name"] for mount in step["volumeMounts"]} <= set(volumes)


@each_task
def test_everything_of_a_task_is_described(task):
    """A user of the Dashboard or of `tkn` reads what each thing is for."""
    spec = task["spec"]
    assert spec["displayName"]
    assert len(spec["description"]) > 40
    for thing in (*spec["params"], *spec["workspaces"], *spec.get("results", [])):
        assert len(thing["description"]) > 10, thing["name"]
    image = spec["params"][0]
    assert image["name"] == "image"
    assert image["default"]
    assert all(step["image"] == "$(params.image)" for step in spec["steps"])


@each_pipeline
def test_everything_of_a_pipeline_is_described(pipeline):
    """The same for pipelines."""
    spec = pipeline["spec"]
    assert spec["displayName"]
    assert len(spec["description"]) > 20
    assert all(thing["description"] for thing in (*spec["params"], *spec["workspaces"]))
    assert all(task["displayName"] for task in tekton.pipeline_tasks(pipeline))


@pytest.mark.parametrize(("name", "document"), ALL, ids=[f"{name}-{doc['kind']}" for name, doc in ALL])
def test_every_object_carries_our_labels(name, document):
    """What we install can be found, and removed, by one label."""
    labels = document["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "rapids-notebook-runner"


def test_files_hold_their_object():
    """A Task or Pipeline is alone in a file that bears its name."""
    for folder, kind in (("tasks", "Task"), ("pipelines", "Pipeline")):
        for name, document in tekton.documents(folder).items():
            assert document["kind"] == kind
            assert name == f"{document['metadata']['name']}.yaml"
            assert document["apiVersion"] == "tekton.dev/v1"


@each_pipeline
def test_pipeline_tasks_fit_their_tasks(pipeline):
    """Each task exists, gets only parameters that it declares, all that it requires, and its workspaces."""
    declared = {param["name"] for param in pipeline["spec"]["params"]}
    spaces = {workspace["name"] for workspace in pipeline["spec"]["workspaces"]}
    tasks = tekton.pipeline_tasks(pipeline)
    names = [task["name"] for task in tasks]
    assert len(names) == len(set(names))
    for task in tasks:
        target = TASKS[task["taskRef"]["name"]]["spec"]
        known = {param["name"]: param for param in target["params"]}
        given = {param["name"]: param["value"] for param in task["params"]}
        assert set(given) <= set(known), task["name"]
        assert {name for name, param in known.items() if "default" not in param} <= set(given), task["name"]
        for name, value in given.items():
            assert isinstance(value, list) == (known[name]["type"] == "array"), (task["name"], name)
        required = {workspace["name"] for workspace in target["workspaces"] if not workspace.get("optional")}
        bound = {workspace["name"] for workspace in task["workspaces"]}
        assert required <= bound <= {workspace["name"] for workspace in target["workspaces"]}
        assert {workspace["workspace"] for workspace in task["workspaces"]} <= spaces
    assert tekton.references(tasks, "params") == declared


@each_pipeline
def test_pipeline_order_has_no_circle_and_no_loose_end(pipeline):
    """Order and results name tasks of the pipeline, and results exist."""
    tasks = {task["name"]: task for task in pipeline["spec"]["tasks"]}
    graph = {name: set(task.get("runAfter", [])) | tekton.references(task, "tasks") for name, task in tasks.items()}
    for before in graph.values():
        assert before <= set(tasks)
    list(graphlib.TopologicalSorter(graph).static_order())
    for text in tekton.texts(list(tasks.values())):
        for name, result in re.findall(r"\$\(tasks\.([\w-]+)\.results\.([\w-]+)", text):
            results = TASKS[tasks[name]["taskRef"]["name"]]["spec"]["results"]
            assert result in {one["name"] for one in results}


@each_analysis
def test_a_notebook_that_fails_stops_nothing_by_itself(pipeline):
    """The runner decides what follows a failure; Tekton only orders."""
    notebooks = [t for t in pipeline["spec"]["tasks"] if t["taskRef"]["name"] == "gpu-notebook-executor-task"]
    assert notebooks
    for task in notebooks:
        assert task["onError"] == "continue"
        assert "retries" not in task
        assert {"name": "run-id", "value": "$(context.pipelineRun.uid)"} in task["params"]
        when = task["when"]
        assert when[0]["input"] == next(p["value"] for p in task["params"] if p["name"] == "notebook-name")
        assert when[0]["values"] == ["$(tasks.validate.results.skipped-notebooks[*])"]
    for name in ("clone", "demo-notebooks", "validate"):
        stage_0 = next((task for task in pipeline["spec"]["tasks"] if task["name"] == name), None)
        assert stage_0 is None or "onError" not in stage_0, "without notebooks or a sound image nothing may go on"


@each_analysis
def test_the_report_depends_on_nothing(pipeline):
    """Tekton skips a finally task that consumes a result which is not there; then nobody would give the verdict."""
    (report,) = pipeline["spec"]["finally"]
    assert report["taskRef"]["name"] == "analysis-report-task"
    tasks = {task["name"] for task in pipeline["spec"]["tasks"]}
    assert tekton.references(report, "tasks") == tasks
    uses = {use for text in tekton.texts(report) for use in tekton.REFERENCE.findall(text) if use.startswith("tasks.")}
    told = {f"tasks.{name}.{what}" for name in tasks for what in ("status", "reason")}
    assert uses == told, "Tekton tells status and reason in any case, but no result"
    assert "when" not in report
    assert "onError" not in report


def test_the_report_gives_the_verdict():
    """The report fails when a notebook did, and waits for those that are still saving."""
    params = {param["name"]: param.get("default") for param in TASKS["analysis-report-task"]["spec"]["params"]}
    assert params["fail-on-failure"] == "true"
    assert seconds(params["wait-for-running"]) > 30, "a cancelled Pod has 30 s to save"


def test_the_complete_workflow_has_the_missions_stages():
    """Stage 1 is 01, 02, 03, 06; stage 2 is 04, 07; stage 3 is 05; strictly one after another."""
    tasks = PIPELINES["complete-scrna-analysis-workflow"]["spec"]["tasks"]
    notebooks = [task for task in tasks if task["name"].startswith("notebook-")]
    order = [(task["displayName"].split(":")[0], task["name"][9:11]) for task in notebooks]
    assert order == [
        *(("Stage 1", number) for number in ("01", "02", "03", "06")),
        *(("Stage 2", number) for number in ("04", "07")),
        ("Stage 3", "05"),
    ]
    for before, after in itertools.pairwise(notebooks):
        assert before["name"] in after["runAfter"]
    assert [task["name"] for task in tasks[:3]] == ["clone", "validate", "data-stage-1"]
    later = next(task for task in tasks if task["name"] == "data-stage-2")
    assert later["runAfter"] == ["data-stage-1"], "it runs beside stage 1"
    assert "data-stage-1" in notebooks[0]["runAfter"]


def test_parallel_notebooks_that_share_files_follow_each_other():
    """01 and 03 filter one file in place, 04, 05 and 07 another; 06 waits for nobody."""
    tasks = {t["name"]: t for t in PIPELINES["parallel-scrna-analysis-workflow"]["spec"]["tasks"]}
    after = {
        name[9:11]: {other[9:11] for other in task["runAfter"] if other.startswith("notebook-")}
        for name, task in tasks.items()
        if name.startswith("notebook-")
    }
    assert after == {
        "01": set(),
        "02": {"01"},
        "03": {"01"},
        "06": set(),
        "04": set(),
        "07": {"04"},
        "05": {"07"},
    }


@each_run
def test_a_run_can_be_created_again_and_again(run):
    """Runs have a generateName; only `kubectl create` can make them."""
    assert "name" not in run["metadata"]
    assert run["metadata"]["generateName"].endswith("-")


@each_run
def test_a_run_fits_what_it_runs(run):
    """Parameters, workspaces and task names of a run exist where it points to."""
    if run["kind"] == "TaskRun":
        target = TASKS[run["spec"]["taskRef"]["name"]]
        steps = {step["name"] for step in target["spec"]["steps"]}
        assert {spec["name"] for spec in run["spec"].get("stepSpecs", [])} <= steps
    else:
        target = PIPELINES[tekton.pipeline_of(run)]
        by_name = {task["name"]: TASKS[task["taskRef"]["name"]] for task in tekton.pipeline_tasks(target)}
        specs = run["spec"]["taskRunSpecs"]
        assert {spec["pipelineTaskName"] for spec in specs} == set(by_name), "each task has its timeout"
        for spec in specs:
            steps = {step["name"] for step in by_name[spec["pipelineTaskName"]]["spec"]["steps"]}
            assert {step["name"] for step in spec.get("stepSpecs", [])} <= steps
            assert "computeResources" not in spec
    known = {param["name"] for param in target["spec"]["params"]}
    given = {param["name"] for param in run["spec"].get("params", [])}
    assert given <= known
    assert {p["name"] for p in target["spec"]["params"] if "default" not in p} <= given
    required = {space["name"] for space in target["spec"]["workspaces"] if not space.get("optional")}
    assert required <= {space["name"] for space in run["spec"]["workspaces"]}
    claims = [s for s in run["spec"]["workspaces"] if {"volumeClaimTemplate", "persistentVolumeClaim"} & set(s)]
    assert len(claims) == 1, "the affinity assistant refuses two volumes"


@each_run
def test_no_parameters_where_tekton_takes_none(run):
    """Resources and timeouts are literals."""
    for spec in [run["spec"], *run["spec"].get("taskRunSpecs", [])]:
        for key in ("stepSpecs", "timeout", "timeouts"):
            assert not any("$(" in text for text in tekton.texts(spec.get(key)))


@each_run
def test_gpu_counts_are_written_even_when_they_are_zero(run):
    """A count that is left out is taken from the Task, which asks for one."""
    for resources in resources_of(run).values():
        assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"]


def test_the_demo_runs_anywhere():
    """Its run asks for no GPU, no account and no label of a node."""
    run = RUNS["demo-pipelinerun.yaml"]
    assert {r["requests"]["nvidia.com/gpu"] for r in resources_of(run).values()} == {"0"}
    assert "serviceAccountName" not in yaml.safe_dump(run)
    assert "affinity" not in yaml.safe_dump(run)
    assert "notebook-" in yaml.safe_dump(run)


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run["kind"] == "PipelineRun"])
def test_our_deadline_comes_before_tektons(name):
    """A TaskRun's timeout leaves room for queue, image pull, gate and the notebook's own deadline; sums hold."""
    from runner.plan.model import load
    from runner.tekton.names import task_names

    plan = load(
        tekton.ROOT
        / ("runner/demo/plan.yaml" if name.startswith("demo") else "tekton/configs/gpu-resource-config.yaml")
    )
    own = task_names("notebook", [notebook.name for notebook in plan.notebooks])
    spec = RUNS[name]["spec"]
    timeouts = {one["pipelineTaskName"]: seconds(one["timeout"]) for one in spec["taskRunSpecs"]}
    gate_wait = 600
    for notebook in plan.notebooks:
        if own[notebook.name] in timeouts:
            least = notebook.timeout + gate_wait + 120
            assert timeouts[own[notebook.name]] >= least + 3600, "half an hour each for queue and image"
    report = timeouts.pop("report")
    limits = {key: seconds(value) for key, value in spec["timeouts"].items()}
    assert limits == {"tasks": sum(timeouts.values()), "finally": report, "pipeline": sum(timeouts.values()) + report}


def test_accounts_may_do_the_least():
    """Notebooks have no token; validation reads nodes; the scheduler handles runs and nothing else."""
    accounts = {doc["metadata"]["name"]: doc for _, doc in tekton.of_kind("ServiceAccount")}
    assert accounts["notebook-runner"]["automountServiceAccountToken"] is False
    rules = {doc["metadata"]["name"]: doc["rules"] for _, doc in tekton.of_kind("Role", "ClusterRole")}
    assert rules["notebook-validator"] == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]},
        {"apiGroups": ["resource.k8s.io"], "resources": ["resourceslices", "deviceclasses"], "verbs": ["get", "list"]},
    ]
    assert rules["notebook-scheduler"] == [
        {"apiGroups": ["tekton.dev"], "resources": ["pipelineruns"], "verbs": ["create", "list", "delete"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch"]},
    ]
    bound = {
        subject["name"] for _, doc in tekton.of_kind("RoleBinding", "ClusterRoleBinding") for subject in doc["subjects"]
    }
    assert bound == {"notebook-validator", "notebook-scheduler"}


def test_cron_jobs_wait_to_be_wanted():
    """Neither GPUs are spent nor results deleted before somebody says so."""
    jobs = [doc for _, doc in tekton.of_kind("CronJob")]
    assert len(jobs) == 2
    for job in jobs:
        assert job["spec"]["suspend"] is True
        assert job["spec"]["concurrencyPolicy"] == "Forbid"


def test_notebooks_reach_only_public_addresses():
    """Egress is denied but for names, and for data on public addresses."""
    policies = {doc["metadata"]["name"]: doc["spec"] for _, doc in tekton.of_kind("NetworkPolicy")}
    deny = policies["notebook-default-deny"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert {port["port"] for rule in deny["egress"] for port in rule["ports"]} == {53}
    blocks = [peer["ipBlock"] for rule in policies["notebook-data-egress"]["egress"] for peer in rule["to"]]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(blocks[0]["except"])


def test_what_needs_the_network_has_it():
    """The label of a Task is its Pods': each Task that reaches out has a policy beside the one that denies all."""
    allowed = set()
    for _, doc in tekton.of_kind("NetworkPolicy"):
        selector = doc["spec"]["podSelector"]
        allowed.add(selector.get("matchLabels", {}).get("tekton.dev/task"))
        allowed.update(name for one in selector.get("matchExpressions", ()) for name in one["values"])
    assert set(tekton.tasks()) - allowed == {"jupyter-nbconvert-complete", "demo-notebooks-task"}


def test_a_build_needs_no_secret():
    """Buildah refuses a secret whose file is missing: without one it is given an empty file that every Pod has."""
    build = tekton.tasks()["image-build-task"]["spec"]
    (secret,) = [one for one in build["steps"][0]["args"] if one.startswith("--secret=")]
    assert secret.endswith("src=$(params.pip-conf)")
    assert {one["name"]: one.get("default") for one in build["params"]}["pip-conf"] == "/dev/null"


def test_the_example_for_pipelines_as_code_is_the_run_of_the_preprocessing():
    """Its sizes and timeouts are the plan's, its repository and commit those of the event."""
    example = tekton.documents("examples")["pipelines-as-code.yaml"]
    run = tekton.documents("pipelineruns")["preprocessing-pipelinerun.yaml"]
    assert tekton.pipeline_of(example) == tekton.pipeline_of(run)
    for key in ("timeouts", "taskRunTemplate", "taskRunSpecs"):
        assert example["spec"][key] == run["spec"][key]
    *volumes, secret = example["spec"]["workspaces"]
    assert volumes == run["spec"]["workspaces"]
    assert secret["secret"] == {"secretName": "{{ git_auth_secret }}"}
    assert {one["name"]: one["value"] for one in example["spec"]["params"]} == {
        "repository-url": "{{ source_url }}", "revision": "{{ revision }}",
    }  # fmt: skip
    annotations = example["metadata"]["annotations"]
    for key in ("on-event", "on-target-branch", "on-path-change"):  # lists, as Pipelines as Code reads them
        assert yaml.safe_load(annotations[f"pipelinesascode.tekton.dev/{key}"])


@pytest.mark.parametrize("kind", ["tasks", "pipelines", "stepactions"])
def test_artifact_hub_finds_every_manifest(kind):
    """In folders named after what they hold; it reads name, description and version, which must be that of the tag."""
    manifests = {path.resolve() for path in (tekton.TEKTON / kind).glob("*.yaml")}
    shown = list((tekton.TEKTON / "catalog" / kind).iterdir())
    assert {(folder / f"{folder.name}.yaml").resolve() for folder in shown} == manifests
    for folder in shown:
        document = yaml.safe_load((folder / f"{folder.name}.yaml").read_text())
        assert document["metadata"]["name"] == folder.name
        assert document["metadata"]["labels"]["app.kubernetes.io/version"] == __version__
        assert document["spec"]["description"]
