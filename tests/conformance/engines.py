# SPDX-License-Identifier: Apache-2.0
"""The engines: how each is called, where it saves, and where it says which cell was at fault.

Each gets its best options: a deadline where it has one, and saving after a failure where it
can. An engine blames a cell where a person can read it: in the saved notebook's marks or in
the words on the terminal.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from conformance.truths import CELL_SECONDS, Case

MARKER = "# cell {}"
"""The comment that ends each cell; an engine that prints a cell's source names it by this."""
CODES = {
    "succeeded": 0,
    "skipped": 0,
    "failed": 1,
    "refused": 3,
    "timed-out": 4,
    "kernel-died": 5,
    "incomplete": 6,
    "unexpected-results": 7,
    "not-released": 8,
    "broken-input": 9,
}
"""The exit codes of `runner run`, by status; signals and usage errors have theirs in the case."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What one engine left of one case."""

    folder: Path
    code: int | None
    """The exit code, negative for a signal; None for an engine that the harness had to kill."""
    words: str
    """What it printed, without colours."""
    left: tuple[str, ...] = ()
    """Command lines of processes that outlived it."""
    saved: dict[str, Any] | None = None
    """The saved notebook; None where there is none."""
    damaged: str | None = None
    """Why the saved file is not whole."""
    report: dict[str, Any] | None = None
    """What `runner report` says of it, where the case asks for that."""

    def code_cells(self) -> list[dict[str, Any]]:
        """Return the saved code cells that the source has."""
        cells = (self.saved or {}).get("cells", [])
        made = ("injected-parameters", "papermill-error-cell-tag")
        return [
            c for c in cells if c["cell_type"] == "code" and not set(made) & set(c.get("metadata", {}).get("tags", []))
        ]


class Engine(ABC):
    """One way to run a notebook from the command line."""

    key: ClassVar[str]
    title: ClassVar[str]
    ours: ClassVar[bool] = False
    has_deadline: ClassVar[bool] = True
    saves_to: ClassVar[str] = "out.ipynb"
    limits: ClassVar[Mapping[str, str]] = {}
    """Case -> why one of our own engines cannot be right about it; it counts as wrong all the same."""

    def __init__(self, *, ours: Path, peers: Path) -> None:
        self.programs = ours if self.ours else peers

    def program(self, name: str) -> str:
        """Return the path of a program of the engine's environment."""
        return str(self.programs / name)

    def applies(self, case: Case) -> bool:
        """Return True if the case can be put to this engine."""
        return case.ask is None

    @abstractmethod
    def command(self, case: Case) -> list[str]:
        """Return the command line, to be run in the case's folder, where the notebook is `in.ipynb`."""

    def blamed(self, ended: Ended) -> set[int]:
        """Return the cells that the engine names as being at fault: here, by printing their source."""
        return {int(n) for n in re.findall(r"# cell (\d+)\b", ended.words)} if ended.code != 0 else set()

    def wrong_code(self, case: Case, ended: Ended) -> str | None:
        """Return what is wrong about the exit code; here, whether it is 0 exactly for a success."""
        if (ended.code == 0) != (case.status == "succeeded"):
            return f"exit code {ended.code} for {case.status}"
        return None


class Papermill(Engine):
    """papermill with the engine it ships."""

    key, title = "papermill", "papermill"

    def command(self, case: Case) -> list[str]:
        """Return the command line."""
        deadline = ["--execution-timeout", str(CELL_SECONDS)] if case.deadline else []
        return [self.program("papermill"), "in.ipynb", "out.ipynb", "--no-progress-bar", *deadline]

    def blamed(self, ended: Ended) -> set[int]:
        """Return cells whose metadata says that they failed or are still at work."""
        marks = [cell["metadata"].get("papermill", {}) for cell in ended.code_cells()]
        return {
            place
            for place, mark in enumerate(marks, 1)
            if mark.get("exception") or mark.get("status") in {"failed", "running"}
        }


class PapermillRunner(Papermill):
    """papermill with this project's engine."""

    key, title, ours = "papermill-runner", "papermill --engine runner", True
    limits: ClassVar[Mapping[str, str]] = {
        "raises-exception": "papermill judges error outputs itself, after the engine, and knows no such tag",
        "exit-0": "papermill takes SystemExit with code 0 for a success, and its users rely on it",
        "exit-last": "papermill takes SystemExit with code 0 for a success, and its users rely on it",
        "stdout-full": "papermill's own command flushes its streams at its end, and Python then exits with 120",
        "cannot-save": "the last write is papermill's, in place",
    }

    def command(self, case: Case) -> list[str]:
        """Return the command line."""
        return [*super().command(case), "--engine", "runner"]


