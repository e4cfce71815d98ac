# SPDX-License-Identifier: Apache-2.0
"""A plan on one machine: order, needs, stops, and a report in any case."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import cli, notebooks, records

from runner import report
from runner.core.records import Status
from runner.core.stop import Stopper
from runner.outputs.claim import Claim
from runner.plan.job import Options, resolve
from runner.plan.model import load
from runner.report.integrity import verify
from runner.run.lifecycle import run
from runner.workflow.run_all import Choice, dry_run

LEFT_BEHIND = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "print('child', child.pid)"
)


def stamp(name: str) -> str:
    """Return a cell that notes when it ran."""
    return f"open('order.txt', 'a').write('{name}\\n')"


def plan(folder: Path, *entries: dict[str, Any], **cells: tuple[str, ...]) -> Path:
    """Write a plan and its notebooks; each notes its name in order.txt, then runs its own cells."""
    for entry in entries:
        name = entry["name"]
        notebooks.write(folder / f"{name}.ipynb", stamp(name), *cells.get(name, ()))
    document = {"version": 1, "name": "small", "notebooks": [{"path": f"{e['name']}.ipynb", **e} for e in entries]}
    (folder / "plan.yaml").write_text(yaml.safe_dump(document))
    return folder / "plan.yaml"


def run_all(path: Path, *options: object, **env: str) -> cli.Ended:
    return cli.runner("run-all", path, "--output-dir", path.parent / "out", "--no-html", *options, env=env)


def ran(path: Path) -> list[str]:
    """Return the names of the notebooks that ran, in order."""
    order = path.parent / "order.txt"
    return order.read_text().split() if order.exists() else []


def summary(path: Path) -> dict[str, Any]:
    return json.loads((path.parent / "out" / "reports" / "summary.json").read_text())


def told(path: Path) -> dict[str, str]:
    """Return the status of each notebook in the summary."""
    return {notebook["name"]: notebook["status"] for notebook in summary(path)["notebooks"]}


def reason(path: Path, name: str) -> str:
    return cli.metrics(path.parent / "out", name)["reason"]


def page(path: Path) -> str:
    """Return the newest report page."""
    return max((path.parent / "out" / "reports").glob("complete_analysis_report_*.html")).read_text()


def test_the_notebooks_of_a_plan_run_in_its_order_under_one_run_id(tmp_path: Path) -> None:
    """Exit 0, one record each, one run, and a report that lists them."""
    path = plan(tmp_path, {"name": "b"}, {"name": "a", "needs": ["b"]}, {"name": "c"})

    ended = run_all(path, "--run-id", "run-7")

    assert ended.code == 0, ended.err
    assert ran(path) == ["b", "a", "c"]
    assert {cli.metrics(tmp_path / "out", name)["run_id"] for name in "abc"} == {"run-7"}
    assert told(path) == {"b": "succeeded", "a": "succeeded", "c": "succeeded"}
    assert summary(path)["run_id"] == "run-7"
    assert "3 succeeded" in ended.out
    assert all(f">{name}<" in page(path) for name in "abc")


def test_a_failure_skips_what_needs_it_and_nothing_else(tmp_path: Path) -> None:
    """The dependent one names it, its dependent names that; independent ones run; exit 1."""
    entries = [{"name": "a"}, {"name": "b", "needs": ["a"]}, {"name": "c", "needs": ["b"]}, {"name": "d"}]
    path = plan(tmp_path, *entries, a=("raise ValueError('no such gene')",))

    ended = run_all(path)

    assert ended.code == 1, ended.err
    assert ran(path) == ["a", "d"]
    assert told(path) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "succeeded"}
    assert reason(path, "b") == "it needs a, which ended failed"
    assert reason(path, "c") == "it needs b, which ended skipped"
    assert "no such gene" in page(path)


def test_old_metrics_do_not_satisfy_a_need(tmp_path: Path) -> None:
    """A success of an earlier run is no input of this one: its notebook failed this time."""
    path = plan(tmp_path, {"name": "a"}, {"name": "b", "needs": ["a"]})
    assert run_all(path).code == 0
    notebooks.write(tmp_path / "a.ipynb", "raise ValueError")
    (tmp_path / "order.txt").unlink()

    assert run_all(path).code == 1

    assert ran(path) == []
    assert told(path) == {"a": "failed", "b": "skipped"}


@pytest.mark.parametrize("options", [("--only", "b"), ("--from", "b")])
def test_a_part_of_a_plan_takes_results_of_any_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A need succeeded in an earlier run; the report covers this part."""
    path = plan(tmp_path, {"name": "a"}, {"name": "b", "needs": ["a"]})
    assert run_all(path, "--only", "a").code == 0
    first = cli.metrics(tmp_path / "out", "a")["run_id"]

    ended = run_all(path, *options)

    assert ended.code == 0, ended.err
    assert ran(path) == ["a", "b"]
    assert cli.metrics(tmp_path / "out", "b")["run_id"] != first
    assert told(path)["b"] == "succeeded"


