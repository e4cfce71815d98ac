# SPDX-License-Identifier: Apache-2.0
"""The world of one iteration: a checkout, an output folder with an earlier success, processes with a tag.

Everything random comes from the seed. A `Moment` is an event that can be seen from outside (a
file appears) and a delay, so that the same seed hits the same stage on a slow machine as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from support import notebooks

RUNNER = [sys.executable, "-m", "runner"]
PATIENCE_SECONDS = 120
GONE_SECONDS = 15
TAG = "SOAK_TAG"
NAME = "n"

MARK = "import os, pathlib, sys, subprocess, time\nmarks = pathlib.Path(os.environ['MARKS'])\n"
CELLS = (
    MARK + "(marks / 'kernel').write_text(str(os.getpid()))\nprint('first')",
    "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    "(marks / 'child').write_text(str(child.pid))\nprint('second')",
    "for i in range(20):\n    print('tick', i, flush=True)\n    time.sleep(0.05)\n    if child.poll() is not None: raise RuntimeError('the child is gone')",
    "pathlib.Path('made.csv').write_text('a,b\\n' * 1000)\n(marks / 'done').write_text('')\nprint('last')",
)
"""A healthy notebook that leaves a child behind and makes a product."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a fault comes: so long after an event."""

    event: str
    delay_seconds: float

    def __str__(self) -> str:
        return f"{self.event}+{self.delay_seconds:.2f}s"


# Event -> the longest delay after it. Together they reach into every stage of a run.
EVENTS = {"spawn": 2.5, "claim": 1.0, "kernel": 0.5, "child": 1.2, "done": 0.6, "record": 0.6, "page": 0.4}


@dataclass(kw_only=True)
class Story:
    """What a scenario did and what may follow from it."""

    code: int | None = None
    """The exit code of the run that the fault hit, negative for a signal."""
    allowed: frozenset[str] | None = None
    """Statuses that may follow; None: any, as long as all agree."""
    moment: str = ""
    exempt: frozenset[str] = frozenset()
    """Names of files in the output folder that the fault itself removed, damaged or made."""
    names: tuple[str, ...] = (NAME,)
    untouched: bool = False
    """Whether the run had to leave the output folder as it was."""
    words: str = ""
    """What the run printed."""
    notes: list[str] = field(default_factory=list)
    """Violations that the scenario saw itself."""


