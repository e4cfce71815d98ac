# SPDX-License-Identifier: Apache-2.0
"""What a green cell hides is said: commands that failed, another Python, work that the end cut off."""

from __future__ import annotations

import json
from pathlib import Path

from support import cli, notebooks

from runner.stages.execute.kernel_notes import SHELL, warnings
from runner.stages.execute.outcome import CellEvent

EVENTS = {
    name: CellEvent(
        id=name, started_at="2026-11-20T09:00:00.000Z", started_monotonic=start, ended_monotonic=start + 1, outcome="ok"
    )
    for name, start in (("a", 10.0), ("b", 11.5))
}


def written(folder: Path, *rows: object) -> Path:
    (folder / SHELL).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_rows_belong_to_the_cell_of_their_time(tmp_path: Path) -> None:
    """A command that failed twice in a cell is one warning; between cells it has none."""
    row = {"event": "command", "command": "cp a b", "code": 1}
    folder = written(tmp_path, {**row, "now": 10.2}, {**row, "now": 10.4}, {**row, "now": 12.0}, {**row, "now": 11.2})

    assert [(each.text, each.cell_id) for each in warnings(folder, EVENTS)] == [
        ("`!cp a b` ended with exit status 1", cell) for cell in ("a", "b", None)
    ]


def test_what_the_notebook_wrote_into_the_file_harms_nobody(tmp_path: Path) -> None:
    """Rubbish is left out, many rows are counted and not listed."""
    rubbish = [
        [],
        1,
        {"event": "command"},
        {"event": "command", "command": 1, "code": "x", "now": {}},
        {"event": "ending"},
    ]
    rows = [{"event": "command", "command": f"false {n}", "code": 1, "now": 10.5} for n in range(30)]
    folder = written(tmp_path, *rubbish, *rows)
    with (folder / SHELL).open("ab") as stream:
        stream.write(b"\xff{")

    found = warnings(folder, EVENTS)

    assert len(found) == 21
    assert found[-1].text == "and 10 more such commands"


def test_commands_that_fail_are_warnings_with_cell_and_code(tmp_path: Path) -> None:
    """The cell stays green, and variables of a function are expanded as ever."""
    source = notebooks.write(
        tmp_path / "n.ipynb",
        "!true",
        "def copy(name):\n    !cp $name nowhere/\ncopy('no-such-file')",
        "out = !echo kept; exit 3\nprint(out)",
    )

    ended = cli.runner("run", source, "--output-dir", tmp_path / "out", "--no-html")

    assert ended.code == 0, ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert record["warnings"] == [
        "cell 2: `!cp no-such-file nowhere/` ended with exit status 1",
        "cell 3: `!echo kept; exit 3` ended with exit status 3",
    ]
    assert [len(cell["warnings"]) for cell in record["cells"]] == [0, 1, 1]
    assert "['kept']" in cli.text_of(cli.executed(tmp_path / "out", "n"))


def test_a_python_of_another_environment_is_named_once(tmp_path: Path) -> None:
    """`!python` and `!pip` follow PATH, and PATH may lead elsewhere than the kernel."""
    other = tmp_path / "bin"
    other.mkdir()
    for name in ("python3", "pip"):
        (other / name).write_text("#!/bin/sh\nexit 0\n")
        (other / name).chmod(0o755)
    source = notebooks.write(tmp_path / "n.ipynb", "!python3 -V\n!pip list", "!pip list", "!echo python3")

    ended = cli.runner(
        "run", source, "--output-dir", tmp_path / "out", "--no-html", "--env", f"PATH={other}:/usr/bin:/bin"
    )

    assert ended.code == 0, ended.err
    warnings = cli.metrics(tmp_path / "out", "n")["warnings"]
    assert len(warnings) == 2
    assert all(w.startswith("cell 1: ") and str(other) in w and "PATH" in w for w in warnings)


def test_work_that_the_kernels_end_cuts_off_is_named(tmp_path: Path) -> None:
    """An exit handler or a thread that needs longer than the grace; a quick one is no warning."""
    cells = {
        "handler": "import atexit, time\natexit.register(lambda: time.sleep(600))",
        "thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), name='upload').start()",
        "quick": "import atexit\natexit.register(lambda: open('done', 'w').close())",
    }
    seen = {}
    for name, cell in cells.items():
        source = notebooks.write(tmp_path / f"{name}.ipynb", cell)
        ended = cli.runner("run", source, "--output-dir", tmp_path / "out", "--no-html")
        assert ended.code == 0, ended.err
        seen[name] = cli.metrics(tmp_path / "out", name)["warnings"]

    assert seen == {
        "handler": ["an exit handler was still running when the kernel was ended: its work is incomplete"],
        "thread": ["the thread upload was still running when the kernel was ended: its work is incomplete"],
        "quick": [],
    }
    assert (tmp_path / "done").exists()


def test_the_kernel_gets_no_options_of_ours_and_no_backend_of_a_batch_job(tmp_path: Path) -> None:
    """GitHub's RUNNER_ variables pass; MPLBACKEND does only when it was asked for."""
    show = (
        "import os\nprint(sorted(n for n in os.environ if n in "
        "{'RUNNER_TEMP', 'RUNNER_TOOL_CACHE', 'RUNNER_RUN_NO_HTML'}), os.environ.get('MPLBACKEND'))"
    )
    source = notebooks.write(tmp_path / "n.ipynb", show)
    around = {"RUNNER_TEMP": "/t", "RUNNER_TOOL_CACHE": "/c", "RUNNER_RUN_NO_HTML": "1", "MPLBACKEND": "Agg"}

    plain = cli.runner("run", source, "--output-dir", tmp_path / "plain", env=around)
    asked = cli.runner("run", source, "--output-dir", tmp_path / "asked", "--env", "MPLBACKEND=pdf", env=around)

    assert (plain.code, asked.code) == (0, 0), plain.err
    text = cli.text_of(cli.executed(tmp_path / "plain", "n"))
    assert "['RUNNER_TEMP', 'RUNNER_TOOL_CACHE']" in text
    assert "inline" in text
    assert "pdf" in cli.text_of(cli.executed(tmp_path / "asked", "n"))
