# SPDX-License-Identifier: Apache-2.0
"""Each way in which a notebook can end has its status, exit code, record and page."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import cli, notebooks


@dataclass(frozen=True)
class Case:
    """A notebook, and what must be said of it."""

    cells: tuple
    status: str
    code: int
    cell_statuses: tuple[str, ...]
    cell_index: int | None = None
    cause: str | None = None
    signal: str | None = None
    reason: str = ""
    options: tuple[str, ...] = field(default=())


OK, FAILED, NOT_RUN, INTERRUPTED = "succeeded", "failed", "not-run", "interrupted"

CASES = {
    "all-well": Case(("1 + 1", "print('x')"), "succeeded", 0, (OK, OK), reason="all cells ran"),
    "cell-raises": Case(
        ("1", "raise ValueError('no such gene')", "2"),
        "failed", 1, (OK, FAILED, NOT_RUN), 1, "exception", None, "ValueError in cell 2: no such gene",
    ),
    "allowed-exception": Case(
        (notebooks.code("1 / 0", tags=["raises-exception"]), "2"), "succeeded", 0, (OK, OK)
    ),
    "blank-cells": Case(("1", "  \n", "raise OSError('x')", ""), "failed", 1, (OK, OK, FAILED, NOT_RUN), 2, "exception"),
    "kernel-killed": Case(
        ("1", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "2"),
        "kernel-died", 5, (OK, INTERRUPTED, NOT_RUN), 1, "killed", "SIGKILL", "the kernel died in cell 2 by SIGKILL",
    ),
    "segfault": Case(
        ("import ctypes; ctypes.string_at(0)",), "kernel-died", 5, (INTERRUPTED,), 0, "segfault", "SIGSEGV", "by SIGSEGV"
    ),
    "exits-by-code": Case(
        ("import os; os._exit(3)", "2"), "incomplete", 6, (INTERRUPTED, NOT_RUN), 0, None, None, "with code 3"
    ),
    "sys-exit-in-the-middle": Case(
        ("import sys; sys.exit(0)", "2"), "incomplete", 6, (FAILED, NOT_RUN), 0, None, None, "in cell 1 by SystemExit(0)"
    ),
    "sys-exit-in-the-last-cell": Case(("1", "raise SystemExit(4)"), "incomplete", 6, (OK, FAILED), 1, reason="SystemExit(4)"),
    "sys-exit-where-exceptions-are-allowed": Case(
        (notebooks.code("import sys; sys.exit(1)", tags=["raises-exception"]), "2"), "incomplete", 6, (FAILED, NOT_RUN), 0
    ),
    "quit-in-the-middle": Case(("quit()", "2"), "incomplete", 6, (FAILED, NOT_RUN), 0, reason="SystemExit(quit)"),
    "cell-deadline": Case(
        ("1", "import time; time.sleep(60)", "2"),
        "timed-out", 4, (OK, INTERRUPTED, NOT_RUN), 1, None, None, "the cell did not end within 1.0s in cell 2",
        ("--cell-timeout", "1s"),
    ),
    "notebook-deadline": Case(
        ("import time; time.sleep(1)",) * 30, "timed-out", 4, (), None, None, None, "the notebook did not end within 4.0s",
        ("--timeout", "4s"),
    ),
    "ignores-interrupts": Case(
        ("import time\nwhile True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass", "2"),
        "timed-out", 4, (INTERRUPTED, NOT_RUN), 0, None, None, "the cell did not end within 1.0s", ("--cell-timeout", "1s"),
    ),
    "catches-the-interrupt": Case(
        ("1", "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('caught')", "2"),
        "timed-out", 4, (OK, INTERRUPTED, NOT_RUN), 1, None, None, "the cell did not end within 1.0s in cell 2",
        ("--cell-timeout", "1s"),
    ),
    "missing-module": Case(("import not_there",), "failed", 1, (FAILED,), 0, "missing-module", reason="not_there"),
    "missing-file": Case(("open('h5/not_there.h5ad')",), "failed", 1, (FAILED,), 0, "missing-file"),
    "asks-for-input": Case(("input('name? ')",), "failed", 1, (FAILED,), 0, "exception", reason="StdinNotImplementedError"),
    "interrupts-itself": Case(("raise KeyboardInterrupt", "2"), "failed", 1, (FAILED, NOT_RUN), 0, "exception"),
    "no-answer": Case(
        ("1",), "kernel-died", 5, (NOT_RUN,), None, "missing-module", None, "the kernel never answered", ("--env", "PYTHONHOME=/nowhere")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_end_is_told_by_status_exit_code_record_notebook_and_page(name: str, tmp_path: Path) -> None:
    """The exit code, the metrics, the notebook's metadata and banners, and the HTML agree."""
    case = CASES[name]
    source = notebooks.write(tmp_path / "n.ipynb", *case.cells)
    before = source.read_bytes()

    ended = cli.runner("run", source, "--output-dir", tmp_path / "out", *case.options)

    assert ended.code == case.code, ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert (record["status"], record["exit_code"]) == (case.status, case.code)
    assert case.reason in record["reason"]
    if case.cell_statuses:
        assert tuple(cell["status"] for cell in record["cells"]) == case.cell_statuses
    if case.status != "succeeded":
        failure = record["failure"]
        assert failure["signal"] == case.signal
        if case.cell_index is not None:
            assert failure["cell_index"] == case.cell_index
        assert failure["cause"] == case.cause
    notebook = cli.executed(tmp_path / "out", "n")
    assert notebook.metadata.runner.status == case.status
    banners = [cell for cell in notebook.cells if cell.metadata.get("runner", {}).get("banner")]
    assert bool(banners) == (case.status != "succeeded")
    assert case.status in (tmp_path / "out" / "n.html").read_text() or case.status == "succeeded"
    assert source.read_bytes() == before
    assert not (tmp_path / "out" / "n.running").exists()


