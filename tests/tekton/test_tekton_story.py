# SPDX-License-Identifier: Apache-2.0
"""A pipeline of ours from clone to report, run step by step as the manifests say, with real notebooks."""

from __future__ import annotations

import subprocess

import pytest
from support import notebooks
from support.local_tekton import LocalTekton

from runner.plan.model import parse
from runner.tekton import pipeline as render
from runner.tekton.pipeline import Shape

pytestmark = pytest.mark.slow

PLAN = """
version: 1
name: story
defaults: {{timeout: 2m, cwd: notebooks, requires: {{gpus: 0}}}}
notebooks:
- {{name: first, path: notebooks/{first}.ipynb, stage: one, datasets: [numbers]}}
- {{name: second, path: notebooks/good.ipynb, stage: one, needs: [first]}}
- {{name: third, path: notebooks/good.ipynb, stage: two}}
- {{name: giant, path: notebooks/good.ipynb, stage: two, optional: true, requires: {{gpus: 64, gpu_memory_gb: 80}}}}
datasets:
  numbers: {{url: "{data}", path: numbers.txt}}
"""


@pytest.fixture
def repository(tmp_path):
    """Give a git repository with notebooks, and a file of data beside it."""
    folder = tmp_path / "repository"
    data = tmp_path / "numbers.txt"
    data.write_text("1 2 3\n")
    read = f"import urllib.request\nprint(urllib.request.urlopen('file://{data}').read())"
    notebooks.write(folder / "notebooks" / "good.ipynb", "print(1)", read)
    notebooks.write(folder / "notebooks" / "bad.ipynb", read, "raise ValueError('planted')")
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example"]
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "notebooks"], check=True)
    return folder, data


def story(repository, tmp_path, first, **params):
    folder, data = repository
    text = PLAN.format(first=first, data=f"file://{data}")
    pipeline = render.pipeline(parse(text, "test"), Shape(name="story"))
    given = {"repository-url": f"file://{folder}", **params}
    return LocalTekton(tmp_path / "cluster", pipeline, text, **given)


def statuses(run):
    return {name: one["status"] for name, one in run.summary().items()}