class Runner(Engine):
    """`runner run`; held to its own exit codes, record and report as well."""

    key, title, ours = "runner", "runner run", True
    saves_to = "out/in.executed.ipynb"

    def applies(self, case: Case) -> bool:
        """Return True: every case is ours as well."""
        return True

    def command(self, case: Case) -> list[str]:
        """Return the command line."""
        ask = case.ask
        what = ["in", "--plan", "plan.yaml"] if ask and ask.plan else ["in.ipynb"]
        deadline = ["--cell-timeout", f"{CELL_SECONDS}s"] if case.deadline else []
        options = ask.options if ask else ()
        return [self.program("runner"), "run", *what, "--output-dir", "out", "--no-html", *deadline, *options]

    def record(self, ended: Ended) -> dict[str, Any] | None:
        """Return the metrics; None where there are none."""
        path = ended.folder / "out" / "in.metrics.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def blamed(self, ended: Ended) -> set[int]:
        """Return cells that the record calls failed or interrupted; for a lost run, those that the report names."""
        record = self.record(ended)
        cells = record["cells"] if record else []
        named = {place for place, cell in enumerate(cells, 1) if cell["status"] in {"failed", "interrupted"}}
        if not record and ended.report:
            named = {int(n) for n in re.findall(r"\bcell (\d+)", ended.report["reason"])}
        return named

    def wrong_code(self, case: Case, ended: Ended) -> str | None:
        """Return where exit code, record and report differ from the contract."""
        code = CODES.get(case.status) if case.code is None else case.code
        if ended.code != code:
            return f"exit code {ended.code} instead of {code} for {case.status}"
        record, status = self.record(ended), case.status
        if code == 2:
            return "a usage error left a record" if record else None
        if record and (record["status"], record["exit_code"]) != (status, code):
            return f"the record says {record['status']} and {record['exit_code']}, it is {status} and {code}"
        if ended.report and ended.report["status"] != status:
            return f"the report says {ended.report['status']}, it is {status}"
        return None if record or ended.report else "there is no record"


class JupyterExecute(Engine):
    """nbclient's own command. It saves nothing after a failure."""

    key, title = "jupyter-execute", "jupyter execute"

    def command(self, case: Case) -> list[str]:
        """Return the command line."""
        deadline = [f"--timeout={CELL_SECONDS}"] if case.deadline else []
        return [self.program("jupyter-execute"), "in.ipynb", "--output=out", *deadline]


class Nbmake(Engine):
    """A plugin of pytest that runs notebooks as tests and can write them back."""

    key, title = "nbmake", "nbmake"
    saves_to = "in.ipynb"

    def command(self, case: Case) -> list[str]:
        """Return the command line."""
        deadline = [f"--nbmake-timeout={CELL_SECONDS}"] if case.deadline else []
        fixed = ["-p", "no:cacheprovider", "--rootdir=.", "--nbmake", "--overwrite"]
        return [self.program("python"), "-m", "pytest", *fixed, *deadline, "in.ipynb"]


class PloomberEngine(Engine):
    """An engine without a kernel: it runs the cells in its own process, and has no deadline."""

    key, title, has_deadline = "ploomber-engine", "ploomber-engine", False

    def command(self, case: Case) -> list[str]:
        """Return the command line."""
        return [self.program("ploomber-engine"), "in.ipynb", "out.ipynb"]

    def blamed(self, ended: Ended) -> set[int]:
        """Return the cell of its banner; without a saved notebook, that of its last line of progress."""
        if ended.code == 0:
            return set()
        text = json.dumps((ended.saved or {}).get("cells", []))
        named = re.findall(r"An Exception has occured at cell (\d+)", text)  # codespell:ignore occured
        return {int(n) for n in named or re.findall(r"Executing cell: (\d+)", ended.words)[-1:]}


ENGINES: tuple[type[Engine], ...] = (Runner, PapermillRunner, Papermill, JupyterExecute, Nbmake, PloomberEngine)
"""Every engine, in the order of the table; ours first."""