def test_a_dead_kernel_leaves_no_green_cell_behind(tmp_path: Path) -> None:
    """Papermill's own metadata is repaired: the killed cell failed, those after it are pending."""
    source = notebooks.write(tmp_path / "n.ipynb", "1", "import os; os.kill(os.getpid(), 9)", "2")

    cli.runner("run", source, "--output-dir", tmp_path)

    cells = cli.source_cells(cli.executed(tmp_path, "n"))
    assert [cell.metadata.papermill.status for cell in cells] == ["completed", "failed", "pending"]
    assert [cell.metadata.papermill.exception for cell in cells] == [False, True, None]


def test_a_segfault_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    """Faulthandler's traceback names the crashing line, in the log and in the metrics."""
    source = notebooks.write(tmp_path / "n.ipynb", "import ctypes\nctypes.string_at(0)")

    cli.runner("run", source, "--output-dir", tmp_path)

    assert "Segmentation fault" in (tmp_path / "n.log").read_text()
    assert "string_at" in cli.metrics(tmp_path, "n")["failure"]["traceback_tail"]


def test_the_banner_stands_above_the_cell_that_failed(tmp_path: Path) -> None:
    """A reader finds the place: one banner on top, one right above the failing cell."""
    source = notebooks.write(tmp_path / "n.ipynb", "1", "raise ValueError('<b>no</b> $x$')", "2")

    cli.runner("run", source, "--output-dir", tmp_path)

    cells = cli.executed(tmp_path, "n").cells
    marked = [position for position, cell in enumerate(cells) if cell.metadata.get("runner", {}).get("banner")]
    assert marked[0] == 0
    assert cells[marked[1] + 1].source.startswith("raise ValueError")
    assert "<b>" not in cells[0].source