def test_a_part_whose_need_never_succeeded_is_skipped(tmp_path: Path) -> None:
    """A skip for a need is no success of the run."""
    path = plan(tmp_path, {"name": "a"}, {"name": "b", "needs": ["a"]})

    assert run_all(path, "--only", "b").code == 1

    assert ran(path) == []
    assert reason(path, "b") == "it needs a, which has no result"


def test_only_and_from_keep_the_plans_order(tmp_path: Path) -> None:
    """However they are given, and together they meet."""
    path = plan(tmp_path, *({"name": name} for name in "abcd"))

    assert run_all(path, "--only", "d", "--only", "b", "--only", "a", "--from", "b").code == 0

    assert ran(path) == ["b", "d"]


def test_a_name_that_is_not_in_the_plan_is_a_usage_error(tmp_path: Path) -> None:
    """Nothing runs, and the nearest name is offered."""
    path = plan(tmp_path, {"name": "01_quality"}, {"name": "02_clusters"})

    for option in ("--only", "--from"):
        ended = run_all(path, option, "02_cluster")
        assert ended.code == 2
        assert "did you mean '02_clusters'" in ended.err
        assert "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


def test_stopping_skips_what_stands_later_and_names_the_reason(tmp_path: Path) -> None:
    """With --no-continue-on-failure independent ones do not run either."""
    path = plan(tmp_path, {"name": "a"}, {"name": "b"}, {"name": "c"}, b=("import os; os._exit(3)",))

    ended = run_all(path, "--no-continue-on-failure")

    assert ended.code == 1, ended.err
    assert ran(path) == ["a", "b"]
    assert told(path) == {"a": "succeeded", "b": "incomplete", "c": "skipped"}
    assert reason(path, "c") == "the run stopped after b ended incomplete"


TOO_MUCH = {"memory_gb": 1e6}


def test_an_optional_notebook_that_is_refused_does_not_spoil_the_run(tmp_path: Path) -> None:
    """It is skipped with the gate's reason, and stopping does not apply."""
    path = plan(tmp_path, {"name": "a", "optional": True, "requires": TOO_MUCH}, {"name": "b"})

    ended = run_all(path, "--no-continue-on-failure")

    assert ended.code == 0, ended.err
    assert ran(path) == ["b"]
    assert told(path) == {"a": "skipped", "b": "succeeded"}
    assert "memory" in reason(path, "a")


@pytest.mark.parametrize("env", [False, True])
def test_optional_notebooks_can_be_demanded(tmp_path: Path, env: bool) -> None:
    """With --no-skip-optional-notebooks a refusal is not a skip; so with the environment variable."""
    path = plan(tmp_path, {"name": "a", "optional": True, "requires": TOO_MUCH})
    options = () if env else ("--no-skip-optional-notebooks",)

    ended = run_all(path, *options, **({"RUNNER_RUN_ALL_SKIP_OPTIONAL_NOTEBOOKS": "false"} if env else {}))

    assert ended.code == 1, ended.err
    assert told(path) == {"a": "refused"}


