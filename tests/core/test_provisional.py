# SPDX-License-Identifier: Apache-2.0
"""A record is provisional until everything in it was judged: killed at any stage, no run looks like a success.

Also what a run says whose files cannot be written: exit code, record, Tekton's results, `run-all` and the
report agree.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import cli, notebooks
from support import records as made

from runner.core.endings import settled
from runner.core.records import EXIT_CODES, Status, read_metrics
from runner.report.assemble import assemble
from runner.report.folder import read_folder
from runner.run import needs

PLAN = """
version: 1
name: p
notebooks:
  - {name: a, path: a.ipynb, expect: {min_figures: 3}}
  - {name: b, path: b.ipynb, needs: [a]}
"""
AT_STAGE = """
import os, shutil, signal, sys
if {"run", "runner.fork_server"} & set(sys.orig_argv) and os.environ.get("AT"):
    from runner.run import recorder, verification
    at, what = os.environ["AT"], os.environ["DO"]
    owner = recorder if at == "convert" else verification
    real = getattr(owner, at)
    def stand_in(run, *args, **options):
        if run.job.name == "a":
            exec(what)
        return real(run, *args, **options)
    setattr(owner, at, stand_in)
"""
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def at_stage(tmp_path: Path):
    """Give the environment that has a process of `runner run` do something when a stage begins."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(AT_STAGE)
    return lambda stage, do: {"PYTHONPATH": str(folder), "AT": stage, "DO": do}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Write a plan whose first notebook ends `unexpected-results` when it is left alone."""
    for name in ("a", "b"):
        notebooks.write(tmp_path / f"{name}.ipynb", "print(1)")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


def summary(out: Path) -> dict[str, dict]:
    found = json.loads((out / "reports" / "summary.json").read_text())["notebooks"]
    return {notebook["name"]: notebook for notebook in found}


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("release", "cells ran, expectations and release were not judged"),
        ("expect", "cells ran, expectations and release were not judged"),
    ],
)
def test_a_run_that_is_killed_before_it_is_judged_is_lost_everywhere(tmp_path: Path, plan, at_stage, stage, said):
    """`run-all` exits with 1, dependent notebooks are skipped, and report, results and a later run agree."""
    out = tmp_path / "out"
    ended = cli.runner("run-all", plan, "--output-dir", out, "--no-html", env=at_stage(stage, KILL))

    assert ended.code == 1, ended.err
    record = cli.metrics(out, "a")
    ended_as = (record["status"], record["provisional"], record["stage"], record["reason"])
    assert ended_as[:3] == ("succeeded", True, "release"), ended_as
    assert cli.executed(out, "a").metadata.runner.provisional is True
    assert summary(out)["a"]["status"] == "lost"
    assert said in summary(out)["a"]["reason"]
    assert summary(out)["b"]["status"] == "skipped"
    assert "provisional" in summary(out)["b"]["reason"]

    again = cli.runner("run", "a", "--plan", plan, "--output-dir", out, "--no-html")
    assert again.code == 7
    assert cli.metrics(out, "a")["provisional"] is False
    assert cli.metrics(out, "a")["stage"] is None
    assert "provisional" not in cli.executed(out, "a").metadata.runner


def test_a_run_that_is_killed_while_its_page_is_made_is_lost(tmp_path: Path, at_stage) -> None:
    """All checks were done, but the process did not end: Tekton's results and the report have status lost and the stage."""
    source, out = notebooks.write(tmp_path / "a.ipynb", "print(1)"), tmp_path / "out"
    ended = cli.runner(
        "run", source, "--output-dir", out, "--results-dir", tmp_path / "r", env=at_stage("convert", KILL)
    )

    assert ended.code == -9
    assert (tmp_path / "r" / "status").read_text() == "lost"
    assert cli.runner("report", out, "--fail-on-failure").code == 1
    assert summary(out)["a"]["status"] == "lost"
    assert "stage convert" in summary(out)["a"]["reason"]