class World:
    """A folder for one iteration and the processes in it."""

    def __init__(self, folder: Path, seed: int, earlier: Path | None = None) -> None:
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self.tag = uuid.uuid4().hex
        self.checkout = folder / "checkout"
        self.out = folder / "out"
        self.marks = folder / "marks"
        self.temporary = folder / "tmp"
        for made in (self.checkout, self.out, self.marks, self.temporary):
            made.mkdir(parents=True)
        self.notebook(*CELLS)
        self.extra: dict[str, str] = {}
        self._before: dict[Path, tuple[int, int]] = {}
        if earlier:
            shutil.copytree(earlier, self.out, dirs_exist_ok=True)
        self.earlier = self.hashes()
        self.earlier_run = (self.record() or {}).get("run_id")

    def notebook(self, *cells: str, name: str = NAME) -> Path:
        """Write a notebook of the checkout."""
        return notebooks.write(self.checkout / f"{name}.ipynb", *cells)

    def plan(self, *names: str) -> Path:
        """Write a plan over notebooks, each of which has to make its product."""
        entries = [{"name": name, "path": f"{name}.ipynb", "expect": {"files": ["made.csv"]}} for name in names]
        path = self.checkout / "plan.yaml"
        path.write_text(json.dumps({"version": 1, "name": "soak", "notebooks": entries}))
        return path

    def environ(self) -> dict[str, str]:
        """Return an environment that owes nothing to the caller's, bar the search path."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.temporary),
            "MARKS": str(self.marks),
            "RUNNER_LOCK_DIR": str(self.folder / "locks"),
            TAG: self.tag,
            **self.extra,
        }

    def start(self, *arguments: object, name: str = NAME, **how: Any) -> subprocess.Popen[bytes]:
        """Start `runner run` on a notebook of the checkout."""
        return self.command("run", self.checkout / f"{name}.ipynb", "--output-dir", self.out, *arguments, **how)

    def command(self, *arguments: object, **how: Any) -> subprocess.Popen[bytes]:
        """Start any command."""
        self._before = {path: _identity(path) for path in self.out.glob("*") if path.is_file()}
        printed = (self.folder / "printed").open("ab")
        given = {"stdout": printed, "stderr": printed, "stdin": subprocess.DEVNULL, **how}
        with printed:
            return subprocess.Popen(
                [*RUNNER, *map(str, arguments)], env=self.environ(), cwd=self.folder, start_new_session=True, **given
            )

    def finish(self, process: subprocess.Popen[bytes], seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for a process; one that hangs is killed and its code is -99, which no invariant allows."""
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -99

    def words(self) -> str:
        """Return what commands printed."""
        return (self.folder / "printed").read_text(errors="replace")[-20_000:]

    def moment(self, *events: str) -> Moment:
        """Choose a moment."""
        event = self.random.choice(events or tuple(EVENTS))
        return Moment(event=event, delay_seconds=self.random.uniform(0, EVENTS[event]))

    def reach(self, process: subprocess.Popen[bytes], moment: Moment) -> bool:
        """Wait for a moment; False when the process ended before."""
        path = {
            "claim": self.out / f"{NAME}.running",
            "record": self.out / f"{NAME}.metrics.json",
            "page": self.out / f"{NAME}.html",
        }.get(moment.event, self.marks / moment.event)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while moment.event != "spawn" and not self._fresh(path):
            if process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment.delay_seconds)
        return process.poll() is None

    def _fresh(self, path: Path) -> bool:
        """Return True if a file was made by this run and not copied with the earlier ones."""
        try:
            return _identity(path) != self._before.get(path)
        except OSError:
            return False

    def pid(self, mark: str) -> int | None:
        """Return the pid that the notebook left in a mark; None if it did not come so far."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.marks / mark).read_text())
        return None

    def send(self, pid: int | None, number: signal.Signals) -> None:
        """Send a signal to a process of ours that may be gone."""
        with contextlib.suppress(psutil.Error, ProcessLookupError, OSError):
            if pid and f"{TAG}={self.tag}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, number)

    def hashes(self) -> dict[str, str]:
        """Return path -> content hash of every file in the output folder."""
        found = {}
        for path in sorted(self.out.rglob("*")):
            if path.is_file() and not path.is_symlink() and "reports" not in path.parts:
                found[str(path.relative_to(self.out))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def record(self, name: str = NAME) -> Mapping[str, Any] | None:
        """Return the record of a notebook; None where there is none that can be read."""
        try:
            return json.loads((self.out / f"{name}.metrics.json").read_bytes())
        except (OSError, ValueError):
            return None

    def report(self, *arguments: object) -> tuple[int, dict[str, dict[str, Any]]]:
        """Write the report and return its exit code and name -> entry of the summary."""
        code = self.finish(self.command("report", self.out, "--fail-on-failure", *arguments))
        try:
            summary = json.loads((self.out / "reports" / "summary.json").read_bytes())
        except (OSError, ValueError):
            return code, {}
        return code, {entry["name"]: entry for entry in summary["notebooks"]}

    def _tagged(self) -> list[tuple[psutil.Process, str]]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if f"{TAG}={self.tag}".encode() in environ and process.status() != psutil.STATUS_ZOMBIE:
                    found.append((process, f"{process.pid} {' '.join(process.cmdline())[:120]}"))
        return found

    def wait_gone(self) -> list[str]:
        """Return what is still running after a generous wait."""
        return self._wait_gone(lambda *_: True)

    def wait_kernel_gone(self) -> list[str]:
        """Return the kernel if it is still running after a generous wait."""
        pid = self.pid("kernel")
        return self._wait_gone(lambda process, _: process.pid == pid)

    def wait_runs_gone(self) -> list[str]:
        """Return the runs that still wind down after a generous wait: those of a killed run-all end by themselves."""
        return self._wait_gone(lambda _, line: " -m runner.fork_server " in line)

    def _wait_gone(self, which: Callable[[psutil.Process, str], bool]) -> list[str]:
        deadline = time.monotonic() + GONE_SECONDS
        while (found := [line for process, line in self._tagged() if which(process, line)]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.2)
        return found

    def end(self) -> None:
        """Kill what is left."""
        while found := self._tagged():
            for process, _ in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.05)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_ino, status.st_ctime_ns