def test_an_optional_notebook_that_fails_has_failed(tmp_path: Path) -> None:
    """Optional means that it may be left out, not that it may be wrong."""
    path = plan(tmp_path, {"name": "a", "optional": True}, a=("1 / 0",))

    assert run_all(path).code == 1

    assert told(path) == {"a": "failed"}


def test_without_cleanup_a_child_is_listed_and_left_alone(tmp_path: Path) -> None:
    """A server that should live on is in the record and is not ended."""
    path = plan(tmp_path, {"name": "a"}, a=(LEFT_BEHIND,))

    ended = run_all(path, "--no-cleanup-between-notebooks")

    assert ended.code == 0, ended.err
    pid = int(cli.text_of(cli.executed(tmp_path / "out", "a")).split("child ")[1])
    swept = cli.metrics(tmp_path / "out", "a")["release"]["swept"]
    try:
        assert [(process["pid"], process["ended_by"]) for process in swept] == [(pid, "survived")]
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_broken_notebook_and_a_missing_one_stop_nobody(tmp_path: Path) -> None:
    """Each has its record; the rest of the plan runs."""
    path = plan(tmp_path, {"name": "a"}, {"name": "b"}, {"name": "c"})
    (tmp_path / "a.ipynb").write_text("{")
    (tmp_path / "b.ipynb").unlink()

    assert run_all(path).code == 1

    assert told(path) == {"a": "broken-input", "b": "broken-input", "c": "succeeded"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_notebook_and_still_gives_the_report(tmp_path: Path, number: int, code: int) -> None:
    """The running one is saved as terminated, the next ones do not start, and the report shows that."""
    path = plan(tmp_path, *({"name": name} for name in "abc"), b=("print('begun')\nimport time; time.sleep(600)",))
    process = cli.start("run-all", path, "--output-dir", tmp_path / "out", "--no-html")
    log = tmp_path / "out" / "b.log"
    cli.until(lambda: log.exists() and "\nbegun" in log.read_text(), "the second notebook's print")

    process.send_signal(number)
    out, err = process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == code, err
    assert ran(path) == ["a", "b"]
    assert told(path) == {"a": "succeeded", "b": "terminated", "c": "not-run"}
    assert "notebook nb=c" not in err
    assert "begun" in cli.text_of(cli.executed(tmp_path / "out", "b"))
    assert "report: " in out
    assert ">c<" in page(path)


def test_a_notebook_process_that_is_killed_is_lost_and_the_rest_runs(tmp_path: Path) -> None:
    """Its record is missing, so the report uses its claim and samples."""
    kill = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)\nimport time; time.sleep(600)"
    path = plan(tmp_path, {"name": "a"}, {"name": "b", "needs": ["a"]}, {"name": "c"}, a=(kill,))

    ended = run_all(path)

    assert ended.code == 1, ended.err
    assert ran(path) == ["a", "c"]
    assert told(path) == {"a": "lost", "b": "skipped", "c": "succeeded"}
    assert "exit_code=-9" in ended.err


def test_what_starts_the_notebooks_may_be_killed(tmp_path: Path) -> None:
    """Its notebook gets SIGTERM and is waited for, and a new server starts the rest."""
    kill = (
        "import os, pathlib, signal, time\n"
        "stat = pathlib.Path(f'/proc/{os.getppid()}/stat').read_text()\n"
        "os.kill(int(stat.rpartition(')')[2].split()[1]), signal.SIGKILL)\ntime.sleep(600)"
    )
    path = plan(tmp_path, {"name": "a"}, {"name": "b"}, a=(kill,))

    ended = run_all(path)

    assert ended.code == 1, ended.err
    assert told(path) == {"a": "terminated", "b": "succeeded"}


def test_notebooks_have_a_name_and_a_group_of_their_own(tmp_path: Path) -> None:
    """As if each had been started alone: a terminal signal reaches it once, and `ps -e` shows its name."""
    shows = "import os\nrun = os.getppid()\nprint(open(f'/proc/{run}/comm').read().strip(), os.getpgid(run) == run)"
    path = plan(tmp_path, {"name": "a"}, a=(shows,))

    assert run_all(path).code == 0
    assert "runner run True" in cli.text_of(cli.executed(path.parent / "out", "a"))