def test_a_green_run(repository, tmp_path):
    """Clone, validation, data, three notebooks and the report; the optional one without GPUs is skipped."""
    run = story(repository, tmp_path, "good")
    assert run.run(), run.ended
    assert statuses(run) == {"first": "succeeded", "second": "succeeded", "third": "succeeded", "giant": "skipped"}
    assert (run.volume / "source" / ".git").is_dir()
    assert (run.volume / "data" / "numbers.txt").read_text() == "1 2 3\n"
    notebook = next(ended for name, ended in run.ended.items() if name == "notebook-first")
    assert notebook.results["status"] == "succeeded"
    assert notebook.results["metrics-path"].endswith("outputs/first.metrics.json")
    assert run.ended["report"].results["verdict"] == "succeeded"
    commit = subprocess.run(
        ["git", "-C", str(repository[0]), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    for task, signed in (("notebook-first", {"record", "notebook"}), ("report", {"summary", "sums"})):
        results = run.ended[task].results
        assert {name for name in results if "ARTIFACT" in name} == {f"{name}_ARTIFACT_OUTPUTS" for name in signed}
        assert results["CHAINS-GIT_COMMIT"] == commit
        assert results["CHAINS-GIT_URL"] == f"file://{repository[0]}"
    for ended in run.ended.values():
        assert sum(len(str(value).encode()) for value in ended.results.values()) < 1024
    # A run that is repeated on the same volume keeps what the earlier one left.
    again = story(repository, tmp_path, "good")
    again.values["context.pipelineRun.uid"] = "run-2"
    assert again.run()
    assert (run.volume / "outputs" / "attempts" / "first" / "1" / "first.metrics.json").exists()


def test_stop_after_the_first_failure(repository, tmp_path):
    """continue-on-failure=false: the rest is skipped and names the failure; the report is whole, the run red."""
    run = story(repository, tmp_path, "bad", **{"continue-on-failure": "false"})
    assert not run.run()
    assert statuses(run) == {"first": "failed", "second": "skipped", "third": "skipped", "giant": "skipped"}
    assert "first" in run.summary()["third"]["reason"]
    assert run.ended["notebook-first"].code == 1
    assert run.ended["notebook-first"].results["failed-cell"] == "2"
    assert run.ended["report"].code == 1


def test_go_on_after_a_failure(repository, tmp_path):
    """continue-on-failure=true: only what needs the failed notebook is skipped; the run is still red."""
    run = story(repository, tmp_path, "bad")
    assert not run.run()
    assert statuses(run) == {"first": "failed", "second": "skipped", "third": "succeeded", "giant": "skipped"}


def test_an_optional_notebook_may_be_required(repository, tmp_path):
    """skip-optional-notebooks=false: what the gate refuses is refused, and the run is red."""
    run = story(repository, tmp_path, "good", **{"skip-optional-notebooks": "false"})
    assert not run.run()
    assert statuses(run)["giant"] == "refused"
    assert run.ended["notebook-giant"].code == 3


def test_a_clone_that_fails_ends_in_a_report_too(repository, tmp_path):
    """Without notebooks nothing runs, and the report lists all of them."""
    run = story(repository, tmp_path, "good", **{"repository-url": f"file://{tmp_path}/nowhere"})
    assert not run.run()
    assert set(run.ended) == {"clone", "report"}
    assert run.ended["clone"].code == 9
    assert set(statuses(run).values()) == {"not-run"}
    assert all("before it, the task clone failed" in one["reason"] for one in run.summary().values())


def test_a_plan_that_was_to_come_with_the_clone_ends_in_a_report_too(repository, tmp_path):
    """Without the plan nobody knows the notebooks; the report says what is missing and is red."""
    wrong = {"repository-url": f"file://{tmp_path}/nowhere", "plan": "source/plan.yaml"}
    run = story(repository, tmp_path, "good", **wrong)
    assert not run.run()
    assert run.ended["report"].code == 1, run.ended["report"].output
    assert run.ended["report"].results["verdict"] == "failed"
    (page,) = (run.volume / "outputs" / "reports").glob("*.html")
    assert "Nothing has run: the task clone failed" in page.read_text()
    assert "cannot read the plan source/plan.yaml" in page.read_text()


def test_data_that_cannot_be_had_stops_only_who_needs_it(repository, tmp_path):
    """A failed download lets the notebooks go on; the one that reads the file says that it is missing."""
    folder, data = repository
    data.unlink()
    run = story((folder, data), tmp_path, "good")
    assert not run.run()
    assert run.ended["data-stage-1"].code == 9
    assert statuses(run) == {"first": "broken-input", "second": "skipped", "third": "failed", "giant": "skipped"}


def test_what_no_node_can_host_gets_no_task(repository, tmp_path, monkeypatch):
    """A name among the skipped ones keeps its task from starting."""
    run = story(repository, tmp_path, "good")
    task = run._task

    def judged(pipeline_task):
        ended = task(pipeline_task)
        if pipeline_task["name"] == "validate":
            ended.results["skipped-notebooks"] = ["giant"]
        return ended

    monkeypatch.setattr(run, "_task", judged)
    run.run()
    assert run.ended["notebook-giant"].code is None
    assert statuses(run)["giant"] == "not-run"


def test_a_parameter_that_cannot_work_is_told_by_results_and_report(repository, tmp_path):
    """Nobody opens the log of a task that ended before it began: results and report say what is wrong."""
    run = story(repository, tmp_path, "good", **{"gate-wait": "soon"})
    assert not run.run()
    ended = run.ended["notebook-first"]
    assert ended.code == 2
    assert ended.results["status"] == "error"
    assert "soon" in ended.results["reason"]
    entry = run.summary()["first"]
    assert entry["status"] == "not-run"
    assert "its task failed" in entry["reason"]
