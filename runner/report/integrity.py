# SPDX-License-Identifier: Apache-2.0
"""Verification that an output folder is unchanged since its runs.

Each file is compared with its checksum. Checksums can be recomputed after a change, so the documents are compared with
each other as well: record, executed notebook, summary and RO-Crate must describe the same run. The hash cache is not
used.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from runner.core import files
from runner.core.errors import UsageError
from runner.core.files import check_name
from runner.core.hash_cache import sha256_of
from runner.core.records import Metrics, Status, read_metrics
from runner.outputs import attempts, claim, sums
from runner.report.baseline import read_baseline
from runner.report.exports.exports import CRATE_FILE
from runner.report.folder import METRICS, RUNNING, Watch
from runner.report.validation import fault

EXECUTED = ".executed.ipynb"
SUMMARY_FILE = "reports/summary.json"


@dataclass(frozen=True, slots=True)
class Note:
    """A finding on a file, relative to the output folder."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of a verification."""

    files: int
    """Number of files compared with their checksum."""
    notebooks: int
    differences: tuple[Note, ...]
    not_judged: tuple[Note, ...]


@dataclass(slots=True)
class _Check:
    """Collects the findings."""

    root: Path
    busy: Mapping[str, str]
    """Reasons for notebooks that cannot be verified, by name."""
    differences: list[Note] = field(default_factory=list)
    not_judged: list[Note] = field(default_factory=list)
    judged: set[Path] = field(default_factory=set)
    records: list[tuple[Path, Metrics]] = field(default_factory=list)
    """Records with their folders; for each notebook the newest first."""

    def differ(self, path: Path, what: str) -> None:
        self.differences.append(Note(path.relative_to(self.root).as_posix(), what))

    def leave(self, path: Path, why: str) -> None:
        self.not_judged.append(Note(path.relative_to(self.root).as_posix(), why))


def verify(folder: Path, *, watch: Watch = claim.alive) -> Verification:
    """Compare the files of an output folder with their checksums, and its documents with each other.

    Parameters
    ----------
    watch
        Returns which claims belong to live runs, which are not verified.

    Raises
    ------
    UsageError
        The folder does not exist, or contains no runs.
    """
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist", hint="give the --output-dir of the runs")
    folder = folder.absolute()
    sha256.cache_clear()
    flights = {path.name.removesuffix(RUNNING): path for path in folder.glob(f"*{RUNNING}")}
    lives = watch(list(flights.values()), claim.DEAD_AFTER_SECONDS)
    busy = {name: "it is running" if lives[path] else "its run was lost" for name, path in flights.items()}
    check = _Check(folder, busy)
    places = [(folder, name) for name in _names(folder)]
    aside = sorted((folder / "attempts").glob("*/*"))
    places += [(kept, kept.parent.name) for kept in aside if kept.name.isdigit() and kept.is_dir()]
    if not places:
        raise UsageError(f"{folder} contains no runs", hint="give the --output-dir of the runs")
    for place, name in places:
        _notebook(check, place, name)
    _report(check)
    _others(check)
    return Verification(
        files=len(check.judged),
        notebooks=len({name for _, name in places}),
        differences=tuple(dict.fromkeys(check.differences)),
        not_judged=tuple(check.not_judged),
    )


def _names(folder: Path) -> list[str]:
    """Return the notebooks with a record, checksums, samples or an executed notebook in a folder."""
    endings = (METRICS, attempts.SUMS, EXECUTED, ".samples.csv")
    return sorted({path.name.removesuffix(end) for end in endings for path in folder.glob(f"*{end}")} - {""})


def _notebook(check: _Check, folder: Path, name: str) -> None:
    """Verify the files of one run of one notebook."""
    record_path, sums_path = folder / f"{name}{METRICS}", sums.of_notebook(folder, name)
    if folder == check.root and name in check.busy:
        check.leave(record_path, check.busy[name])
        return
    try:
        check_name(name)
        record = read_metrics(files.read(record_path))
    except FileNotFoundError:
        record = None
    except (OSError, ValueError, UsageError, RecursionError) as error:
        check.differ(record_path, f"it cannot be read: {fault(error)}")
        return
    if record is None or record.provisional:
        if not sums_path.exists():
            check.leave(record_path, "its run was interrupted before it wrote its final record and checksums")
            return
        check.differ(record_path, "it is provisional, but its checksums are final" if record else "it is missing")
    _sums(check, sums_path, [name + suffix for suffix in attempts.SUFFIXES])
    if record is not None:
        check.records.append((folder, record))
        _record(check, folder, name, record)


def _sums(check: _Check, path: Path, names: Sequence[str]) -> None:
    """Check that all listed files exist unchanged, and that all existing ones of ``names`` are listed."""
    try:
        listed = sums.read(path)
    except FileNotFoundError:
        check.differ(path, "it is missing")
        return
    except (OSError, ValueError) as error:
        check.differ(path, f"it cannot be read: {fault(error)}")
        return
    for name, expected in listed.items():
        one = Path(os.path.normpath(path.parent / name))
        if not one.is_relative_to(check.root):
            check.differ(path, f"it lists {name!r}, which is outside the folder")
            continue
        check.judged.add(one)
        if (found := sha256(one)) != expected:
            has = f"its SHA-256 is {found}" if found else "it is missing or cannot be read"
            check.differ(one, f"{has}, {path.name} has {expected}")
    for name in names:
        if name not in listed and (one := Path(os.path.normpath(path.parent / name))).exists():
            check.differ(one, f"{path.name} does not list it")