def test_stopping_counts_a_notebook_that_was_lost(tmp_path: Path) -> None:
    """It left no record, and a run that is to stop after a failure does not go on over it."""
    kill = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)\nimport time; time.sleep(600)"
    path = plan(tmp_path, {"name": "a"}, {"name": "b"}, a=(kill,))

    ended = run_all(path, "--no-continue-on-failure")

    assert ended.code == 1, ended.err
    assert ran(path) == ["a"]
    assert told(path) == {"a": "lost", "b": "skipped"}
    assert reason(path, "b") == "the run stopped after a ended lost"


def test_a_part_that_has_no_notebook_is_a_usage_error(tmp_path: Path) -> None:
    """--only is before --from: the error names both, and nothing runs."""
    path = plan(tmp_path, *({"name": name} for name in "abc"))

    ended = run_all(path, "--from", "c", "--only", "a")

    assert ended.code == 2
    assert "--from c" in ended.err
    assert "--only a" in ended.err
    assert not (tmp_path / "out").exists()


def test_modules_in_the_current_folder_are_not_taken_for_ours(tmp_path: Path) -> None:
    """A user's runner.py or click.py is in the current folder."""
    path = plan(tmp_path, {"name": "a"})
    for name in ("runner", "click", "yaml"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is somebody else')")
    command = [str(Path(sys.executable).with_name("runner")), "run-all", str(path), "--no-html"]

    ended = subprocess.run(
        [*command, "--output-dir", str(tmp_path / "out")],
        cwd=tmp_path,
        env=cli.environment(),
        capture_output=True,
        text=True,
        timeout=cli.PATIENCE,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert told(path) == {"a": "succeeded"}


def test_options_of_one_run_in_the_environment_are_not_those_of_each_notebook(tmp_path: Path) -> None:
    """RUNNER_RUN_NAME would give all notebooks the same name; ignored variables are logged."""
    path = plan(tmp_path, {"name": "a"}, {"name": "b"})

    ended = run_all(path, RUNNER_RUN_NAME="x", RUNNER_RUN_PREPARE_ONLY="1", RUNNER_RUN_ALL_TIMEOUT="5m")

    assert ended.code == 0, ended.err
    assert told(path) == {"a": "succeeded", "b": "succeeded"}
    assert "ignored=RUNNER_RUN_NAME,RUNNER_RUN_PREPARE_ONLY" in ended.err


def test_a_process_that_left_no_record_is_said_whatever_its_exit_code(tmp_path: Path) -> None:
    """An exit code from 0 to 9 alone does not prove that there is a record."""
    path = plan(tmp_path, {"name": "a"})
    (tmp_path / "out").mkdir()
    with Claim.of(tmp_path / "out", "a", "somebody else"):
        ended = run_all(path)

    assert ended.code == 1
    assert "notebook-process level=error nb=a exit_code=2" in ended.err
    assert told(path) == {"a": "not-run"}


def test_a_notebook_ends_with_the_run_that_is_killed(tmp_path: Path) -> None:
    """Nothing waits for it: it gets SIGTERM and saves its state."""
    path = plan(tmp_path, {"name": "a"}, a=("print('begun')\nimport time; time.sleep(600)",))
    process = cli.start("run-all", path, "--output-dir", tmp_path / "out", "--no-html")
    log = tmp_path / "out" / "a.log"
    cli.until(lambda: log.exists() and "\nbegun" in log.read_text(), "the notebook's print")

    process.kill()
    process.communicate(timeout=cli.PATIENCE)

    cli.until(lambda: not (tmp_path / "out" / "a.running").exists(), "the notebook's end")
    assert cli.metrics(tmp_path / "out", "a")["status"] == "terminated"
    assert "begun" in cli.text_of(cli.executed(tmp_path / "out", "a"))


def test_options_reach_each_notebook(tmp_path: Path) -> None:
    """What is given to the whole run counts for each of its notebooks, blanks and repeats included."""
    show = "import os; print(os.environ['X'], os.environ['Y'])"
    path = plan(
        tmp_path,
        {"name": "a"},
        {"name": "b"},
        **dict.fromkeys("ab", (show,)),
    )

    ended = run_all(path, "--env", "X=one two", "--env", "Y=3", "--timeout", "5m", "--cell-timeout", "90s")

    assert ended.code == 0, ended.err
    for name in "ab":
        assert "one two 3" in cli.text_of(cli.executed(tmp_path / "out", name))


def test_the_answer_of_the_run_is_on_stdout_and_what_notebooks_say_is_not(tmp_path: Path) -> None:
    """With --json stdout is the summary, and nothing else; without, one notebook is no plural."""
    path = plan(tmp_path, {"name": "a"}, a=("print('noise')",))

    assert "1 notebook, 1 ok, 1 succeeded" in run_all(path).out.splitlines()

    ended = run_all(path, "--json")

    assert json.loads(ended.out) == summary(path)
    assert "noise" not in ended.out


def test_samples_are_taken_without_a_gpu(tmp_path: Path) -> None:
    """One row a tick with the host's figures, GPU fields empty."""
    path = plan(tmp_path, {"name": "a"}, a=("x = bytearray(50_000_000)\nimport time; time.sleep(1.2)",))

    assert run_all(path).code == 0

    rows = list(csv.DictReader((tmp_path / "out" / "a.samples.csv").open()))
    assert len(rows) >= 2
    assert {row["gpu_uuid"] for row in rows} == {""}
    assert max(int(row["host_memory_bytes"] or 0) for row in rows) > 50_000_000


def test_a_plan_in_a_config_map_starts_at_the_checkout(tmp_path: Path) -> None:
    """The plan may be anywhere; --checkout is the folder of the notebooks."""
    path = plan(tmp_path / "checkout", {"name": "a"})
    wrapped = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"plan.yaml": path.read_text()}}
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(wrapped))

    ended = cli.runner(
        "run-all",
        tmp_path / "map.yaml",
        "--checkout",
        tmp_path / "checkout",
        "--output-dir",
        tmp_path / "out",
        "--no-html",
    )

    assert ended.code == 0, ended.err
    assert ran(path) == ["a"]


