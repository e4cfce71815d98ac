# SPDX-License-Identifier: Apache-2.0
"""The judge of `make conformance` sees lies: engines that claim what is not so are found wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from conformance.engines import CODES, Engine
from conformance.judge import judge
from conformance.play import Bench, document, play
from conformance.truths import CASES, Act, Case, Target
from support import cli

from runner.core.records import Status

SAVE = """
import json, os, subprocess, sys
notebook = json.load(open("in.ipynb"))
notebook["cells"][0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": sys.argv[1]}]
json.dump(notebook, open("out.ipynb", "w"))
"""


def engine_of(script: str, *arguments: str) -> Engine:
    """Return an engine that is a script of Python."""

    class Scripted(Engine):
        key, title = "scripted", "a script"

        def command(self, case: Case) -> list[str]:
            return [sys.executable, "-c", script, *arguments]

    return Scripted(ours=Path(), peers=Path())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench.make(tmp_path, Path(sys.executable))


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def verdict(name: str, bench: Bench, script: str, *arguments: str):
    engine = engine_of(script, *arguments)
    case = case_of(name)
    return judge(case, engine, play(case, engine, bench))


def test_every_case_has_a_name_of_its_own_and_a_status_of_the_contract() -> None:
    """At least 40 cases can be put to every engine, and together the cases know every status."""
    assert len({case.name for case in CASES}) == len(CASES)
    assert sum(case.ask is None for case in CASES) >= 40
    statuses = {case.status for case in CASES}
    assert {*(status.value for status in Status), "lost", "usage"} >= statuses
    assert {*CODES, "terminated", "lost"} == statuses - {"usage"}


def test_texts_that_a_cell_prints_do_not_stand_in_its_source() -> None:
    """What the judge looks for is found in outputs alone: no case passes by showing its source in a traceback."""
    for case in CASES:
        sources = "\n".join(cell["source"] for cell in document(case)["cells"])
        assert not [want for want in (*case.kept, *case.absent) if want in sources and re.search(r"\s\d$", want)]


def test_an_honest_engine_is_right(bench: Bench) -> None:
    """Exit code, cell, outputs, processes: nothing to complain about."""
    script = SAVE + "print('died in # cell 2'); sys.exit(1)"
    assert verdict("raise", bench, script, "first 1 ZeroDivisionError").right


@pytest.mark.parametrize(
    ("more", "text", "wrong"),
    [
        ("sys.exit(0)", "first 1 ZeroDivisionError", {"exit", "cell"}),
        ("print('# cell 1'); sys.exit(1)", "first 1 ZeroDivisionError", {"cell"}),
        ("print('# cell 2'); sys.exit(1)", "ZeroDivisionError", {"outputs"}),
        ("print('# cell 2'); sys.exit(1)", "first 1 ZeroDivisionError last 3", {"outputs"}),
        ("print('# cell 2'); open('out.ipynb', 'w').write('{'); sys.exit(1)", "", {"outputs"}),
        ("print('# cell 2'); os.remove('out.ipynb'); sys.exit(1)", "", {"outputs"}),
    ],
    ids=["false-green", "other-cell", "lost-output", "invented-output", "torn-file", "no-file"],
)
def test_a_lie_is_found(bench: Bench, more: str, text: str, wrong: set[str]) -> None:
    """Each lie is counted under its own question and no other."""
    assert set(verdict("raise", bench, SAVE + more, text).wrong) == wrong


def test_a_process_that_outlives_the_engine_is_found_and_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a session of its own; and the next run is not disturbed by it."""
    monkeypatch.setattr("conformance.play.GONE_SECONDS", 0.5)
    orphan = (
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True); open('pid', 'w').write(str(child.pid))"
    )
    script = SAVE + orphan + "\nprint('# cell 2'); sys.exit(1)"
    found = verdict("raise", bench, script, "first 1 ZeroDivisionError")
    assert "sleep 600" in found.wrong["processes"]
    pid = int(next(bench.work.glob("raise-*/pid")).read_text())
    cli.until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes(), "end")


def test_an_engine_that_hangs_is_wrong(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed, and has neither an exit code nor a cell to its credit."""
    monkeypatch.setattr("conformance.play.LIMIT_SECONDS", 3)
    found = verdict("raise", bench, SAVE + "import time; time.sleep(600)", "first 1 ZeroDivisionError")
    assert found.hangs
    assert set(found.wrong) == {"exit", "cell", "processes"}


def test_the_act_from_outside_reaches_who_it_is_meant_for(bench: Bench) -> None:
    """A signal comes only once the cell is at work, and `KERNEL` means the pid that the cell wrote."""
    script = SAVE + (
        "child = subprocess.Popen(['sleep', '600'])\nopen(os.environ['HERE'], 'w').write(str(child.pid))\n"
        "print('# cell 2'); sys.exit(child.wait() != 0)"
    )
    act = case_of("killed").act
    assert isinstance(act, Act)
    assert act.target is Target.KERNEL
    assert verdict("killed", bench, script, "first 1 at work").right


@pytest.mark.slow
def test_runner_is_put_through_the_whole_machinery(tmp_path: Path) -> None:
    """A case goes through the real command line, table and all; the kernel is this interpreter's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    runner = shutil.which("runner", path=str(Path(sys.executable).parent))
    if runner is None:
        pytest.skip("runner is not installed beside this interpreter")
    (programs / "python").write_text(f'#!/bin/sh\nexec {json.dumps(sys.executable)} "$@"\n')
    (programs / "python").chmod(0o755)
    script = "import sys; from conformance.__main__ import main; sys.exit(main(sys.argv[1:]))"
    given = ["--peers", programs, "--engines", "runner", "--cases", "raise", "sigterm", "--write", tmp_path / "page.md"]
    ended = cli.python(script, *given, env={"PYTHONPATH": str(Path(__file__).parent)})
    assert ended.code == 0, ended.out + ended.err
    assert "| A cell raises (`raise`) | failed, cell 2 | ok |" in (tmp_path / "page.md").read_text()