BAD_INPUTS = {
    "not-json": ("{", "is not valid JSON"),
    "empty": ("", "is empty"),
    "not-a-notebook": ('{"a": 1}', "not a notebook"),
    "no-code-cells": ('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "no code cells"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_input_that_is_no_notebook_is_broken_input(name: str, tmp_path: Path) -> None:
    """Nothing runs; the record says what is wrong with the file."""
    content, message = BAD_INPUTS[name]
    (tmp_path / "n.ipynb").write_text(content)

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", "--run-id", "r")

    record = cli.metrics(tmp_path / "out", "n")
    assert (ended.code, record["status"]) == (9, "broken-input")
    assert message in record["reason"]


def test_an_old_notebook_is_upgraded_and_run(tmp_path: Path) -> None:
    """Nbformat 3 is read like any other."""
    (tmp_path / "n.ipynb").write_text(
        '{"metadata": {"name": ""}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [{"metadata": {}, "cells": '
        '[{"cell_type": "code", "collapsed": false, "input": ["print(6 * 7)"], "language": "python", '
        '"metadata": {}, "outputs": []}]}]}'
    )

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out")

    assert ended.code == 0, ended.err
    assert "42" in cli.text_of(cli.executed(tmp_path / "out", "n"))


def test_an_unknown_kernel_lists_those_that_are_installed(tmp_path: Path) -> None:
    """The message names the wrong kernel and the right ones."""
    source = notebooks.write(tmp_path / "n.ipynb", "1", kernel="julia-1.9")

    ended = cli.runner("run", source, "--output-dir", tmp_path, "--run-id", "r")

    reason = cli.metrics(tmp_path, "n")["reason"]
    assert ended.code == 9
    assert "'julia-1.9'" in reason
    assert "python3" in reason


def test_a_missing_notebook_is_broken_input(tmp_path: Path) -> None:
    """A path that leads nowhere is told as such."""
    ended = cli.runner("run", tmp_path / "nowhere.ipynb", "--output-dir", tmp_path, "--run-id", "r")

    assert ended.code == 9
    assert "does not exist" in cli.metrics(tmp_path, "nowhere")["reason"]


BROKEN = """
import importlib, sys
def broken(*_, **__):
    raise TypeError("a half of a nut")
module, function = sys.argv.pop(1).split(".")
setattr(importlib.import_module(f"runner.run.{module}"), function, broken)
from runner.cli import main
main()
"""


@pytest.mark.parametrize(
    ("stage", "cell", "status", "reason"),
    [
        ("preparation.prepare", "1", "lost", "TypeError: a half of a nut"),
        ("verification.release", "1", "lost", "TypeError: a half of a nut"),
        ("verification.release", "1 / 0", "lost", "before that its status was failed: ZeroDivisionError in cell 1"),
        ("execution.judge", "1", "lost", "TypeError: a half of a nut"),
    ],
)
def test_a_fault_of_ours_leaves_a_record(tmp_path: Path, stage: str, cell: str, status: str, reason: str) -> None:
    """Exit 70; metrics, results and report say lost, and the reason has how the notebook had ended before."""
    source = notebooks.write(tmp_path / "n.ipynb", cell)

    ended = cli.python(BROKEN, stage, "run", source, "--output-dir", tmp_path / "out", "--results-dir", tmp_path / "r")

    assert ended.code == 70
    assert "internal error in runner" in ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert (record["status"], record["exit_code"]) == (status, 70)
    assert reason in record["reason"]
    assert any("TypeError: a half of a nut" in warning for warning in record["warnings"])
    assert "in broken" in (tmp_path / "out" / "n.log").read_text()
    assert (tmp_path / "r" / "status").read_text() == status
    assert not (tmp_path / "out" / "n.running").exists()
    assert cli.runner("report", tmp_path / "out", "--fail-on-failure").code == 1
    (told,) = json.loads((tmp_path / "out" / "reports" / "summary.json").read_text())["notebooks"]
    assert (told["status"], told["reason"]) == (status, record["reason"])


UNWRITABLE = """
from runner.stages.record.metrics_builder import MetricsBuilder
def broken(self, record):
    raise OverflowError("no such number")
MetricsBuilder._completed = broken
from runner.cli import main
main()
"""


def test_a_run_that_cannot_leave_any_record_is_lost(tmp_path: Path) -> None:
    """Its claim stays, so that the report and the next run find it."""
    source = notebooks.write(tmp_path / "n.ipynb", "1")

    assert cli.python(UNWRITABLE, "run", source, "--output-dir", tmp_path / "out").code == 70

    assert cli.runner("report", tmp_path / "out", "--fail-on-failure").code == 1
    (told,) = json.loads((tmp_path / "out" / "reports" / "summary.json").read_text())["notebooks"]
    assert told["status"] == "lost"
    assert cli.runner("run", source, "--output-dir", tmp_path / "out").code == 0


def test_files_that_a_cell_deletes_are_missed(tmp_path: Path) -> None:
    """Log and samples are gone with their folder: the record says so instead of naming none."""
    out = tmp_path / "out"
    source = notebooks.write(tmp_path / "n.ipynb", f"import shutil; shutil.rmtree({str(out)!r})")

    ended = cli.runner("run", source, "--output-dir", out, "--no-html")

    assert ended.code == 0, ended.err
    record = cli.metrics(out, "n")
    assert (record["outputs"]["log"], record["outputs"]["samples"]) == (None, None)
    assert "deleted" in record["outputs"]["unavailable"]["log"]
    assert "deleted" in record["outputs"]["unavailable"]["samples"]
    assert [warning.split()[0] for warning in record["warnings"]] == ["n.log", "n.samples.csv"]


NO_SOCKETS = """
import socket
real = socket.socket.bind
def bind(self, address):
    if isinstance(address, str):
        raise OSError(95, "Operation not supported")
    return real(self, address)
socket.socket.bind = bind
from runner.cli import main
main()
"""


def test_a_folder_without_sockets_leads_to_tcp_and_a_warning(tmp_path: Path) -> None:
    """Some file systems have no sockets; the notebook runs all the same."""
    source = notebooks.write(tmp_path / "n.ipynb", "print(6 * 7)")

    ended = cli.python(NO_SOCKETS, "run", source, "--output-dir", tmp_path / "out", "--no-html")

    assert ended.code == 0, ended.err
    assert "kernel-transport level=warning transport=tcp" in ended.err
    assert cli.metrics(tmp_path / "out", "n")["environment"]["transport"] == "tcp"
    assert "42" in cli.text_of(cli.executed(tmp_path / "out", "n"))


SHOW_PROXIES = (
    "import os, urllib.request\n"
    "print([os.environ.get(name) for name in ('no_proxy', 'NO_PROXY')])\n"
    "print([bool(urllib.request.proxy_bypass(host)) for host in ('127.0.0.1', 'a.corp', 'example.org')])"
)


@pytest.mark.parametrize(
    ("env", "exceptions", "bypassed"),
    [
        ({"http_proxy": "http://127.0.0.1:9"}, "127.0.0.1,localhost", [True, False, False]),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, "127.0.0.1,localhost", [True, False, False]),
        ({"ALL_PROXY": "http://127.0.0.1:9"}, "127.0.0.1,localhost", [True, False, False]),
        ({"http_proxy": "http://127.0.0.1:9", "NO_PROXY": ".corp"}, ".corp,127.0.0.1,localhost", [True, True, False]),
        (
            {"https_proxy": "http://127.0.0.1:9", "no_proxy": "a.corp", "NO_PROXY": "b.corp,a.corp"},
            "a.corp,b.corp,127.0.0.1,localhost",
            [True, True, False],
        ),
        ({"http_proxy": "http://127.0.0.1:9", "no_proxy": "*"}, "*", [True, True, True]),
        ({}, None, [False, False, False]),
    ],
)
def test_a_proxy_stands_for_others_and_not_for_this_machine(
    tmp_path: Path, env: dict[str, str], exceptions: str | None, bypassed: list[bool]
) -> None:
    """Exceptions that were there stay, whichever variable holds them, and this machine is one."""
    source = notebooks.write(tmp_path / "n.ipynb", SHOW_PROXIES)

    ended = cli.runner("run", source, "--output-dir", tmp_path / "out", "--no-html", env=env)

    assert ended.code == 0, ended.err
    assert f"{[exceptions] * 2}\n{bypassed}" in cli.text_of(cli.executed(tmp_path / "out", "n"))
