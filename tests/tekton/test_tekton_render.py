# SPDX-License-Identifier: Apache-2.0
"""One source of truth: what is checked in is what the plan renders, and any plan renders to sound YAML."""

from __future__ import annotations

import pytest
import yaml
from click.testing import CliRunner
from support import tekton

from runner.cli import cli
from runner.core.errors import PlanError
from runner.core.units import duration_seconds
from runner.plan.model import parse
from runner.tekton import names, pipelinerun
from runner.tekton import pipeline as render
from runner.tekton.pipeline import Shape
from runner.tekton.sizes import go_duration, needs

RENDERED = sorted(
    path for folder in ("pipelines", "pipelineruns") for path in (tekton.TEKTON / folder).glob("*.yaml")
    if "runner plan render" in path.read_text()
)  # fmt: skip


def rendered(*arguments):
    done = CliRunner().invoke(cli, ["plan", "render", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("path", RENDERED, ids=[path.name for path in RENDERED])
def test_the_checked_in_file_is_what_the_plan_renders(path, monkeypatch):
    """Each file names the command that made it; run again, it gives the same objects."""
    monkeypatch.chdir(tekton.ROOT)
    _, _, *arguments = tekton.rendering(path)
    assert rendered(*arguments) == list(yaml.safe_load_all(path.read_text()))


def test_every_pipeline_and_pipeline_run_is_rendered():
    """Nobody edits numbers by hand that the plan decides."""
    files = {*(tekton.TEKTON / "pipelines").glob("*.yaml"), *(tekton.TEKTON / "pipelineruns").glob("*pipelinerun.yaml")}
    assert {path for path in files if "image-build" not in path.name} == set(RENDERED)


PLAN = """
version: 1
name: Größe 1.3
notebooks:
- {name: A_b, path: a.ipynb, datasets: [d1], requires: {gpu_memory_gb: 24}}
- {name: a-b, path: b.ipynb, needs: [A_b], requires: {gpus: 0, cpus: 0.5, memory_gb: 1.5}}
- {name: "on", path: c.ipynb, stage: second, datasets: [d1, d2], timeout: 30m}
datasets:
  d1: {url: "https://x.example/1", path: one}
  d2: {url: "https://x.example/2", path: two}
"""


@pytest.fixture
def plan():
    return parse(PLAN, "test")


def test_names_that_meet_are_told_apart(plan):
    """Two notebooks whose names differ only in what a label cannot hold get different tasks."""
    tasks = render.pipeline(plan, Shape(name="x"))["spec"]["tasks"]
    found = [task["name"] for task in tasks]
    assert len(found) == len(set(found))
    assert all(len(name) <= 50 and name == name.lower() for name in found)


def test_names_survive_yaml(tmp_path):
    """A notebook called `on` stays a text and does not become a boolean."""
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    pipeline, _, _ = rendered(str(path))
    values = [p["value"] for task in pipeline["spec"]["tasks"] for p in task["params"] if p["name"] == "notebook-name"]
    assert values == ["A_b", "a-b", "on"]


def test_a_dataset_is_fetched_once_by_the_first_stage_that_reads_it(plan):
    """d1 belongs to stage 1, d2 to stage 2; the second download runs beside the first stage."""
    tasks = {task["name"]: task for task in render.pipeline(plan, Shape(name="x"))["spec"]["tasks"]}
    datasets = {
        name: next(p["value"] for p in task["params"] if p["name"] == "datasets")
        for name, task in tasks.items()
        if name.startswith("data-")
    }
    assert datasets == {"data-stage-1": ["--dataset=d1"], "data-stage-2": ["--dataset=d2"]}
    assert tasks["data-stage-2"]["runAfter"] == ["data-stage-1"]
    last = next(task for task in tasks.values() if task["displayName"] == "Stage 2: on")
    assert {"data-stage-1", "data-stage-2"} <= set(last["runAfter"])


def test_a_part_of_a_plan_takes_needs_from_any_run(plan):
    """With --only a need that is left out may be met by an earlier run, and the report speaks of that part only."""
    pipeline = render.pipeline(plan, Shape(name="x", only=("a-b",)))
    notebook = next(t for t in pipeline["spec"]["tasks"] if t["taskRef"]["name"] == names.EXECUTOR_TASK)
    assert {"name": "needs-of-any-run", "value": "true"} in notebook["params"]
    report = pipeline["spec"]["finally"][0]
    assert {"name": "only", "value": ["--only=a-b"]} in report["params"]


def test_a_notebook_without_a_deadline_gets_one(plan):
    """Tekton's timeout can only be longer than ours if there is one."""
    pipeline = render.pipeline(plan, Shape(name="x"))
    timeouts = {
        next(p["value"] for p in task["params"] if p["name"] == "notebook-name"): {
            p["name"]: p["value"] for p in task["params"]
        }.get("timeout")
        for task in pipeline["spec"]["tasks"]
        if task["taskRef"]["name"] == names.EXECUTOR_TASK
    }
    assert timeouts == {"A_b": "2h", "a-b": "2h", "on": None}


@pytest.mark.parametrize("order", ["serial", "parallel"])
def test_timeouts_leave_the_time_that_a_failure_is_held(plan, order):
    """By the plan or by the run's parameter, which beats it; in the parallel order others wait for a GPU that is held."""
    held = parse(PLAN.replace("timeout: 30m}", "timeout: 30m, on_failure: hold=3h}"), "test")

    def timeouts(of, *params):
        run = pipelinerun.pipeline_run(
            of, Shape(name="x", order=order), pipelinerun.RunShape(generate_name="x-", params=params)
        )
        specs = {one["pipelineTaskName"]: duration_seconds(one["timeout"]) for one in run["spec"]["taskRunSpecs"]}
        own = [seconds for name, seconds in specs.items() if name.startswith("notebook-")]
        return own, duration_seconds(run["spec"]["timeouts"]["pipeline"])

    before, all_before = timeouts(plan)
    after, all_after = timeouts(held)
    waits = [0.0, 0.0, 3 * 3600] if order == "serial" else [3 * 3600] * 3
    assert [b - a for a, b in zip(before, after, strict=True)] == waits
    assert all_after - all_before == sum(waits)
    chosen, _ = timeouts(held, ("on-failure", "hold=1h"))
    assert [b - a for a, b in zip(before, chosen, strict=True)] == [3600 if order == "serial" else 3 * 3600] * 3
    assert timeouts(held, ("on-failure", "end")) == (before, all_before)


def test_a_run_that_is_written_already_gets_longer_timeouts(plan):
    """The parameter of `cluster run` reaches a file whose numbers knew nothing of it."""
    run = pipelinerun.pipeline_run(plan, Shape(name="x"), pipelinerun.RunShape(generate_name="x-"))
    notebooks = [one["pipelineTaskName"] for one in run["spec"]["taskRunSpecs"] if "stepSpecs" in one]
    longer = pipelinerun.held_longer(run, "hold=1h", notebooks)
    for before, after in zip(run["spec"]["taskRunSpecs"], longer["spec"]["taskRunSpecs"], strict=True):
        more = 3 * 3600 if before["pipelineTaskName"] in notebooks else 0
        assert duration_seconds(after["timeout"]) == duration_seconds(before["timeout"]) + more
    assert duration_seconds(longer["spec"]["timeouts"]["tasks"]) >= max(
        duration_seconds(one["timeout"]) for one in longer["spec"]["taskRunSpecs"]
    )
    assert longer["spec"]["timeouts"]["finally"] == run["spec"]["timeouts"]["finally"]


def test_retries_are_literals_without_on_error(plan):
    """Tekton refuses both together; the time of the whole run is that of all tries."""
    once = pipelinerun.pipeline_run(plan, Shape(name="x"), pipelinerun.RunShape(generate_name="x-"))
    shape = Shape(name="x", retries=2)
    tasks = [one for one in render.pipeline(plan, shape)["spec"]["tasks"] if one["name"].startswith("notebook-")]
    assert all(one["retries"] == 2 and "onError" not in one for one in tasks)
    thrice = pipelinerun.pipeline_run(plan, shape, pipelinerun.RunShape(generate_name="x-"))
    extra = sum(
        duration_seconds(one["timeout"])
        for one in once["spec"]["taskRunSpecs"]
        if one["pipelineTaskName"].startswith("notebook-")
    )
    longer = duration_seconds(thrice["spec"]["timeouts"]["tasks"]) - duration_seconds(once["spec"]["timeouts"]["tasks"])
    assert longer == 2 * extra


def larger(order="serial", **more):
    """Render a plan whose first notebook may be tried again on a larger card."""
    plan = parse(PLAN.replace("datasets: [d1], requires", "datasets: [d1], retry_larger: true, requires", 1), "test")
    shape = Shape(name="x", order=order, **more)
    run_shape = pipelinerun.RunShape(generate_name="x-", access_mode="ReadWriteMany")
    tasks = {one["name"]: one for one in render.pipeline(plan, shape)["spec"]["tasks"]}
    specs = {
        one["pipelineTaskName"]: one for one in pipelinerun.pipeline_run(plan, shape, run_shape)["spec"]["taskRunSpecs"]
    }
    return plan, tasks, specs


@pytest.mark.parametrize("order", ["serial", "parallel"])
def test_a_second_try_on_a_larger_card_is_a_task_of_its_own(order):
    """It asks for the next card, only if a task says that it is worth it, and what needs the notebook waits for it."""
    _, tasks, specs = larger(order)
    first = next(name for name in tasks if name.startswith("notebook-a-b"))
    ask, again = names.larger_tasks(first)
    assert tasks[ask]["runAfter"] == [first]
    assert tasks[again]["runAfter"] == [ask]
    assert tasks[again]["when"] == [
        {"input": "A_b", "operator": "notin", "values": [f"$(tasks.{ask}.results.skipped-notebooks[*])"]}
    ]
    assert {"name": "min-gpu-memory-gb", "value": "32"} in tasks[again]["params"]
    second = next(name for name in tasks if name.startswith("notebook-a-b") and name != first)
    assert again in tasks[second]["runAfter"]
    assert first not in tasks[second]["runAfter"]
    terms = specs[again]["podTemplate"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] == [str(int(32e9 * 0.95 / 2**20))]
    assert specs[again]["stepSpecs"] == specs[first]["stepSpecs"]
    assert specs[ask]["serviceAccountName"] == names.VALIDATION_ACCOUNT
    assert set(specs) <= {*tasks, "report"}


def test_a_first_try_never_ends_the_run_before_its_second():
    """Tekton's retries and `onError: continue` exclude each other: a larger card takes the place of retries."""
    _, tasks, _ = larger(retries=2)
    ended = {name: ("retries" in one, one.get("onError")) for name, one in tasks.items() if "a-b" in name}
    first = next(name for name in ended if names.larger_tasks(name)[0] in tasks)
    assert ended[first] == (False, "continue")
    assert ended[names.larger_tasks(first)[1]] == (True, None)


def test_a_second_try_needs_a_volume_of_many_nodes_and_a_larger_card():
    """A ReadWriteOnce volume ties all Pods to one node; nothing is larger than the largest card."""
    plan, *_ = larger()
    with pytest.raises(PlanError, match="A_b: retry_larger needs a volume of access mode ReadWriteMany"):
        pipelinerun.pipeline_run(plan, Shape(name="x"), pipelinerun.RunShape(generate_name="x-"))
    text = "version: 1\nname: x\nnotebooks: [{name: a, path: a.ipynb, retry_larger: true%s}]"
    largest = parse(text % ", requires: {gpu_memory_gb: 288}", "test")
    with pytest.raises(PlanError, match="no common card has more than 288 GB"):
        render.pipeline(largest, Shape(name="x"))
    with pytest.raises(PlanError, match=r"needs requires\.gpu_memory_gb"):
        parse(text % "", "test")
    with pytest.raises(PlanError, match="no cpu_fallback"):  # its Pod asks for no GPU at all
        parse(text % ", requires: {gpu_memory_gb: 24, cpu_fallback: true}", "test")


def test_sizes_are_the_plans(plan):
    """GPU memory alone means one GPU; 24 GB accept a card that reports 21744 MiB; 0 GPUs are written out."""
    first, second, _ = plan.notebooks
    assert needs(first).resources() == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert needs(first).min_gpu_memory_mib == 21744
    assert needs(second).resources() == {"cpu": "0.5", "memory": "2Gi", "nvidia.com/gpu": "0"}
    assert needs(first).resources("nvidia.com/mig-1g.10gb")["nvidia.com/gpu"] == "0"
    run = pipelinerun.pipeline_run(plan, Shape(name="x"), pipelinerun.RunShape(generate_name="x-"))
    assert run["metadata"]["labels"]["rapids-notebook-runner/plan"].isascii()


@pytest.mark.parametrize(("seconds", "text"), [(59, "59s"), (60, "1m0s"), (11520, "3h12m0s"), (90000.2, "25h0m1s")])
def test_durations_are_gos(seconds, text):
    """Kubernetes reads no days and no fractions here."""
    assert go_duration(seconds) == text


def test_an_unknown_notebook_is_a_usage_error(tmp_path):
    """--only names what exists; the message lists it."""
    from runner.core.errors import PlanError

    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    with pytest.raises(PlanError, match="no notebook 'zz'"):
        CliRunner().invoke(cli, ["plan", "render", str(path), "--only", "zz"], catch_exceptions=False)
