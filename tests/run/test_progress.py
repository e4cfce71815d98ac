# SPDX-License-Identifier: Apache-2.0
"""What a person sees on a terminal while notebooks run, and what stays there."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from support import cli, notebooks
from support.terminal import on_terminal

from runner.core import log
from runner.run.progress import Progress

SLEEP = "import time; time.sleep(3)"
ONLY_LINES = {"A", "J", "m"}
"""Up, clear, colour: nothing that a killed process would have to undo."""


def plan(folder: Path, **cells: tuple[str, ...]) -> Path:
    """Write a plan of notebooks."""
    for name, sources in cells.items():
        notebooks.write(folder / f"{name}.ipynb", *sources)
    rows = "".join(f"\n  - {{name: {name}, path: {name}.ipynb}}" for name in cells)
    (folder / "plan.yaml").write_text(f"version: 1\nname: p\nnotebooks:{rows}\n")
    return folder / "plan.yaml"


def logged(lines: list[str]) -> list[str]:
    """Return the lines of the log among others."""
    return [line for line in lines if re.match(r"\d{4}-\d\d-\d\dT", line)]


def test_a_run_is_one_row_and_leaves_its_answer_alone(tmp_path: Path) -> None:
    """Name, cell, time and memory while it runs; no line of the log; the row goes, the answer stays."""
    source = notebooks.write(tmp_path / "n.ipynb", "1", SLEEP)

    seen = on_terminal("run", source, "--output-dir", tmp_path / "out", "--no-html")

    assert seen.code == 0, seen.text
    rows = [line for screen in seen.screens for line in screen]
    assert any(re.search(r"^n  cell 2 of 2 +\d[\d.ms]*s .*host \d.*import time", row) for row in rows)
    assert logged(rows) == []
    assert re.fullmatch(r"n: succeeded in \S+", "\n".join(seen.screen).strip())
    assert seen.escapes == ONLY_LINES
    assert "cell-start" in (tmp_path / "out" / "n.log").read_text()


def test_verbose_shows_the_log_above_the_table(tmp_path: Path) -> None:
    """Its lines stay, each whole; the table goes."""
    source = notebooks.write(tmp_path / "n.ipynb", SLEEP)

    seen = on_terminal("run", source, "-v", "--output-dir", tmp_path / "out", "--no-html")

    assert seen.code == 0, seen.text
    written = (tmp_path / "out" / "n.log").read_text().splitlines()
    assert [line for line in logged(seen.screen) if line in written] == logged(written)
    assert not any(line.startswith("n  ") for line in seen.screen)


def test_run_all_has_a_row_for_each_notebook_that_runs(tmp_path: Path) -> None:
    """Which of how many, a row each, its answer as soon as it ends, and at the end what failed."""
    path = plan(tmp_path, first=(SLEEP,), second=(SLEEP, "1 / 0"))

    # A new process, as a forked one writes the report between two drawings.
    seen = on_terminal("run-all", path, "--jobs", 2, "--output-dir", tmp_path / "out", under=("env",))

    assert seen.code == 1, seen.text
    assert any(
        screen[-4].startswith("notebooks 1 to 2 of 2  ")
        and {line.split()[0] for line in screen[-3:-1]} == {"first", "second"}
        and all("cell 1 of" in line for line in screen[-3:-1])
        for screen in seen.screens
        if len(screen) >= 4
    )
    assert any(screen[-2].startswith("writing the report  ") for screen in seen.screens if len(screen) > 1)
    assert logged([line for line in seen.screen if "level=error" not in line]) == []
    text = "\n".join(seen.screen)
    assert text.count("first: succeeded in ") == 1
    assert text.index("second: failed in ") < text.index("2 notebooks, ")
    assert "notebooks 1 to 2" not in text
    assert seen.escapes == ONLY_LINES


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("command", ["run", "run-all"])
def test_a_signal_leaves_no_part_of_the_table(tmp_path: Path, command: str, number: int, code: int) -> None:
    """What was heard and how it ended stay."""
    path = plan(tmp_path, n=("import time; time.sleep(600)",))
    what = path if command == "run-all" else tmp_path / "n.ipynb"

    seen = on_terminal(
        command, what, "--output-dir", tmp_path / "out", when="cell 1 of 1", do=lambda one, _: one.send_signal(number)
    )

    assert seen.code == code, seen.text
    assert any(f"name={signal.Signals(number).name}" in line for line in seen.screen)
    assert any(line.startswith("n: terminated") for line in seen.screen), seen.screen
    assert not any(line.startswith(("n  ", "notebook ")) for line in seen.screen)


def test_a_stopped_run_goes_on_below_what_was_written_meanwhile(tmp_path: Path) -> None:
    """After Ctrl-Z and `fg` nothing above is erased: the shell has written there."""
    source = notebooks.write(tmp_path / "n.ipynb", SLEEP)
    shell = ("bash", "-mc", '"$@"; sleep 1; fg', "bash")  # as people do, with job control

    seen = on_terminal(
        "run", source, "--output-dir", tmp_path / "out", "--no-html",
        under=shell, when="cell 1 of 1", do=lambda _, terminal: os.write(terminal, b"\x1a"),
    )  # fmt: skip

    assert seen.code == 0, seen.text
    kept = [line for line in seen.screen if line.strip()]
    stopped = next(number for number, line in enumerate(kept) if "Stopped" in line)
    assert any(line.startswith("n  cell 1 of 1") for line in kept[:stopped])
    assert not any(line.startswith("n  ") for line in kept[stopped:])
    assert kept[-1].startswith("n: succeeded in ")


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_that_cannot_move_its_cursor_gets_the_log(tmp_path: Path, variables: dict[str, str]) -> None:
    """As a pipe does."""
    source = notebooks.write(tmp_path / "n.ipynb", "1")

    seen = on_terminal("run", source, "--output-dir", tmp_path / "out", "--no-html", env=variables)

    assert (seen.code, seen.escapes) == (0, set())
    assert logged(seen.screen) == logged((tmp_path / "out" / "n.log").read_text().splitlines())


def test_without_colour_none_is_shown(tmp_path: Path) -> None:
    """NO_COLOR leaves bold and dim."""
    source = notebooks.write(tmp_path / "n.ipynb", SLEEP)

    seen = on_terminal("run", source, "--output-dir", tmp_path / "out", "--no-html", env={"NO_COLOR": "1"})

    assert "cell 1 of 1" in seen.text
    assert set(re.findall(r"\x1b\[([0-9;]*)m", seen.text)) <= {"0", "1", "2"}


def test_quiet_says_nothing_but_the_answer(tmp_path: Path) -> None:
    """Piped or not; what failed is in the answer."""
    path = plan(tmp_path, good=("1",), bad=("1 / 0",))

    piped = cli.runner("run-all", path, "--quiet", "--output-dir", tmp_path / "out")
    seen = on_terminal("run-all", path, "-q", "--output-dir", tmp_path / "out")

    assert (piped.code, piped.err) == (1, "")
    assert "bad: failed" in piped.out
    assert (seen.code, seen.escapes) == (1, set())
    assert [line for line in seen.screen if line][:-1] == piped.out.splitlines()[:-1]
    assert cli.runner("run", tmp_path / "bad.ipynb", "-q", "--output-dir", tmp_path / "out").err == ""


def test_a_notebook_whose_process_leaves_no_record_is_told_with_what_it_said(tmp_path: Path) -> None:
    """The lines of its log that are not shown are, where nothing else tells why."""
    path = plan(tmp_path, n=("import os, signal; os.kill(os.getppid(), signal.SIGKILL)",))

    seen = on_terminal("run-all", path, "--output-dir", tmp_path / "out")

    assert seen.code == 1, seen.text
    assert any("it wrote no record of this run" in line for line in seen.screen)
    assert any("cell-start nb=n" in line for line in seen.screen)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"cell_index": "x"}', '{"stage": "execute", "cell_count": [], "cell_index": {}}', "null"],
)
def test_a_claim_of_somebody_elses_writing_does_not_stop_the_table(tmp_path: Path, content: str) -> None:
    """The output folder is open to every notebook."""
    base = '"notebook": "n", "run_id": "r", "pid": 1, "host": "h", "started_at": "x"'
    (tmp_path / "n.running").write_text(content.replace("{", "{" + base + ", ") if '"' in content else content)
    progress = Progress(1, verbose=False)
    progress.begin("n", tmp_path / "n.running")

    assert progress._drawn(80, 20)[0].startswith("n ") or "n" in progress._drawn(80, 20)[0]


def test_what_a_cell_says_moves_no_cursor_and_fits_the_width(tmp_path: Path) -> None:
    """A title is a notebook's text; a row that wrapped could not be erased; more rows than fit are counted."""
    from runner.outputs.claim import Running

    running = Running(
        notebook="n", run_id="r", pid=1, host="h", started_at="x", stage="execute", cell_index=0, cell_count=2,
        title="\x1b[2J\x07 " + "wide 宽" * 99, gpu_bytes=2 * 10**9, host_bytes=10**9,
    )  # fmt: skip
    progress = Progress(30, verbose=False)
    for number in range(30):
        (tmp_path / f"{number}.running").write_text(running.text())
        progress.begin(f"n{number}", tmp_path / f"{number}.running")

    lines = progress._drawn(70, 10)

    assert len(lines) <= 10
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert "\x1b" not in "".join(plain)
    assert all(len(line) <= 70 for line in plain)
    assert "cell 1 of 2" in plain[1]
    assert "GPU 2.0 GB" in plain[1]
    assert plain[-1].startswith("and ")
    progress.end("n0")
    assert any("n1 " in line for line in progress._drawn(70, 10))


def test_libraries_are_shown_only_where_all_lines_are(capfd: pytest.CaptureFixture[str]) -> None:
    """On a terminal their warnings would drown the table; the run's log has them."""
    import logging

    shown = []
    for least in (logging.INFO, logging.WARNING, logging.ERROR):
        with log.showing(least), log.of_libraries():
            log.info("said")
            log.warning("warned")
            log.error("failed")
            logging.getLogger("other").warning("library")
        shown.append(re.findall(r"said|warned|failed|library(?= level)", capfd.readouterr().err))
    assert shown == [["said", "warned", "failed", "library"], ["warned", "failed"], ["failed"]]
