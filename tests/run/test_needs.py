# SPDX-License-Identifier: Apache-2.0
"""Whether a notebook may run after those before it is decided by their metrics alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from runner.core.records import Status
from runner.outputs.claim import Running
from runner.run.needs import Ended, ended, lost, passed, reason_to_skip

THIS, OTHER = "run-2", "run-1"


def reason(results: dict[str, Ended], **changes) -> str | None:
    """Return why ``03``, which needs ``01`` and stands behind ``01`` and ``02``, must not run."""
    arguments = {
        "needs": ["01"],
        "earlier": ["01", "02"],
        "results": results,
        "run_id": THIS,
        "any_run": False,
        "continue_on_failure": True,
    }
    return reason_to_skip(**{**arguments, **changes})


def test_a_success_of_this_run_is_enough() -> None:
    """What another notebook did, on which this one does not depend, is no reason."""
    assert reason({"01": Ended(Status.SUCCEEDED, THIS)}) is None
    assert reason({"01": Ended(Status.SUCCEEDED, THIS), "02": Ended(Status.FAILED, THIS)}) is None


def test_a_need_without_a_result_is_named() -> None:
    """It never ran, or left no metrics."""
    assert reason({}) == "it needs 01, which has no result"


def test_a_success_of_another_run_counts_only_where_any_run_will_do() -> None:
    """Yesterday's file is no result of today, unless somebody runs a part of the plan on purpose."""
    old = {"01": Ended(Status.SUCCEEDED, OTHER)}
    assert reason(old) == "it needs 01, whose result is from another run"
    assert reason(old, any_run=True) is None


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.SUCCEEDED])
@pytest.mark.parametrize("any_run", [False, True])
def test_every_other_end_of_a_need_is_a_reason(status: Status, any_run: bool) -> None:
    """A need that was skipped, too, has not made what this notebook reads."""
    found = reason({"01": Ended(status, THIS, optional=True)}, any_run=any_run)
    assert found == f"it needs 01, which ended {status.value}"


def test_all_needs_are_looked_at() -> None:
    """The first that is not met is named."""
    results = {"01": Ended(Status.SUCCEEDED, THIS), "02": Ended(Status.KERNEL_DIED, THIS)}
    assert reason(results, needs=["01", "02"]) == "it needs 02, which ended kernel-died"


def test_a_run_that_stops_names_the_notebook_that_stopped_it() -> None:
    """Also without a need: the plan's order counts, and the first failure is the one."""
    results = {"01": Ended(Status.FAILED, THIS), "02": Ended(Status.TIMED_OUT, THIS)}
    stopped = reason(results, needs=[], continue_on_failure=False)
    assert stopped == "the run stopped after 01 ended failed"
    assert reason(results, needs=[]) is None


def test_a_run_does_not_stop_over_another_run() -> None:
    """A failure of yesterday is over."""
    results = {"01": Ended(Status.FAILED, OTHER)}
    assert reason(results, needs=[], continue_on_failure=False) is None


@pytest.mark.parametrize(
    ("result", "goes_on"),
    [
        (Ended(Status.SUCCEEDED, THIS), True),
        (Ended(Status.SKIPPED, THIS, optional=True), True),
        (Ended(Status.SKIPPED, THIS), False),
        (Ended(Status.FAILED, THIS, optional=True), False),
        (Ended(Status.REFUSED, THIS), False),
        (Ended(Status.UNEXPECTED_RESULTS, THIS), False),
    ],
)
def test_only_a_success_or_a_right_skip_lets_the_run_go_on(result: Ended, goes_on: bool) -> None:
    """An optional notebook that was skipped is no failure; one that was skipped for a need is."""
    assert passed(result) is goes_on
    assert (reason({"02": result}, needs=[], continue_on_failure=False) is None) is goes_on


def test_ends_are_read_from_metrics_and_rubbish_is_no_result(tmp_path: Path) -> None:
    """A file that is missing, cut off, of another kind or of an unknown status says nothing."""
    contents = {
        "good": json.dumps({"status": "failed", "run_id": THIS, "optional": True, "cells": []}),
        "cut": '{"status": "succ',
        "list": "[]",
        "null": "null",
        "unknown": json.dumps({"status": "splendid", "run_id": THIS}),
        "without-run": json.dumps({"status": "succeeded"}),
        "binary": "\x00\x01",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.metrics.json").write_text(content)
    (tmp_path / "folder.metrics.json").mkdir()

    found = ended(tmp_path, [*contents, "folder", "missing"])

    assert found == {"good": Ended(Status.FAILED, THIS, optional=True)}


def test_a_run_whose_process_is_gone_is_lost(tmp_path: Path) -> None:
    """Only one of this run, and only when its heartbeat stands still; one that lives has not failed yet."""
    files = {"gone": THIS, "lives": THIS, "old": OTHER}
    for name, run_id in files.items():
        running = Running(notebook=name, run_id=run_id, pid=1, host="node-7", started_at="2026-01-01T00:00:00Z")
        (tmp_path / f"{name}.running").write_text(json.dumps(dataclasses.asdict(running)))
    (tmp_path / "rubbish.running").write_text("{")
    beats = iter(range(10**6))

    def sleep(_seconds: float) -> None:
        (tmp_path / "lives.running").write_text(json.dumps({**dataclasses.asdict(running), "beat": next(beats)}))

    found = lost(tmp_path, [*files, "rubbish", "missing"], THIS, sleep=sleep)

    assert found == {"gone": Ended(Status.LOST, THIS)}


def test_a_run_stops_after_one_that_was_lost() -> None:
    """It did not succeed, though it left no record."""
    results = {"02": Ended(Status.LOST, THIS)}
    assert reason(results, needs=[], continue_on_failure=False) == "the run stopped after 02 ended lost"