@functools.cache
def sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file, computed once; None if it cannot be read."""
    try:
        return sha256_of(path)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return None


def _record(check: _Check, folder: Path, name: str, record: Metrics) -> None:
    """Compare a record with its file name and with the executed notebook."""
    path, notebook = folder / f"{name}{METRICS}", folder / f"{name}{EXECUTED}"
    if record.notebook != name:
        check.differ(path, f"it is a record of {record.notebook!r}")
    if record.outputs.notebook is None or record.provisional:
        return
    if record.outputs.notebook_sha256 not in {None, sha256(notebook)}:
        check.differ(notebook, f"{path.name} records another SHA-256: {record.outputs.notebook_sha256}")
    try:
        document = json.loads(files.read(notebook))
        stated = dict(document["metadata"]["runner"])
        cells = {cell["id"]: (cell["metadata"].get("runner") or {}).get("status") for cell in document["cells"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        check.differ(notebook, f"it cannot be read: {fault(error)}")
        return
    run_id = record.reused_from.run_id if record.reused_from else record.run_id
    expected: dict[str, object] = {"run_id": run_id}
    if not record.reused_from and record.status is not Status.LOST:  # else the status was set after the save
        expected |= {"status": record.status.value, "exit_code": record.exit_code}
    for key, value in expected.items():
        if stated.get(key) != value:
            check.differ(notebook, f"its {key} is {stated.get(key)!r}, {path.name} has {value!r}")
    for cell in record.cells:
        if cells.get(cell.id) != cell.status.value:
            check.differ(
                notebook, f"cell {cell.index + 1} is {cells.get(cell.id)!r}, {path.name} has {cell.status.value!r}"
            )


def _report(check: _Check) -> None:
    """Verify the files of the report, and compare summary and RO-Crate with the records."""
    reports = check.root / sums.REPORT.parent
    inside = sorted(path.name for path in reports.glob("[!.]*"))
    if not inside:
        return
    expected = [name for name in inside if name != sums.REPORT.name]
    _sums(check, check.root / sums.REPORT, [*expected, f"../{CRATE_FILE}"])
    try:
        summary = read_baseline(check.root / SUMMARY_FILE)
    except ValueError as error:
        check.differ(check.root / SUMMARY_FILE, str(error))
        return
    for one in summary.notebooks:
        if (
            one.run_id is None
            or one.from_samples
            or one.status in {Status.RUNNING, Status.HELD, Status.LOST, Status.NOT_RUN}
        ):
            continue
        same = _records_of(check, one.name, lambda record, run_id=one.run_id: record.run_id == run_id)
        stated = (one.status, one.exit_code, one.started_at, one.wall_seconds)
        if same is not None and stated not in [
            (record.status, record.exit_code, record.started_at, record.wall_seconds) for _, record in same
        ]:
            check.differ(check.root / SUMMARY_FILE, f"it does not match the record of {one.name}")
    _crate(check)


def _records_of(check: _Check, name: str, wanted: Any) -> list[tuple[Path, Metrics]] | None:
    """Return the records of one run of a notebook; None, with a note, if they no longer exist."""
    if name in check.busy:
        return None
    mine = [(folder, record) for folder, record in check.records if record.notebook == name]
    same = [(folder, record) for folder, record in mine if wanted(record)]
    path = check.root / f"{name}{METRICS}"
    if not same and mine:
        check.leave(path, "the report describes an earlier run, whose files no longer exist")
    elif not same and not any(note.path == path.name for note in (*check.differences, *check.not_judged)):
        check.differ(path, "it is missing, but the report describes it")
    return same or None


def _crate(check: _Check) -> None:
    """Compare the RO-Crate with the files and the records."""
    path = check.root / CRATE_FILE
    try:
        entities = {entity["@id"]: entity for entity in json.loads(files.read(path))["@graph"]}
        actions = [one for key, one in entities.items() if one["@type"] == "CreateAction" and key != "#run"]
        for action in actions:
            _action(check, action, [entities[result["@id"]] for result in _as_list(action.get("result"))])
        for key, entity in entities.items():
            if key.startswith("reports/") and "sha256" in entity and sha256(check.root / key) != entity["sha256"]:
                check.differ(check.root / key, f"{CRATE_FILE} has another SHA-256: {entity['sha256']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        check.differ(path, f"it cannot be read: {fault(error)}")


def _action(check: _Check, action: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Compare a run in the RO-Crate with its record and files."""
    hashes = {Path(unquote(one["@id"])).name: one["sha256"] for one in results if "sha256" in one}
    name = next((file.removesuffix(METRICS) for file in hashes if file.endswith(METRICS)), None)
    if name is None:
        return
    started_at, ended_at = (at and at.replace("+00:00", "Z") for at in (action["startTime"], action["endTime"]))
    same = _records_of(check, name, lambda record: record.started_at == started_at)
    if same is None:
        return
    folder, record = next(
        (one for one in same if sha256(one[0] / f"{name}{METRICS}") == hashes[f"{name}{METRICS}"]), same[0]
    )
    for file, expected in hashes.items():
        if sha256(folder / file) != expected:
            check.differ(folder / file, f"{CRATE_FILE} has another SHA-256: {expected}")
    stated = (ended_at, action["description"])
    if not record.provisional and stated != (record.ended_at, f"{record.status.value}: {record.reason}"):
        check.differ(check.root / CRATE_FILE, f"it does not match the record of {name}")


def _as_list(value: Any) -> list[Any]:
    """Return a JSON-LD value as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _others(check: _Check) -> None:
    """Note files without a checksum."""
    known = {note.path for note in (*check.differences, *check.not_judged)}
    for path in sorted(check.root.iterdir()):
        own = path.name.startswith(".") or path.name.endswith((attempts.SUMS, RUNNING)) or path in check.judged
        if path.is_file() and not own and path.name not in known:
            busy = next((why for name, why in check.busy.items() if path.name.startswith(f"{name}.")), None)
            check.leave(path, busy or "it has no checksum")