def test_a_failure_that_was_not_judged_stays_a_failure(tmp_path: Path, at_stage) -> None:
    """What a cell raised is known; that the release was not judged is a warning."""
    source, out = notebooks.write(tmp_path / "a.ipynb", "1 / 0"), tmp_path / "out"
    assert cli.runner("run", source, "--output-dir", out, env=at_stage("release", KILL)).code == -9

    cli.runner("report", out)
    told = summary(out)["a"]
    assert told["status"] == "failed"
    assert "ZeroDivisionError" in told["reason"]
    assert told["warnings"] == 1


def all_alive(paths, seconds):
    return dict.fromkeys(paths, True)


def all_dead(paths, seconds):
    return dict.fromkeys(paths, False)


@pytest.mark.parametrize("status", EXIT_CODES)
def test_only_a_success_is_taken_back(status: Status) -> None:
    """Any other status stays; a final record is never changed."""
    final = made.metrics("a", status=status)
    assert settled(final) is final
    early = settled(made.metrics("a", status=status, provisional=True, stage="release"))
    assert early.status is (Status.LOST if status is Status.SUCCEEDED else status)
    assert "release" in (early.reason if status is Status.SUCCEEDED else early.warnings[-1])


def test_a_provisional_record_of_a_live_run_is_no_end(tmp_path: Path) -> None:
    """While its run lives the notebook is under way; once that is gone it is lost. One in attempts/ is lost, too."""
    record = made.metrics("a", provisional=True, stage="release")
    made.leave(tmp_path, record, with_samples=False)
    made.leave(tmp_path / "attempts" / "a" / "1", record, with_samples=False)
    made.running(tmp_path, "a")
    (live,) = assemble(read_folder(tmp_path, watch=all_alive)).entries
    (dead,) = assemble(read_folder(tmp_path, watch=all_dead)).entries
    assert not live.ok
    assert live.status is not Status.LOST
    assert "still running" in live.reason
    assert dead.status is Status.LOST
    assert [attempt.status for attempt in dead.attempts] == [Status.LOST]


def test_a_provisional_record_meets_no_need(tmp_path: Path) -> None:
    """Not in its own run and not in another."""
    made.leave(tmp_path, made.metrics("a", provisional=True, stage="release"), with_samples=False)
    found = needs.ended(tmp_path, ["a"])
    assert not needs.passed(found["a"])
    for any_run in (True, False):
        reason = needs.reason_to_skip(
            needs=["a"], earlier=["a"], results=found, run_id=made.RUN, any_run=any_run, continue_on_failure=True
        )
        assert reason is not None
        assert "provisional" in reason


LARGE = (
    "import os, base64\nfrom IPython.display import display\n"
    "display({'image/png': base64.b64encode(os.urandom(3_000_000)).decode()}, raw=True)"
)


def test_a_notebook_that_cannot_be_saved_is_lost_everywhere(tmp_path: Path, small_disk: Path) -> None:
    """Exit 74 in `run`, in the record and in the report; `run-all` exits with 1; Tekton's results agree."""
    notebooks.write(tmp_path / "a.ipynb", LARGE)
    (tmp_path / "plan.yaml").write_text("version: 1\nname: p\nnotebooks: [{name: a, path: a.ipynb}]\n")

    ended = cli.runner("run-all", tmp_path / "plan.yaml", "--output-dir", small_disk / "all", "--no-html")
    assert cli.metrics(small_disk / "all", "a")["failure"]["error_name"] == "RecordError"
    assert ended.code == 1, ended.err
    ended = cli.runner(
        *("run", "a", "--plan", tmp_path / "plan.yaml", "--output-dir", small_disk / "one", "--no-html"),
        *("--results-dir", tmp_path / "r"),
    )

    assert ended.code == 74
    assert "the volume is full" in ended.err
    assert "fsGroup" not in ended.err
    for out in (small_disk / "all", small_disk / "one"):
        record = cli.metrics(out, "a")
        assert (record["status"], record["exit_code"], record["provisional"]) == ("lost", 74, False)
        assert "a.executed.ipynb" in record["reason"]
        assert "before that its status was succeeded" in record["reason"]
        assert "No space left" in record["outputs"]["unavailable"]["notebook"]
    assert summary(small_disk / "all")["a"]["status"] == "lost"
    assert (tmp_path / "r" / "status").read_text() == "lost"


