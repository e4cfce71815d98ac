# SPDX-License-Identifier: Apache-2.0
"""What holds after every fault. Each invariant returns the violations it finds, in words."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from runner.report.overview import WHOLE_RUN
from runner.run.resume import HASHES
from soak.world import NAME, Story, World

CODES = {
    "succeeded": {0},
    "skipped": {0},
    "failed": {1},
    "refused": {3},
    "timed-out": {4},
    "kernel-died": {5},
    "incomplete": {6},
    "unexpected-results": {7},
    "not-released": {8},
    "broken-input": {9},
    "terminated": {130, 143},
    "lost": {70, 74},
}
"""Which exit codes each status of a record allows."""
FINE = ("succeeded", "skipped")


def files_are_whole(world: World, story: Story) -> list[str]:
    """Every file is whole or absent, whenever its writer was ended."""
    found = []
    for path in sorted(world.out.rglob("*")):
        if path.is_file() and path.name not in story.exempt:
            try:
                _read(path)
            except Exception as error:  # noqa: BLE001  (whatever a reader says, the file is not whole)
                found.append(f"{path.relative_to(world.out)} is not whole: {str(error)[:200]}")
    return found


def _read(path: Path) -> None:
    """Read a file as those do who depend on it."""
    if path.name.endswith(".metrics.json"):
        from runner.core.records import read_metrics

        read_metrics(path.read_bytes())
    elif path.suffix == ".json":
        json.loads(path.read_bytes())
    elif path.suffix == ".ipynb":
        nbformat.validate(nbformat.read(path, as_version=4))
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>"), "it has no end"
    elif path.suffix == ".xml":
        ET.parse(path)
    elif path.suffix == ".csv":  # rows are appended, so that a killed writer may leave half of the last one
        rows = list(csv.reader(path.read_text().splitlines()))
        assert all(len(row) == len(rows[0]) for row in rows[:-1]), "a row inside is cut off"


def all_agree(world: World, story: Story) -> list[str]:
    """Exit code, record and report tell the same story, and it is one that the fault allows."""
    if story.code == -99:
        return ["the run does not end"]
    if story.untouched or story.code == 2:
        return _untouched(world, story)
    plan = ("--plan", world.checkout / "plan.yaml") if len(story.names) > 1 else ()
    code, entries = world.report(*plan)
    found = []
    for name in story.names:
        entry = entries.get(name)
        if entry is None:
            found.append(f"the report has no word about {name}")
            continue
        single = len(story.names) == 1
        found += _agreement(world, story, name, entry["status"], code=story.code if single else None)
    fine = all(entry["status"] in FINE for entry in entries.values())
    if code != (0 if fine else 1):
        found.append(f"`report --fail-on-failure` exits {code} for {[e['status'] for e in entries.values()]}")
    if len(story.names) > 1 and story.code is not None and (story.code == 0) != fine:
        found.append(f"run-all exits {story.code}, the report says {[e['status'] for e in entries.values()]}")
    return found


def _untouched(world: World, story: Story) -> list[str]:
    found = [] if story.code == 2 else [f"exit code {story.code} instead of 2"]
    if world.hashes() != world.earlier:
        found.append("a run that exits 2 changed the output folder")
    return found


def _agreement(world: World, story: Story, name: str, reported: str, *, code: int | None) -> list[str]:
    record, found = world.record(name), []
    status = _status(world, name, record, code)
    if reported != status:
        found.append(f"{name}: the report says {reported}, it is {status}")
    if record and _new(world, record) and not record.get("provisional"):
        due = CODES[record["status"]]
        if record["exit_code"] not in due:
            found.append(f"{name}: status {record['status']} with exit_code {record['exit_code']}")
        if code is not None and code >= 0 and code != record["exit_code"]:
            found.append(f"{name}: exit code {code}, the record says {record['exit_code']}")
    elif code is not None and code >= 0 and code not in {70, 74} and not _before_the_claim(world, code):
        found.append(f"{name}: exit code {code}, but no final record")
    allowed = story.allowed
    if allowed is not None and status not in allowed:
        found.append(f"{name}: it ended {status}; after this fault only {sorted(allowed)} are right")
    return found


def _status(world: World, name: str, record: Mapping[str, Any] | None, code: int | None) -> str:
    """Return the status that follows from what lies in the folder."""
    claimed = (world.out / f"{name}.running").exists()
    if record and (_new(world, record) or not claimed):
        provisional = record.get("provisional") and record["status"] == "succeeded"
        return "lost" if provisional else str(record["status"])
    return "lost" if claimed else "not-run"


def _new(world: World, record: Mapping[str, Any]) -> bool:
    """Return True if a record is not the earlier run's, which was copied into the folder."""
    return record.get("run_id") != world.earlier_run


def _before_the_claim(world: World, code: int) -> bool:
    """Return True if a signal came before the run had claimed its name, so that nothing may have changed."""
    return code in {130, 143, 74} and world.hashes() == world.earlier


def nothing_is_lost(world: World, story: Story) -> list[str]:
    """Every file of the earlier run is still there, in its place or below attempts/."""
    there = set(world.hashes().values())
    gone = [
        path for path, digest in world.earlier.items() if digest not in there and Path(path).name not in story.exempt
    ]
    return [f"of the earlier run is gone: {path}" for path in gone]


def no_process_is_left(world: World, story: Story) -> list[str]:
    """No process of the run lives on. After SIGKILL the kernel is gone; its children wait for the next run."""
    if _killed(story):
        return [f"the kernel lives on: {line}" for line in world.wait_kernel_gone()]
    return [f"left running: {line}" for line in world.wait_gone()]


def no_temporary_is_left(world: World, story: Story) -> list[str]:
    """No temporary file lies in the output folder or in the system's folder for them. After SIGKILL the next run removes them."""
    if _killed(story):
        return []
    return temporaries(world, story)


def temporaries(world: World, story: Story) -> list[str]:
    """Return what lies about that only a live run may have."""
    hidden = [path for path in world.out.rglob(".*") if path.name not in {*story.exempt, WHOLE_RUN.name, HASHES}]
    claims = [path for path in world.out.glob("*.running") if path.name not in story.exempt]
    claims = [] if story.code in {70, 74} else claims  # the claim of a run without a record says that it is lost
    return [f"left behind: {path.relative_to(world.folder)}" for path in (*hidden, *claims, *world.temporary.iterdir())]


def the_next_run_works(world: World, story: Story) -> list[str]:
    """Once the fault is gone, the same notebook succeeds, and cleans up what a killed run left."""
    for mark in world.marks.iterdir():
        mark.unlink()
    found = []
    for name in story.names:
        code = world.finish(world.start("--no-html", name=name))
        record = world.record(name)
        if code != 0 or not record or record["status"] != "succeeded":
            found.append(f"the next run of {name} exits {code}: {record and record['reason']}; {world.words()[-300:]}")
    calm = Story(exempt=frozenset(n for n in story.exempt if n != f"{NAME}.running"), code=0)
    found += [f"after the next run: {line}" for line in (*files_are_whole(world, calm), *temporaries(world, calm))]
    found += [f"after the next run: left running: {line}" for line in world.wait_gone()]
    lost = nothing_is_lost(world, story)
    return found + [f"after the next run: {line}" for line in lost]


def _killed(story: Story) -> bool:
    return story.code is not None and story.code < 0


INVARIANTS: tuple[Callable[[World, Story], list[str]], ...] = (
    all_agree,
    files_are_whole,
    nothing_is_lost,
    no_process_is_left,
    no_temporary_is_left,
    the_next_run_works,
)
"""In this order; the last one changes the world."""
