# SPDX-License-Identifier: Apache-2.0
"""`--on-end`: a command that is told how a run ended, and cannot change it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from support import cli, notebooks

from runner.commands import on_end

NOTE = """
import json, os, sys
told = {key: value for key, value in os.environ.items() if key.startswith("RUNNER_END_")}
with open("told.jsonl", "a") as stream:
    stream.write(json.dumps({"argv": sys.argv[1:], "env": told}) + "\\n")
print("from the hook")
"""


def noting(folder: Path, *more: str) -> str:
    """Return a command that notes what it is told."""
    (folder / "note it.py").write_text(NOTE)
    return shlex.join([sys.executable, str(folder / "note it.py"), *more])


def told(folder: Path) -> list[dict]:
    path = folder / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(("cell", "status", "code"), [("1", "succeeded", 0), ("raise ValueError", "failed", 1)])
def test_a_run_tells_record_and_status(tmp_path: Path, cell: str, status: str, code: int) -> None:
    """As arguments behind its own, and in the environment; what it prints is not the answer."""
    notebooks.write(tmp_path / "n.ipynb", cell)
    hook = noting(tmp_path, "$(touch shell)", "; touch shell")
    ended = cli.runner("run", "n.ipynb", "--no-html", "--on-end", hook, cwd=tmp_path)
    assert ended.code == code, ended.err
    record = str(tmp_path / "outputs" / "n.metrics.json")
    (one,) = told(tmp_path)
    assert one["argv"] == ["$(touch shell)", "; touch shell", record, status]
    assert one["env"] == {
        "RUNNER_END_RECORD": record,
        "RUNNER_END_STATUS": status,
        "RUNNER_END_EXIT_CODE": str(code),
    }
    assert not (tmp_path / "shell").exists()
    assert "from the hook" in ended.err
    assert "from the hook" not in ended.out


def test_a_plan_tells_its_summary_once(tmp_path: Path) -> None:
    for name, cell in {"a": "1", "b": "raise ValueError"}.items():
        notebooks.write(tmp_path / f"{name}.ipynb", cell)
    entries = [{"name": name, "path": f"{name}.ipynb"} for name in "ab"]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"version": 1, "name": "small", "notebooks": entries}))
    ended = cli.runner("run-all", "plan.yaml", "--no-html", "--on-end", noting(tmp_path), cwd=tmp_path)
    assert ended.code == 1, ended.err
    (one,) = told(tmp_path)
    assert one["argv"] == [str(tmp_path / "outputs" / "reports" / "summary.json"), "failed"]


def test_a_command_that_fails_is_a_warning(tmp_path: Path) -> None:
    notebooks.write(tmp_path / "n.ipynb", "1")
    hook = shlex.join([sys.executable, "-c", "raise SystemExit(3)", "--token=hunter2"])
    ended = cli.runner("run", "n.ipynb", "--no-html", "--on-end", hook, cwd=tmp_path)
    assert ended.code == 0
    assert "on-end level=warning" in ended.err
    assert "exit_code=3" in ended.err
    assert "hunter2" not in ended.err
    assert cli.runner("verify", "outputs", cwd=tmp_path).code == 0, "nothing was logged after the sums"


@pytest.mark.parametrize("hook", ["no-such-command", "'open", "", "./plan.yaml"])
def test_a_command_that_cannot_work_is_refused_before_anything_runs(tmp_path: Path, hook: str) -> None:
    notebooks.write(tmp_path / "n.ipynb", "1")
    ended = cli.runner("run", "n.ipynb", f"--on-end={hook}", cwd=tmp_path)
    assert ended.code == 2
    assert "--on-end" in ended.err
    assert not (tmp_path / "outputs").exists()


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import subprocess, sys, time\nsubprocess.Popen(['sleep', '600']); open('up', 'w').close(); time.sleep(600)"
    )
    words = (sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r})\n{script}")
    on_end.call(words, None, "succeeded", 0, seconds=5)
    assert "killed: still running after" in capfd.readouterr().err
    assert (tmp_path / "up").exists()
    mine = [p for p in Path("/proc").glob("[0-9]*") if _cwd(p) == tmp_path]
    cli.until(lambda: not [p for p in mine if p.exists() and "Z" not in _state(p)], "the end of its children")


def _cwd(process: Path) -> Path | None:
    try:
        return (process / "cwd").readlink()
    except OSError:
        return None


def _state(process: Path) -> str:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_command_that_vanished_is_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    on_end.call(("/no/such/command",), None, "succeeded", 0)
    assert "cannot be started" in capfd.readouterr().err
