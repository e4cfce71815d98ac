# SPDX-License-Identifier: Apache-2.0
"""`runner status`: show the progress of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.commands import options
from runner.commands.answer import answer
from runner.core.stop import ending_on_signals

if TYPE_CHECKING:
    from runner.report.overview import Overview

_EVERY_SECONDS = 2.0


@click.command("status")
@click.argument("output_dir", type=options.FOLDER, default=Path("outputs"))
@click.option(
    "--plan", type=options.FILE, help="Plan whose notebooks are listed. [default: that of the newest run-all]"
)
@click.option("--watch", is_flag=True, help="Refresh every 2 s until nothing is running.")
@options.as_json
@ending_on_signals()
def command(output_dir: Path, plan: Path | None, watch: bool, as_json: bool) -> int:
    """Show the state of each notebook of the newest run in OUTPUT_DIR, and the memory in use.

    Works from any terminal, including `docker exec` and `kubectl exec`. --json with --watch prints one line per
    refresh.

    \b
    Examples:
      runner status
      runner status outputs --watch
    """
    from runner.core.errors import UsageError
    from runner.plan.model import load
    from runner.report import overview

    loaded = load(plan) if plan else None
    names = [notebook.name for notebook in loaded.notebooks] if loaded else []

    def look() -> Overview:
        return overview.look(output_dir, names=names, plan=loaded.name if loaded else None)

    found = look()
    if not found.rows:
        raise UsageError(
            f"{output_dir} contains no runs",
            hint="give the --output-dir of the runs, or the plan of a run that has not started yet",
        )
    if not watch:
        answer(_json(found, indent=1) if as_json else "\n".join(_lines(found)))
    elif as_json:
        answer(_json(found))
        while found.running:
            time.sleep(_EVERY_SECONDS)
            found = look()
            answer(_json(found))
    else:
        _watch(found, look)
    return 0


def _watch(found: Overview, look: Callable[[], Overview]) -> None:
    """Redraw on a terminal; elsewhere print changed states only."""
    from runner.core.screen import Screen, is_screen, plain
    from runner.core.surrogates import printable
    from runner.report import overview

    if is_screen() and sys.stdout.isatty():
        lines = _lines(found)
        with Screen(lambda width, height: [plain(line)[:width] for line in lines[:height]]):
            while found.running:
                time.sleep(_EVERY_SECONDS)
                found = look()
                lines = _lines(found)
        answer("\n".join(lines))
        return
    shown: dict[str, str] = {}
    while True:
        states = {row.name: row.state for row in found.rows}
        for row in found.rows:
            if shown.get(row.name) != row.state:
                answer(printable(f"{row.name}  {row.state}  {overview.detail(row, found.as_of)}"))
        shown = states
        if not found.running:
            return
        time.sleep(_EVERY_SECONDS)
        found = look()


def _json(found: Overview, indent: int | None = None) -> str:
    import dataclasses
    import json

    document = {**dataclasses.asdict(found), "counts": found.counts, "machine": _machine()}
    return json.dumps(document, indent=indent, ensure_ascii=False)


def _machine() -> dict[str, Any]:
    """Return the current memory usage of the GPUs and of the container, or the host if it has no limit."""
    import os

    from runner.machine.gpus import DriverProblem, open_driver
    from runner.machine.host import Container, meminfo

    gpus: list[dict[str, Any]] = []
    problem = None
    try:
        with open_driver() as driver:
            for gpu in driver.visible(os.environ):
                memory = gpu.memory()
                gpus.append(
                    {
                        "index": gpu.index,
                        "uuid": gpu.uuid,
                        "name": gpu.name,
                        "used_bytes": memory.used_bytes,
                        "total_bytes": memory.total_bytes,
                    }
                )
    except DriverProblem as error:
        problem = str(error)
    container = Container()
    try:
        used, total, whole = container.used_bytes(), container.limit_bytes, meminfo()
    finally:
        container.close()
    if total is None:
        total = whole.get("MemTotal")
        used = total - whole["MemAvailable"] if total and "MemAvailable" in whole else None
    return {"gpus": gpus, "gpu_problem": problem, "host_used_bytes": used, "host_total_bytes": total}


def _lines(found: Overview) -> list[str]:
    from runner.core.units import format_bytes
    from runner.report import overview

    machine = _machine()
    gpus = [
        f"GPU {gpu['index']} {gpu['name']}: "
        f"{format_bytes(gpu['used_bytes'])} of {format_bytes(gpu['total_bytes'])} in use"
        for gpu in machine["gpus"]
    ]
    used, total = (format_bytes(machine[key]) for key in ("host_used_bytes", "host_total_bytes"))
    return [*overview.text(found), *(gpus or ["no GPU"]), f"host memory: {used} of {total} in use"]