def test_an_output_folder_that_cannot_be_written_is_said_once_at_the_end(tmp_path: Path) -> None:
    """No report can be left there: a message and a code, no traceback."""
    path = plan(tmp_path, {"name": "a"})
    (tmp_path / "file").write_text("in the way")

    ended = cli.runner("run-all", path, "--output-dir", tmp_path / "file" / "out", "--no-html")

    assert ended.code == 74, ended.err
    assert "Traceback" not in ended.err
    assert ran(path) == []


def test_status_and_index_follow_a_run_from_its_start_to_its_report(tmp_path: Path) -> None:
    """Each notebook is queued, running in a cell, then done; the page reloads itself until the report takes its place."""
    wait = "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.05)"
    path = plan(tmp_path, {"name": "a"}, {"name": "b", "needs": ["a"]}, a=(wait,))
    out = tmp_path / "out"

    def states() -> dict[str, Any]:
        return {row["name"]: row for row in json.loads(cli.runner("status", out, "--json").out)["rows"]}

    with cli.start("run-all", path, "--output-dir", out, "--no-html") as process:
        page = cli.until(lambda: (out / "index.html").exists() and (out / "index.html").read_text(), "the page")
        assert 'http-equiv="refresh" content="5"' in page
        assert "<script" not in page
        cli.until(lambda: "in cell 2 of 2" in (out / "index.html").read_text(), "the second cell on the page")
        found = states()
        assert (found["a"]["state"], found["a"]["cell"], found["b"]["state"]) == ("running", 2, "queued")
        assert "cell-start" in found["a"]["log_line"]
        with cli.start("status", out, "--watch") as watching:
            (tmp_path / "go").touch()
            told, _ = watching.communicate(timeout=cli.PATIENCE)
        _, err = process.communicate(timeout=cli.PATIENCE)
    assert process.returncode == 0, err
    assert [line.split()[:2] for line in told.splitlines() if "succeeded" in line] == [
        ["a", "succeeded"],
        ["b", "succeeded"],
    ]
    assert {name: row["state"] for name, row in states().items()} == {"a": "succeeded", "b": "succeeded"}
    newest = max((out / "reports").glob("complete_analysis_report_*.html"))
    assert f"url=reports/{newest.name}" in (out / "index.html").read_text()
    assert cli.runner("verify", out).code == 0


