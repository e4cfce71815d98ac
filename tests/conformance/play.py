# SPDX-License-Identifier: Apache-2.0
"""Puts one case to one engine: a folder of its own, a clean environment, the act from outside, what is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
from simdriver import COMPILER, NO_COMPILER, Device, SimulatedDriver

from conformance.engines import MARKER, Ended, Engine, Runner
from conformance.truths import Act, Case, Cell, Gpu, Place, Target

LIMIT_SECONDS = 60
"""After this an engine hangs; far beyond every deadline and act of the table."""
NO_DEADLINE_SECONDS = 20
"""The same for an engine without a deadline in a case that needs one: it hangs by nature."""
GONE_SECONDS = 10
"""How long processes may take to end after their engine."""
SMALL_FILE_BYTES = 200_000
SMALL_MEMORY_BYTES = 700 * 10**6
TAG = "CONFORMANCE_TAG"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where things are for all runs of a session."""

    work: Path
    """Folder for everything that runs make."""
    kernels: Path
    """A folder for JUPYTER_PATH with the kernels of the cases."""

    @classmethod
    def make(cls, work: Path, kernel_python: Path) -> Bench:
        """Install the kernels of the cases below ``work``."""
        commands = {
            "conformance": [str(kernel_python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "dead": ["false", "{connection_file}"],
        }
        for name, argv in commands.items():
            spec = {"argv": argv, "display_name": name, "language": "python"}
            folder = work / "jupyter" / "kernels" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "kernel.json").write_text(json.dumps(spec))
        return cls(work=work, kernels=work / "jupyter")


def impossible(case: Case) -> str | None:
    """Return why a case cannot be shown on this machine, None if it can."""
    if case.place is Place.SMALL_MEMORY and not _can_limit_memory():
        return "no memory limit can be set here"
    return NO_COMPILER if case.ask and case.ask.gpu and not COMPILER else None


def play(case: Case, engine: Engine, bench: Bench) -> Ended:
    """Run the case's notebook with the engine and return what was left."""
    folder = Path(tempfile.mkdtemp(prefix=f"{case.name}-", dir=bench.work))
    tag = uuid.uuid4().hex
    before = _write_inputs(case, folder)
    environ = _environ(case, folder, bench) | {TAG: tag}
    try:
        code, words = _run(case, engine, folder, environ)
        left = _left(tag)
        report = _report(engine, folder, environ) if case.status == "lost" and isinstance(engine, Runner) else None
    finally:
        _end(tag)
    saved, damaged = _saved(folder / engine.saves_to, before)
    return Ended(folder=folder, code=code, words=words, left=left, saved=saved, damaged=damaged, report=report)


def document(case: Case) -> dict[str, Any]:
    """Return the notebook of a case; each code cell ends with the comment that names it."""
    cells = []
    for place, given in enumerate(case.cells, 1):
        cell = given if isinstance(given, Cell) else Cell(source=given)
        source = f"{cell.source}\n{MARKER.format(place)}" if cell.source.strip() else cell.source
        made = {"cell_type": "code", "execution_count": None, "metadata": {}, "source": source}
        made |= {"metadata": {"tags": list(cell.tags)}} if cell.tags else {}
        made |= {"id": f"cell-{place}"} if case.cell_ids else {}
        cells.append({**made, "outputs": list(cell.outputs)})
    spec = {"display_name": case.kernel, "language": "python", "name": case.kernel}
    return {
        "cells": cells,
        "metadata": {"kernelspec": spec},
        "nbformat": 4,
        "nbformat_minor": 5 if case.cell_ids else 4,
    }


def _write_inputs(case: Case, folder: Path) -> bytes:
    text = json.dumps(document(case)) if case.document is None else case.document
    (folder / "in.ipynb").write_text(text)
    for name in ("tmp", "home"):
        (folder / name).mkdir()
    if case.ask and case.ask.plan:
        entry = {"name": "in", "path": "in.ipynb", **case.ask.plan}
        (folder / "plan.yaml").write_text(json.dumps({"version": 1, "name": "conformance", "notebooks": [entry]}))
    return text.encode()


def _environ(case: Case, folder: Path, bench: Bench) -> dict[str, str]:
    """Return an environment that owes nothing to the caller's, bar the search path."""
    environ = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "JUPYTER_PATH": str(bench.kernels),
        "HERE": str(folder / "here"),
        "PLOOMBER_STATS_ENABLED": "false",
    }
    if case.ask and case.ask.gpu:
        environ |= _gpu(case.ask.gpu, folder, bench)
    return environ