def test_results_are_written_where_the_volume_has_no_byte_left(tmp_path: Path, small_disk: Path) -> None:
    """Not even the record fits: exit 74, the hint says full, Tekton's results are on another volume."""
    fill = f"import os\nwith open({str(small_disk / 'fill')!r}, 'wb', 0) as f:\n    try:\n        while True:\n"
    fill += "            f.write(bytes(512))\n    except OSError:\n        pass\nprint('x' * 100_000)"
    source = notebooks.write(tmp_path / "a.ipynb", fill)

    ended = cli.runner("run", source, "--output-dir", small_disk, "--results-dir", tmp_path / "r", "--no-html")

    assert ended.code == 74, ended.err
    assert "the volume is full" in ended.err
    assert (tmp_path / "r" / "status").read_text() == "lost"
    assert "No space left" in (tmp_path / "r" / "reason").read_text()
    assert not (small_disk / "a.metrics.json").exists()
    (small_disk / "fill").unlink()
    assert cli.runner("report", small_disk, "--fail-on-failure").code == 1
    assert summary(small_disk)["a"]["status"] == "lost"


def test_a_later_save_that_succeeds_clears_the_fault(tmp_path: Path, small_disk: Path, at_stage) -> None:
    """Space was found in time: the notebook is whole, and the run ended as it ended."""
    source = notebooks.write(
        tmp_path / "a.ipynb",
        f"open({str(small_disk / 'fill')!r}, 'wb').write(bytes(1_900_000))\nprint('x' * 300_000)",
    )
    do = f"os.unlink({str(small_disk / 'fill')!r})"
    ended = cli.runner("run", source, "--output-dir", small_disk, "--no-html", env=at_stage("expect", do))

    assert ended.code == 0, ended.err
    assert "No space left" in ended.err
    record = cli.metrics(small_disk, "a")
    assert (record["status"], record["outputs"]["notebook"]) == ("succeeded", "a.executed.ipynb")
    assert "notebook" not in record["outputs"]["unavailable"]
    assert "x" * 100 in cli.text_of(cli.executed(small_disk, "a"))


@pytest.mark.parametrize("stage", ["release", "convert"])
@pytest.mark.parametrize("do", ["os.unlink({})", "open({}, 'w').write('rewritten')", "os.truncate({}, 10)"])
def test_a_notebook_that_vanished_is_written_again_from_memory(tmp_path: Path, at_stage, stage: str, do: str) -> None:
    """Deleted, rewritten or truncated after its last save: in the end the executed notebook exists."""
    source, out = notebooks.write(tmp_path / "a.ipynb", "print('kept')"), tmp_path / "out"
    ended = cli.runner(
        *("run", source, "--output-dir", out, "--no-html"),
        env=at_stage(stage, do.format(repr(str(out / "a.executed.ipynb")))),
    )

    assert ended.code == 0, ended.err
    assert "kept" in cli.text_of(cli.executed(out, "a"))
    assert cli.metrics(out, "a")["outputs"]["notebook"] == "a.executed.ipynb"


def test_a_folder_in_the_notebooks_place_is_told(tmp_path: Path, at_stage) -> None:
    """It cannot be replaced by a file: exit 74, and the status in record and report is lost."""
    source, out = notebooks.write(tmp_path / "a.ipynb", "print('kept')"), tmp_path / "out"
    place = repr(str(out / "a.executed.ipynb"))
    ended = cli.runner(
        "run", source, "--output-dir", out, env=at_stage("release", f"os.unlink({place}); os.mkdir({place})")
    )

    assert ended.code == 74
    assert "something else has the name" in ended.err
    record = read_metrics((out / "a.metrics.json").read_bytes())
    assert (record.status, record.exit_code) == (Status.LOST, 74)
    page = (out / "a.html").read_text()
    assert "succeeded</" not in page
    assert "<strong>lost</strong>" in page
    cli.runner("report", out)
    assert summary(out)["a"]["status"] == "lost"
