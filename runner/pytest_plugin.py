# SPDX-License-Identifier: Apache-2.0
"""`pytest --runner`: run each notebook as a test, which passes only if `runner run` succeeds.

pytest loads this plugin in every session, so it imports nothing else of the project.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the plugin."""
    group = parser.getgroup("runner", "notebooks as tests")
    group.addoption("--runner", action="store_true", help="Collect notebooks (*.ipynb) and run each with `runner run`.")
    group.addoption(
        "--runner-args", default="", metavar="TEXT", help="Options of `runner run`, as in --runner-args='--timeout 1h'."
    )
    group.addoption("--runner-output-dir", metavar="DIR", help="Keep records and pages here (default: delete them).")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> NotebookFile | None:
    """Return a collector for a notebook, None for executed notebooks and checkpoints."""
    wanted = file_path.suffix == ".ipynb" and not file_path.name.endswith(".executed.ipynb")
    if wanted and parent.config.getoption("runner") and ".ipynb_checkpoints" not in file_path.parts:
        return NotebookFile.from_parent(parent, path=file_path)
    return None


class NotebookFile(pytest.File):
    """A notebook's file."""

    def collect(self) -> Iterator[NotebookItem]:
        """Yield its one test."""
        yield NotebookItem.from_parent(self, name="notebook")


class NotebookFailed(Exception):  # noqa: N818  (a test's failure, not an error of the plugin)
    """A notebook did not succeed; the message is the report."""


class NotebookItem(pytest.Item):
    """A notebook as a test."""

    def runtest(self) -> None:
        """Run it in a separate process.

        Raises
        ------
        NotebookFailed
            Its status is neither `succeeded` nor `skipped`.
        """
        root = self.config.rootpath
        inside = self.path.relative_to(root) if self.path.is_relative_to(root) else Path(self.path.name)
        name = "__".join(inside.with_suffix("").parts)
        kept = self.config.getoption("runner_output_dir")
        with tempfile.TemporaryDirectory(prefix="runner-pytest-") as temporary:
            folder = Path(root, kept) if kept else Path(temporary)
            arguments = [
                "--name",
                name,
                "--output-dir",
                str(folder),
                *shlex.split(self.config.getoption("runner_args")),
            ]
            # With pytest's variables set, ipykernel does not capture the output of processes.
            environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
            done = subprocess.run(
                [sys.executable, "-P", "-m", "runner", "run", str(self.path), *arguments],
                env=environ, capture_output=True, text=True, errors="replace", check=False,
            )  # fmt: skip
            record = _record(folder / f"{name}.metrics.json") if done.returncode != 2 else {}
        self.add_report_section("call", "runner", done.stderr)
        if done.returncode:
            raise NotebookFailed(_shown(record, done))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the cell's traceback instead of the plugin's."""
        if isinstance(excinfo.value, NotebookFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return the name of the test in reports."""
        return self.path, None, str(self.path.name)


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _shown(record: dict[str, Any], done: subprocess.CompletedProcess[str]) -> str:
    """Return traceback, reason and hint from the record, else the command's stderr."""
    if not record:
        return done.stderr.strip() or f"runner ended with {done.returncode}"
    failure = record.get("failure") or {}
    hint = f"hint: {failure['hint']}" if failure.get("hint") else None
    parts = [failure.get("traceback_tail"), f"{record.get('status')}: {record.get('reason')}", hint]
    return "\n".join(part for part in parts if part)