AT_ONCE = "import os, time\nopen('{0}.up', 'w').close()\nwhile not os.path.exists('{1}'):\n    time.sleep(0.05)"
"""A cell that signals its start, then waits for a file."""


def test_a_signal_ends_all_notebooks_that_run_at_once(tmp_path: Path) -> None:
    """Each is saved as terminated, dependent ones do not start, and the report shows that."""
    cells = {name: (AT_ONCE.format(name, "never"),) for name in "ab"}
    path = plan(tmp_path, {"name": "a"}, {"name": "b"}, {"name": "c", "needs": ["a"]}, {"name": "d"}, **cells)
    with cli.start("run-all", path, "--output-dir", tmp_path / "out", "--no-html", "--jobs", "2") as process:
        cli.until(lambda: (tmp_path / "a.up").exists() and (tmp_path / "b.up").exists(), "two at once")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=cli.PATIENCE)

    assert process.returncode == 143, err
    assert told(path) == {"a": "terminated", "b": "terminated", "c": "not-run", "d": "not-run"}
    assert sorted(ran(path)) == ["a", "b"]
    assert not list((tmp_path / "out").glob("*.running"))
    assert "report: " in out
    assert cli.runner("verify", tmp_path / "out").code == 0


def test_stopping_after_a_failure_lets_what_runs_beside_it_end(tmp_path: Path) -> None:
    """Started notebooks are not interrupted; later ones are skipped, with the failure as reason."""
    failing = f"{AT_ONCE.format('a', 'b.up')}\nraise ValueError"
    waiting = AT_ONCE.format("b", "out/a.metrics.json")
    path = plan(tmp_path, *({"name": name} for name in "abcd"), a=(failing,), b=(waiting,))

    ended = run_all(path, "--jobs", "2", "--no-continue-on-failure")

    assert ended.code == 1, ended.err
    assert told(path) == {"a": "failed", "b": "succeeded", "c": "skipped", "d": "skipped"}
    assert sorted(ran(path)) == ["a", "b"]
    assert reason(path, "c") == "the run stopped after a ended failed"
    assert reason(path, "d") == "the run stopped after a ended failed"


def test_a_chain_of_100_is_planned_skipped_and_reported(tmp_path: Path) -> None:
    """The first notebook failed: each of the others is skipped because of its predecessor, and all are reported."""
    names = [f"n{number:02}" for number in range(100)]
    needs = [{"needs": [before]} for before in names[:-1]]
    path = plan(tmp_path, *({"name": name, **need} for name, need in zip(names, [{}, *needs], strict=True)))
    chosen = Options(notebook="", plan=path, output_dir=tmp_path / "out", run_id="chain")
    records.leave(tmp_path / "out", records.metrics("n00", status=Status.FAILED, run_id="chain"), with_samples=False)

    jobs = [resolve(dataclasses.replace(chosen, notebook=name)) for name in names]
    ended = [run(job, Stopper()) for job in jobs[1:]]

    assert {metrics.status for metrics in ended} == {Status.SKIPPED}
    assert [metrics.reason.split()[2] for metrics in ended] == [f"{name}," for name in names[:-1]]
    report.build(tmp_path / "out", plan=load(path), run_id="chain")
    assert list(told(path)) == names
    assert summary(path)["counts"] == {"notebooks": 100, "ok": 0, "failed": 1, "skipped": 99}
    assert verify(tmp_path / "out").notebooks == 100

    text = dry_run(dataclasses.replace(chosen, resume=True), Choice(failed=True, jobs="auto"), as_json=False)
    assert [line.split()[0] for line in text.splitlines()[:-1]] == names, "all that need it run again, in their order"