def _gpu(gpu: Gpu, folder: Path, bench: Bench) -> dict[str, str]:
    driver = SimulatedDriver(folder, bench.work)
    errors = {"*": "gpu-is-lost"} if gpu.lost else {}
    driver.write(Device(total_bytes=gpu.total_bytes, reserved_bytes=0, used_bytes=gpu.used_bytes, errors=errors))
    return driver.env


def _run(case: Case, engine: Engine, folder: Path, environ: dict[str, str]) -> tuple[int | None, str]:
    seconds = LIMIT_SECONDS if engine.has_deadline or not case.deadline else NO_DEADLINE_SECONDS
    printed = folder / "printed"
    with _place(case.place, folder) as enter, printed.open("wb") as stream:
        full = case.place is Place.FULL_STDIO
        with Path("/dev/full").open("wb") as device:
            process = subprocess.Popen(
                engine.command(case),
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=device if full else stream,
                stderr=device if full else stream,
                start_new_session=True,
                preexec_fn=enter,  # noqa: PLW1509  (nothing but system calls)
            )
        deadline = time.monotonic() + seconds
        if case.act:
            _act(case.act, process, folder / "here", deadline)
        try:
            code: int | None = process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    words = printed.read_bytes()[-2_000_000:].decode(errors="replace")
    return code, re.sub(r"\x1b\[[0-9;]*m", "", words)


def _act(act: Act, process: subprocess.Popen[bytes], here: Path, deadline: float) -> None:
    """Wait for the cell to be at work and send the signal."""
    while not (here.exists() and here.read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            return
        time.sleep(0.05)
    time.sleep(act.after_seconds)
    with contextlib.suppress(ProcessLookupError):
        if act.target is Target.KERNEL:
            os.kill(int(here.read_text()), act.number)
        elif act.target is Target.TERMINAL:
            os.killpg(process.pid, act.number)
        else:
            process.send_signal(act.number)


@contextlib.contextmanager
def _place(place: Place, folder: Path) -> Iterator[Callable[[], None] | None]:
    """Give what the engine's process does before it becomes the engine."""
    if place is Place.SMALL_FILES:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE_BYTES, SMALL_FILE_BYTES))
    elif place is Place.SMALL_MEMORY:
        group = _memory_group()
        assert group is not None
        member = str(group / "cgroup.procs")
        yield lambda: _write(member, str(os.getpid()))
        until = time.monotonic() + GONE_SECONDS
        while group.exists() and time.monotonic() < until:
            with contextlib.suppress(OSError):
                group.rmdir()
            time.sleep(0.1)
    else:
        yield None


def _memory_group() -> Path | None:
    """Make a group of processes with a memory limit; None where that is not allowed."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / f"conformance-{uuid.uuid4().hex}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            (group / limit).write_text(str(SMALL_MEMORY_BYTES))
            return group
        group.rmdir()
    return None


def _can_limit_memory() -> bool:
    group = _memory_group()
    if group:
        group.rmdir()
    return group is not None


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY)
    os.write(handle, text.encode())
    os.close(handle)


def _tagged(tag: str) -> list[psutil.Process]:
    """Return the live processes that carry the tag in their environment."""
    found = []
    wanted = f"{TAG}={tag}".encode()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found.append(process)
    return found


def _left(tag: str) -> tuple[str, ...]:
    deadline = time.monotonic() + GONE_SECONDS
    while (found := _tagged(tag)) and time.monotonic() < deadline:
        time.sleep(0.2)
    names = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            names.append(" ".join(process.cmdline())[:200])
    return tuple(names)


def _end(tag: str) -> None:
    """Kill what is left, so that it does not disturb the next run."""
    while found := _tagged(tag):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        time.sleep(0.1)


def _report(engine: Engine, folder: Path, environ: dict[str, str]) -> dict[str, Any] | None:
    command = [engine.program("runner"), "report", "out", "--wait-for-running", "20s"]
    subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=LIMIT_SECONDS, check=False)
    summary = folder / "out" / "reports" / "summary.json"
    entries = json.loads(summary.read_bytes())["notebooks"] if summary.exists() else []
    return next((entry for entry in entries if entry["name"] == "in"), None)


def _saved(path: Path, before: bytes) -> tuple[dict[str, Any] | None, str | None]:
    """Return the saved notebook, or what is wrong with the file; a source left alone is no saved notebook."""
    if not path.is_file() or path.read_bytes() == before:
        return None, None
    try:
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)
    except Exception as error:  # noqa: BLE001  (whatever is wrong with it, it is not whole)
        return None, f"{path.name} is not whole: {str(error)[:200]}"
    return notebook, None


def remove(ended: Ended) -> None:
    """Delete what a run left."""
    shutil.rmtree(ended.folder, ignore_errors=True)
