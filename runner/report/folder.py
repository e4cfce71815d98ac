# SPDX-License-Identifier: Apache-2.0
"""Reads an output folder: records, earlier attempts, active runs.

An unreadable file is reported as a problem; no content of the folder can make the report fail.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from runner.core import files
from runner.core.endings import settled
from runner.core.errors import UsageError
from runner.core.files import check_name
from runner.core.records import SCHEMA_VERSION, Cell, CellStatus, Metrics, Status, read_metrics
from runner.core.trials import kept_fit, kept_forecast
from runner.outputs import attempts
from runner.report import missing
from runner.report.found import Attempt, Flight, Found, LastSample
from runner.report.validation import LARGEST, check_figures, fault

Watch = Callable[[Sequence[Path], float], Mapping[Path, bool]]
"""Watches `NAME.running` files for some seconds and returns which belong to live runs."""

METRICS = ".metrics.json"
RUNNING = ".running"
WATCH_SECONDS = 10.0
"""A run without a heartbeat for this long is dead."""
_TAIL_BYTES = 1 << 16


def read_folder(
    folder: Path, *, watch: Watch, wait_seconds: float = 0.0, run_id: str | None = None, only: Sequence[str] = ()
) -> Found:
    """Return the contents of the folder, after waiting for active runs.

    Parameters
    ----------
    folder
        The output folder of the runs.
    watch
        Returns which claims belong to live runs.
    wait_seconds
        How long to wait for live runs to write their record.
    run_id, only
        Run and notebooks to wait for; default is all.
    """

    def matters(flight: Flight | None) -> bool:
        return flight is not None and run_id in {None, flight.run_id} and (not only or flight.notebook in only)

    alive = _wait(folder, watch, wait_seconds, matters)
    problems: list[str] = []
    # Before the records, so that a run that ends meanwhile appears with its final record and not as lost.
    active = [_read_flight(path, problems) for path in sorted(folder.glob(f"*{RUNNING}"))]
    metrics: dict[str, Metrics] = {}
    broken: dict[str, str] = {}
    for path in sorted(folder.glob(f"*{METRICS}")):
        record = _read_record(path, problems)
        if isinstance(record, Metrics):
            metrics[record.notebook] = record
        else:
            broken[path.name.removesuffix(METRICS)] = record
    limits = {m.host.hostname: m.host.memory_limit_bytes for m in metrics.values() if m.host}
    flights = {}
    for flight in active:
        if flight:
            kept = _read_saved(folder / f"{flight.notebook}.executed.ipynb")
            if kept and kept.run_id != flight.run_id:
                kept = None  # of an earlier run, not yet moved to attempts/
            flights[flight.notebook] = dataclasses.replace(
                flight,
                alive=alive.get(flight.notebook, False),
                cells_saved=kept.done if kept else None,
                cells=kept.cells if kept else (),
                last_sample=last_sample(folder / f"{flight.notebook}.samples.csv"),
                memory_limit_bytes=limits.get(flight.host or ""),
            )
    for name, record in metrics.items():
        flight = flights.get(name)
        if not (flight and flight.run_id == record.run_id and alive.get(name, True)):
            metrics[name] = _explained(settled(record), flight)
    names = list(dict.fromkeys([*metrics, *flights, *broken, *_names_of_attempts(folder)]))
    return Found(
        metrics=metrics,
        attempts={name: _attempts(folder, name) for name in names},
        flights=flights,
        fits={name: fit for name, record in metrics.items() if (fit := kept_fit(folder, record))},
        forecasts={name: made for name, record in metrics.items() if (made := kept_forecast(folder, record))},
        files={name: _files(folder, name) for name in names},
        broken=broken,
        problems=tuple(problems),
    )


def _explained(record: Metrics, flight: Flight | None) -> Metrics:
    """Add the probable cause, from the last sample, to a lost record."""
    if not record.provisional or record.status is not Status.LOST or flight is None:
        return record
    return dataclasses.replace(record, reason=f"{record.reason}; {missing.guess(flight)}")


def _wait(folder: Path, watch: Watch, seconds: float, matters: Callable[[Flight | None], bool]) -> dict[str, bool]:
    """Wait until no run is active or the time is over, and return which runs are alive."""
    deadline = time.monotonic() + seconds
    while True:
        paths = [path for path in sorted(folder.glob(f"*{RUNNING}")) if matters(_read_flight(path, []))]
        if not paths:
            return {}
        states = {path.name.removesuffix(RUNNING): lives for path, lives in watch(paths, WATCH_SECONDS).items()}
        if not any(states.values()) or time.monotonic() >= deadline:
            return states
        time.sleep(0.2)


def _read_record(path: Path, problems: list[str]) -> Metrics | str:
    """Return the record, or the reason why it cannot be read, which also becomes a problem."""
    name = path.name.removesuffix(METRICS)
    try:
        record = read_metrics(files.read(path))
        check_figures(record)
        check_name(name)
    except (OSError, ValueError, UsageError, RecursionError) as error:
        why = fault(error)
        problems.append(f"{path.name} cannot be read: {why}")
        return why
    if record.schema_version > SCHEMA_VERSION:
        problems.append(
            f"{path.name} has schema version {record.schema_version}, this version of runner reads {SCHEMA_VERSION}: "
            "unknown fields are ignored"
        )
    if record.notebook != name:
        problems.append(f"{path.name} is a record of {record.notebook!r}; it is listed under its file name")
        record = dataclasses.replace(record, notebook=name)
    return record


def _read_flight(path: Path, problems: list[str]) -> Flight | None:
    name = path.name.removesuffix(RUNNING)
    try:
        content = json.loads(files.read(path))
        return Flight(
            notebook=check_name(name),
            run_id=str(content["run_id"]),
            pid=_whole(content.get("pid")),
            host=_text(content.get("host")),
            beat=_whole(content.get("beat")),
            started_at=_text(content.get("started_at")),
            cell_index=_whole(content.get("cell_index")),
            cell_count=_whole(content.get("cell_count")),
            last_save_at=_text(content.get("last_save_at")),
            plan=_text(content.get("plan")),
            held_until=_text(content.get("held_until")),
        )
    except FileNotFoundError:
        return None  # the run ended between the listing and the reading
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read: {type(error).__name__} {fault(error)}")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """Progress of a run in its saved notebook."""

    run_id: str | None
    done: int
    """Number of completed code cells; execution counts do not show it, as they are set when a cell starts."""
    cells: tuple[Cell, ...] = ()
    """Code cells that had started; one without a duration was running at the save."""


def _read_saved(path: Path) -> _Saved | None:
    """Return the progress in a saved notebook, None if it is not a notebook."""
    try:
        document = json.loads(files.read(path))
        code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
        done = sum(1 for cell in code if (cell["metadata"].get("papermill") or {}).get("end_time"))
        run_id = (document["metadata"].get("runner") or {}).get("run_id")
        return _Saved(run_id=run_id, done=done, cells=tuple(filter(None, map(_saved_cell, range(len(code)), code))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _saved_cell(place: int, cell: dict[str, Any]) -> Cell | None:
    """Return a cell's times from papermill's metadata; its index includes dropped cells."""
    marks = cell["metadata"].get("papermill") or {}
    index = (cell["metadata"].get("runner") or {}).get("index", place)
    began, ended = marks.get("start_time"), marks.get("end_time")
    if not began or not isinstance(index, int):
        return None
    wall = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds() if ended else None
    status = CellStatus.INTERRUPTED if wall is None else CellStatus.SUCCEEDED
    if wall is not None and wall < 0:
        wall = None  # the clock stepped back within the cell
    source = cell.get("source", "")
    lines = "".join(source).splitlines()
    return Cell(
        index=index,
        id=str(cell.get("id", "")),
        status=status,
        started_at=str(began),
        wall_seconds=wall,
        title=next((line.strip() for line in lines if line.strip() and not line.startswith("#")), None),
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def last_sample(path: Path) -> LastSample | None:
    """Return the last complete sample of a file, summed over its GPUs."""
    try:
        with path.open("rb") as stream:
            header = stream.readline().decode().strip().split(",")
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    rows = [line.split(",") for line in lines[:-1]]  # the last line may be incomplete
    table = [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header) and row != header]
    try:
        last = [row for row in table if row["time_seconds"] == table[-1]["time_seconds"]]
        gpu = [int(float(row["gpu_memory_used_bytes"])) for row in last if row["gpu_memory_used_bytes"]]
        host = last[-1]["host_memory_bytes"]
        at = float(last[-1]["time_seconds"])
        return LastSample(
            time_seconds=at if math.isfinite(at) else 0.0,
            host_memory_bytes=int(float(host)) if host else None,
            gpu_memory_used_bytes=sum(gpu) if gpu else None,
        )
    except (IndexError, KeyError, ValueError, OverflowError):
        return None


def _names_of_attempts(folder: Path) -> list[str]:
    """Return the notebooks with earlier runs."""
    try:
        return sorted(path.name for path in (folder / "attempts").iterdir() if path.is_dir())
    except OSError:
        return []


def _attempts(folder: Path, name: str) -> tuple[Attempt, ...]:
    """Return the earlier runs of a notebook, oldest first; unreadable ones are omitted."""
    found = []
    for path in attempts.folders(folder, name):
        record = _read_record(path / f"{name}{METRICS}", [])
        if isinstance(record, Metrics):
            below = path.relative_to(folder).as_posix()
            kept = {kind: f"{below}/{file}" for kind, file in _files(path, name).items()}
            found.append(Attempt(metrics=settled(record), files=kept))
    return tuple(found)


def _files(folder: Path, name: str) -> dict[str, str]:
    """Return the existing files of a notebook by kind, relative to the folder."""
    endings = {
        "notebook": ".executed.ipynb",
        "html": ".html",
        "log": ".log",
        "samples": ".samples.csv",
        "dask": ".dask.htm",
        "metrics": METRICS,
    }
    found = {kind: f"{name}{ending}" for kind, ending in endings.items() if (folder / f"{name}{ending}").is_file()}
    if (folder / "attempts" / name).is_dir():
        found["attempts"] = f"attempts/{name}"
    return found
