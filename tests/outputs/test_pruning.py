# SPDX-License-Identifier: Apache-2.0
"""`runner clean`: old attempts and pages are removed, except those needed by a report or a resumed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from support import cli, records

from runner.core.errors import RecordError, UsageError
from runner.core.records import Status, read_metrics
from runner.outputs import attempts, pruning, sums

DAY = 86400.0


def run(folder: Path, name: str, *statuses: Status, days_ago: float = 0.0) -> None:
    """Leave runs of a notebook one after another, as `runner run` does."""
    for status in statuses:
        attempts.set_aside(folder, name)
        records.leave(folder, records.metrics(name, status=status, cells=2), with_samples=False)
        sums.write_notebook(folder, name)
        for path in folder.glob(f"{name}.*"):
            os.utime(path, (time.time() - days_ago * DAY,) * 2)


def pages(folder: Path, *days: str) -> None:
    names = [f"complete_analysis_report_202611{day}_120000.html" for day in days]
    (folder / "reports").mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / "reports" / name).write_text(f"<p>{name}</p>")
    sums.write_report(folder, [f"reports/{name}" for name in names])


def dead(paths: list[Path]) -> dict[Path, bool]:
    return dict.fromkeys(paths, False)


def old(folder: Path, keep: int = 0, days: float = 0.0) -> list[str]:
    return [str(one.path) for one in pruning.find(folder, keep=keep, older_than_seconds=days * DAY, watch=dead)]


GOOD, BAD = Status.SUCCEEDED, Status.FAILED


@pytest.mark.parametrize(
    ("statuses", "keep", "goes"),
    [
        ((GOOD, GOOD, GOOD, GOOD), 0, [1, 2, 3]),
        ((GOOD, GOOD, GOOD, GOOD), 1, [1, 2]),
        ((GOOD, GOOD, GOOD, GOOD), 3, []),
        ((GOOD, GOOD, BAD, BAD), 0, [1, 3]),
        ((GOOD, BAD, BAD, BAD), 1, [2]),
        ((BAD, BAD, BAD), 0, [1, 2]),
        ((GOOD,), 0, []),
    ],
)
def test_the_newest_success_and_the_newest_attempts_stay(
    tmp_path: Path, statuses: tuple[Status, ...], keep: int, goes: list[int]
) -> None:
    run(tmp_path, "n", *statuses)
    assert old(tmp_path, keep) == [f"attempts/n/{number}" for number in goes]


def test_random_histories_never_lose_the_newest_success(tmp_path: Path) -> None:
    """In any case; the remaining attempts keep their numbers."""
    rng = random.Random(3)
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        for _ in range(rng.randrange(1, 9)):
            run(folder, "n", rng.choice([GOOD, BAD, Status.REFUSED, Status.LOST]), days_ago=rng.randrange(60))

        def successes(folder: Path = folder) -> list[bytes]:
            """Return the records of successes, newest first."""
            places = (folder, *reversed(attempts.folders(folder, "n")))
            found = [(place / "n.metrics.json").read_bytes() for place in places]
            return [one for one in found if read_metrics(one).status is GOOD]

        before, last = successes(), (folder / "n.metrics.json").read_bytes()
        keep, days = rng.randrange(4), rng.randrange(60)
        pruning.remove(folder, pruning.find(folder, keep=keep, older_than_seconds=days * DAY, watch=dead))
        assert successes()[:1] == before[:1]
        assert (folder / "n.metrics.json").read_bytes() == last
        run(folder, "n", GOOD)
        assert (attempts.folders(folder, "n")[-1] / "n.metrics.json").read_bytes() == last


def test_only_what_is_old_enough_goes(tmp_path: Path) -> None:
    run(tmp_path, "n", GOOD, days_ago=40)
    run(tmp_path, "n", GOOD, GOOD, days_ago=10)
    assert old(tmp_path, days=30) == ["attempts/n/1"]
    assert old(tmp_path, days=5) == ["attempts/n/1", "attempts/n/2"]


def test_the_newest_page_stays_and_the_sums_forget_the_others(tmp_path: Path) -> None:
    run(tmp_path, "n", GOOD)
    pages(tmp_path, "01", "02", "03")
    (tmp_path / "reports" / "summary.json").write_text("{}")
    found = pruning.find(tmp_path, keep=0, watch=dead)
    assert [one.path.name[-20:-12] for one in found] == ["20261101", "20261102"]
    pruning.remove(tmp_path, found)
    assert [path.name for path in sorted((tmp_path / "reports").glob("*.html"))] == [*sums.read(tmp_path / sums.REPORT)]
    assert (tmp_path / "reports" / "summary.json").exists()


def test_nothing_of_a_notebook_that_runs_goes(tmp_path: Path) -> None:
    """Nor if a kill left the files of the only success in two folders."""
    run(tmp_path, "n", GOOD, GOOD, GOOD)
    records.running(tmp_path, "n")
    assert pruning.find(tmp_path, keep=0, watch=lambda paths: dict.fromkeys(paths, True)) == []
    assert old(tmp_path) == ["attempts/n/1", "attempts/n/2"]

    (tmp_path / "n.executed.ipynb").rename(tmp_path / "attempts" / "n" / "2" / "kept.ipynb")
    assert old(tmp_path) == []


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """A notebook may put a link in the place of any folder, also after it was looked at."""
    outside = tmp_path / "outside"
    for below in ("1", "2"):
        (outside / below).mkdir(parents=True)
        (outside / below / "precious").write_text("data")
    (outside / "complete_analysis_report_20260101_000000.html").write_text("mine")
    (outside / "complete_analysis_report_20260102_000000.html").write_text("mine")
    before = sorted(outside.rglob("*"))

    for linked in ("attempts", "attempts/n", "attempts/n/1", "reports"):
        for late in (False, True):
            folder = tmp_path / f"{linked.replace('/', '-')}-{late}"
            folder.mkdir()
            run(folder, "n", GOOD, GOOD, GOOD)
            pages(folder, "01", "02")
            found = pruning.find(folder, keep=0, watch=dead)
            shutil.rmtree(folder / linked)
            (folder / linked).symlink_to(outside)
            found = found if late else pruning.find(folder, keep=0, watch=dead)
            with pytest.raises(RecordError) if late else contextlib.nullcontext():
                pruning.remove(folder, found)
            assert sorted(outside.rglob("*")) == before, (linked, late)


def test_the_command_says_what_goes_and_how_much_that_frees(tmp_path: Path) -> None:
    run(tmp_path / "outputs", "n", GOOD, GOOD, days_ago=40)
    run(tmp_path / "outputs", "n", GOOD)
    given = ("clean", tmp_path / "outputs", "--keep-attempts", "0", "--older-than", "30d")
    ended = cli.runner(*given, "--dry-run")
    assert ended.code == 0, ended.err
    assert [line.split()[0] for line in ended.out.splitlines()] == ["attempts/n/1", "attempts/n/2", "would"]
    assert (tmp_path / "outputs" / "attempts" / "n" / "1").exists()
    answer = json.loads(cli.runner(*given, "--json").out)
    assert [one["path"] for one in answer["removed"]] == ["attempts/n/1", "attempts/n/2"]
    assert not (tmp_path / "outputs" / "attempts" / "n").exists()
    assert cli.runner(*given).out == "nothing is old enough to be removed\n"


def test_a_folder_that_is_no_output_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            pruning.find(folder, keep=0)
