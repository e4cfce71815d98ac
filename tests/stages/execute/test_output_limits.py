# SPDX-License-Identifier: Apache-2.0
"""Outputs of any size and kind neither break the run nor fill its memory."""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import papermill.engines  # noqa: F401  (first: it imports our engine by its entry point)
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from support import cli, notebooks

from runner.core import log
from runner.core.redact import MASK, Redactor
from runner.stages.execute.client import NotebookClient, Observer
from runner.stages.execute.output_limits import HEAD_CHARS, SHORT_CHARS, TAIL_CHARS, Bound, Stream
from runner.stages.execute.papermill_engine import Manager


def stream() -> Stream:
    """Return a stream over a fresh output."""
    return Stream(NotebookNode(output_type="stream", name="stdout", text=""), "n.log", Bound())


def written(*pieces: str) -> str:
    """Return what a notebook holds after these pieces were printed."""
    it = stream()
    for piece in pieces:
        it.write(piece)
    it.settle()
    return it.node["text"]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (("a", "b\n", "c"), "ab\nc"),
        (("10%\r", "50%\r", "100%\n", "done"), "100%\ndone"),
        (("10%\r50%\r100%\r",), "100%"),
        (("line\r\n", "next\r\n"), "line\nnext\n"),
        (("\r", "x"), "x"),
        (("a\n10%", "\r20%", "\r30%\nb"), "a\n30%\nb"),
        ((), ""),
    ],
)
def test_text_is_kept_as_a_terminal_shows_it(pieces: tuple[str, ...], text: str) -> None:
    """A line that is redrawn leaves its last state, however the pieces are cut."""
    assert written(*pieces) == text


@pytest.mark.parametrize("piece", ["x" * 999 + "\n", "y" * 50_000, "z"])
def test_a_long_stream_keeps_its_ends_and_says_what_is_missing(piece: str) -> None:
    """Beginning and end stay, a marker names the log, and the numbers add up."""
    times = 3_000_000 // len(piece)
    it = stream()
    it.write("BEGIN\n")
    for _ in range(times):
        it.write(piece)
    it.write("\nEND\n")
    it.settle()
    text = it.node["text"]
    assert text.startswith("BEGIN\n")
    assert text.endswith("END\n")
    assert "more of this stream: see n.log" in text
    marker = len(text) - text.index("\n…")
    kept = len(text) - len(text[text.index("\n…") : text.index("…\n", text.index("\n…") + 2) + 2])
    assert kept + it.dropped_chars == len("BEGIN\n") + times * len(piece) + len("\nEND\n")
    assert len(text) < HEAD_CHARS + 2 * TAIL_CHARS + 200
    assert marker < 2 * TAIL_CHARS + 200


def test_two_hundred_megabytes_of_print_stay_out_of_memory_and_notebook(tmp_path: Path) -> None:
    """The notebook has the ends with a marker, the log has it all, our memory stays small."""
    line = "0123456789" * 10 + "\n"  # twice, as two lines that differ: a run of one line would be folded
    count = 200_000_000 // len(line)
    pair = line + line.replace("0", "-")
    notebooks.write(
        tmp_path / "n.ipynb",
        f"pair = {pair!r}\nfor _ in range({count // 1000}): print(pair * 500, end='')\nprint('the end')",
    )
    script = (
        "import resource, subprocess, sys; r = subprocess.call(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(r)"
    )
    command = [
        sys.executable,
        "-c",
        script,
        *cli.RUNNER,
        "run",
        str(tmp_path / "n.ipynb"),
        "--output-dir",
        str(tmp_path),
    ]

    done = subprocess.run(command, capture_output=True, text=True, env=cli.environment(), check=False)

    assert done.returncode == 0, done.stderr
    peak_bytes = int(done.stdout.split()[-1]) * 1024
    assert peak_bytes < 180e6  # of the larger of kernel and runner; what is printed is not kept
    assert (tmp_path / "n.executed.ipynb").stat().st_size < 3e6
    text = cli.text_of(cli.executed(tmp_path, "n"))
    assert "more of this stream: see n.log" in text
    assert text.rstrip().endswith("the end")
    assert (tmp_path / "n.log").stat().st_size >= count // 1000 * 1000 * len(line)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the figure above is not 0 by a missing feature


def test_a_fifty_megabyte_image_is_kept_whole(tmp_path: Path) -> None:
    """A huge output takes its time and arrives."""
    notebooks.write(
        tmp_path / "n.ipynb",
        "import base64, os\nfrom IPython.display import display\n"
        "display({'image/png': base64.b64encode(os.urandom(37_500_000)).decode()}, raw=True)",
        "print('after')",
    )

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path)

    assert ended.code == 0, ended.err
    assert cli.metrics(tmp_path, "n")["cells"][0]["output_bytes"] == 50_000_000
    assert "after" in (tmp_path / "n.html").read_text()


def test_invalid_utf8_is_printed_and_recorded(tmp_path: Path) -> None:
    """Bytes that are no text, and lone surrogates, break neither notebook nor log nor page."""
    notebooks.write(
        tmp_path / "n.ipynb",
        "import os, sys\nos.write(1, b'\\xff\\xfe raw\\n'); os.system(\"printf 'sys \\\\377\\\\n'\")",
        "print('lone \\udc80 surrogate')",
        "'\\ud83d'",
    )

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path)

    assert ended.code == 0, ended.err
    assert "raw" in cli.text_of(cli.executed(tmp_path, "n"))
    assert (tmp_path / "n.html").exists()


SECRET = "hunter2-ÄÖ/+secret"


def test_a_secret_is_in_no_file(tmp_path: Path) -> None:
    """Printed whole, in pieces, in errors, as a value and encoded: it is masked everywhere."""
    notebooks.write(
        tmp_path / "n.ipynb",
        "import os\ns = os.environ['TOKEN']\nprint('whole', s)\nprint(s[:7], end='', flush=True)\nimport time; time.sleep(0.5)\nprint(s[7:])",
        "import sys, base64\nprint(s, file=sys.stderr); s",
        "print(base64.b64encode(s.encode()).decode()); from IPython.display import HTML; HTML(f'<b>{s}</b>')",
        "os.system('echo $TOKEN')",
        f"2  # the log shows first lines of cells, {SECRET}",
        "raise ValueError(f'token {s} refused')",
    )

    ended = cli.runner(
        "run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", "--secret-env", "TOKEN", "--results-dir", tmp_path / "r",
        env={"TOKEN": SECRET, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip

    assert ended.code == 1, ended.err
    record = cli.metrics(tmp_path / "out", "n")
    assert record["environment"]["secrets"] == ["TOKEN"]
    assert "[secret] refused" in record["reason"]
    written = [path for folder in ("out", "r") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert len(written) > 8
    for path in written:
        content = path.read_text(errors="replace")
        assert "hunter2" not in content, path
        assert "aHVudGVyMi" not in content, path
    assert "hunter2" not in ended.err + ended.out


def test_a_secret_that_is_not_set_is_a_usage_error(tmp_path: Path) -> None:
    """Nothing runs without the token it needs."""
    notebooks.write(tmp_path / "n.ipynb", "1")

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", "--secret-env", "NOT_SET")

    assert ended.code == 2
    assert "NOT_SET" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_proxy_does_not_stand_between_kernel_and_loopback(tmp_path: Path) -> None:
    """With http_proxy set, the kernel gets no_proxy for this machine, and keeps the user's entries."""
    notebooks.write(tmp_path / "n.ipynb", "import os; print(os.environ['no_proxy'])")

    ended = cli.runner(
        "run",
        tmp_path / "n.ipynb",
        "--output-dir",
        tmp_path,
        env={"http_proxy": "http://127.0.0.1:9", "no_proxy": "internal"},
    )

    assert ended.code == 0, ended.err
    assert "internal,127.0.0.1,localhost" in cli.text_of(cli.executed(tmp_path, "n"))


def test_widgets_and_progress_bars_leave_one_line(tmp_path: Path) -> None:
    """A bar that is redrawn a thousand times is one line in notebook and page."""
    notebooks.write(
        tmp_path / "n.ipynb",
        "import sys\nfor i in range(1000):\n    print(f'\\r{i / 10:.1f} %', end='', file=sys.stderr, flush=True)",
    )

    cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path)

    assert cli.text_of(cli.executed(tmp_path, "n")).strip() == "99.9 %"


def test_a_secret_in_the_source_is_masked_too(tmp_path: Path) -> None:
    """Whoever wrote the token into a cell finds it in none of the files we write, though the cell ran with it."""
    notebooks.write(tmp_path / "n.ipynb", f"s = {SECRET!r}\nprint(len(s))")

    ended = cli.runner(
        "run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", "--secret-env", "TOKEN", env={"TOKEN": SECRET}
    )

    assert ended.code == 0, ended.err
    assert str(len(SECRET)) in cli.text_of(cli.executed(tmp_path / "out", "n"))
    for path in (tmp_path / "out").iterdir():
        assert "hunter2" not in path.read_text(errors="replace"), path


def test_a_widget_that_talks_nonsense_does_not_end_the_run(tmp_path: Path) -> None:
    """A message that nbclient cannot make sense of is left out, and the log says so."""
    notebooks.write(
        tmp_path / "n.ipynb",
        "from comm import create_comm\nc = create_comm(target_name='jupyter.widget', data={'state': {}})",
        "print('after')",
    )

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path)

    assert ended.code == 0, ended.err
    assert "message-ignored" in ended.err
    assert "after" in cli.text_of(cli.executed(tmp_path, "n"))


class Cell(Observer):
    """One cell, and a kernel that sends what a test says."""

    def __init__(self, *secrets: str) -> None:
        self.log = ""
        self.cell = new_code_cell("")
        self.notebook = new_notebook(cells=[self.cell])
        manager = Manager(self.notebook, progress_bar=False)
        kernel: Any = SimpleNamespace(manager=None)
        self.client = NotebookClient(manager, kernel, observer=self, redactor=Redactor(secrets), log_name="n.log")
        self.client.reset_execution_trackers()

    def printed(self, name: str, text: str) -> None:
        self.log += text

    def get(self, kind: str, **content: Any) -> None:
        """Take a message."""
        header = {"msg_id": "answer", "msg_type": kind}
        message = {"msg_type": kind, "header": header, "parent_header": {"msg_id": "asked"}, "content": content}
        self.client.process_message(message, self.cell, 0)

    def print(self, text: str, name: str = "stdout") -> None:
        self.get("stream", name=name, text=text)

    def display(self, text: str, name: str | None = None, kind: str = "display_data") -> None:
        transient = {"display_id": name} if name else {}
        self.get(kind, data={"text/plain": text}, metadata={}, transient=transient)

    def end(self) -> list[str]:
        """End the cell and return the texts of its outputs, which nbformat finds valid."""
        self.client.end_cell(0)
        nbformat.validate(self.notebook)
        return [output.get("text") or output["data"]["text/plain"] for output in self.cell.outputs]


def test_outputs_are_cleared_at_once_or_when_the_next_one_comes() -> None:
    """As in Jupyter; the log keeps everything."""
    cell = Cell()
    cell.print("one\n")
    cell.display("two")
    cell.get("clear_output", wait=False)
    assert cell.cell.outputs == []
    cell.print("three\n")
    cell.get("clear_output", wait=True)
    assert len(cell.cell.outputs) == 1
    cell.print("four\n")
    cell.print("five\n")

    assert cell.end() == ["four\nfive\n"]
    assert cell.log == "one\nthree\nfour\nfive\n"


def test_a_cell_that_waits_to_clear_does_not_clear_the_next_one() -> None:
    """The request ends with its cell."""
    cell = Cell()
    cell.get("clear_output", wait=True)
    cell.end()
    cell.display("kept")
    cell.print("kept too")

    assert cell.end() == ["kept", "kept too"]


def test_a_display_is_updated_where_it_stands() -> None:
    """Also by another message of the same id; what came after stays where it is."""
    cell = Cell()
    cell.display("0 %", "bar")
    cell.print("text\n")
    cell.display("50 %", "bar", "update_display_data")
    cell.display("unknown", "other", "update_display_data")
    cell.display("100 %", "bar")

    assert cell.end() == ["100 %", "text\n", "100 %"]


def test_a_secret_in_pieces_is_masked_after_outputs_were_cleared() -> None:
    """What is printed next goes the same way as all that is printed, into the log too."""
    cell = Cell("hunter2!")
    cell.get("clear_output", wait=True)
    cell.print("a hunt")
    cell.print("er2! b\n")
    cell.display("update hunter2!", "x")
    cell.display("again hunter2!", "x", "update_display_data")

    assert cell.end() == [f"a {MASK} b\n", f"again {MASK}"]
    assert cell.log == f"a {MASK} b\n"


def test_a_secret_as_a_key_is_masked_and_the_output_stays_valid() -> None:
    """JSON that a cell shows has keys of its own; the names of nbformat stay, whatever the secret is."""
    for secret in ("hunter2!", "text", "stream", "data", "json", "application/json", "1234"):
        cell = Cell(secret)
        cell.get(
            "display_data", data={"application/json": {"k": {secret: [secret]}}, "text/plain": secret}, metadata={}
        )
        cell.print(f"{secret}\n")

        assert cell.end() == [MASK, f"{MASK}\n"]
        assert cell.cell.outputs[0]["data"]["application/json"] == {"k": {MASK: [MASK]}}


def test_prints_between_displays_share_one_bound() -> None:
    """Into however many outputs displays divide a stream, the notebook holds its beginning and its end."""
    cell = Cell()
    text = "x" * 99_999
    cell.print("BEGIN\n")
    for number in range(100):
        cell.print(f"{text}\n")
        cell.print(text)  # an unfinished line
        cell.display(str(number))
    cell.print("END\n")

    texts = cell.end()
    printed = "".join(texts)
    assert len(printed) < HEAD_CHARS + TAIL_CHARS + 100 * 200
    assert printed.startswith("BEGIN\n")
    assert printed.endswith("END\n")
    assert [piece for piece in texts if piece.isdigit()] == list(map(str, range(100)))
    assert sum("more of this stream: see n.log" in piece for piece in texts) > 80
    assert len(cell.log) > 100 * 2 * len(text)


def test_both_streams_and_each_cell_have_a_bound_of_their_own() -> None:
    """What fills one of them takes nothing from the others, and what was cleared counts no more."""
    cell = Cell()
    for _ in range(3):
        cell.print("x" * 99 + "\n" * (HEAD_CHARS - 99))
        cell.print("error\n", "stderr")
        cell.get("clear_output", wait=False)
    cell.print("x" * HEAD_CHARS)
    cell.print("error\n", "stderr")
    texts = cell.end()

    assert [len(text) for text in texts] == [HEAD_CHARS, len("error\n")]


def test_a_huge_result_keeps_its_ends_and_the_log_has_it_all() -> None:
    """A representation of any length, and an error's message; short ones stay whole however many there were."""
    cell = Cell()
    huge = "BEGIN " + "x" * 5_000_000 + " END"
    cell.display(huge)
    cell.display(huge)
    cell.display("short")
    cell.display(huge, "one")
    cell.display(f"{huge} again", "one", "update_display_data")
    for text in cell.end():
        assert text.startswith("BEGIN ") or text == "short"
        assert len(text) <= HEAD_CHARS + TAIL_CHARS + 100
        assert "MB more of this result: see n.log" in text or text == "short"
    assert cell.log.count(huge) == 4

    cell.cell.outputs.clear()
    cell.get("error", ename="E", evalue=huge, traceback=["line", huge])
    cell.client.end_cell(0)
    (error,) = cell.cell.outputs
    assert error.evalue.startswith("BEGIN ")
    assert sum(map(len, [error.evalue, *error.traceback])) < HEAD_CHARS + TAIL_CHARS + 2 * SHORT_CHARS
    assert cell.log.endswith(f"line\n{huge}\n")


def test_a_message_without_end_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data nested deeper than a writer of JSON can follow must not cost the notebook."""
    said: list[str] = []
    monkeypatch.setattr(log, "warning", lambda event, **_: said.append(event))
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    cell = Cell()
    cell.get("display_data", data={"application/json": deep, "text/plain": "deep"}, metadata={})
    cell.display("after")

    assert cell.end() == ["after"]
    assert said == ["message-ignored"]


@pytest.mark.parametrize("secret", ["12345", '"},{"', "succeeded\n", "cells", "[[[["])
def test_no_secret_makes_the_notebook_invalid(tmp_path: Path, secret: str) -> None:
    """Numbers, punctuation and words of nbformat are masked text by text, in the notebook that was written too."""
    cell = Cell(secret)
    cell.cell.source = f"token = {secret!r}"
    cell.notebook.metadata.widgets = {"state": {secret: {"of": [secret, 12345]}}}
    manager = Manager(cell.notebook, str(tmp_path / "n.ipynb"), progress_bar=False)
    manager.redactor = Redactor([secret])
    cell.display(f"is {secret}")
    cell.end()
    before = copy.deepcopy(cell.notebook)

    manager.write()

    written = nbformat.read(tmp_path / "n.ipynb", as_version=4)
    nbformat.validate(written)
    assert secret.strip() not in "".join(
        [written.cells[0].source, json.dumps(written.metadata.widgets["state"])]
    ).replace("12345]", "]")
    assert cell.notebook == before


def test_a_secret_too_short_to_be_kept_out_is_refused(tmp_path: Path) -> None:
    """Nothing runs when the promise cannot be kept; the message names the variable and not the value."""
    notebooks.write(tmp_path / "n.ipynb", "1")

    for value in ("5", "ab\n", "   \n"):
        ended = cli.runner(
            "run", tmp_path / "n.ipynb", "--output-dir", tmp_path / "out", "--secret-env", "PIN", env={"PIN": value}
        )

        assert ended.code == 2
        assert "--secret-env PIN: a value of" in ended.err
        assert not (tmp_path / "out").exists()


def test_a_secret_from_a_file_is_in_no_file_without_its_newline(tmp_path: Path) -> None:
    """Kubernetes hands a file on with the newline at its end; the cell that strips it prints the secret all the same."""
    notebooks.write(
        tmp_path / "n.ipynb",
        "import os, time, sys\nfrom IPython.display import JSON, clear_output, display\ns = os.environ['TOKEN'].strip()\n"
        "display({'application/json': {s: 1}, 'text/plain': 'x'}, raw=True)",
        "clear_output(wait=True); print(s[:6], end='', flush=True); time.sleep(0.5); print(s[6:])",
        "print(f'{s[:6]}\\x1b[31m{s[6:]}'); print(s[:6] + '\\x1b[31m', end='', flush=True); time.sleep(0.5); print(s[6:])",
    )

    ended = cli.runner(
        "run",
        tmp_path / "n.ipynb",
        "--output-dir",
        tmp_path / "out",
        "--secret-env",
        "TOKEN",
        env={"TOKEN": "hunter2!!\n"},
    )

    assert ended.code == 0, ended.err
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert {"n.executed.ipynb", "n.html", "n.log", "n.metrics.json"} <= set(files)
    for name in files:
        assert "hunter2" not in (tmp_path / "out" / name).read_text(), name
    assert (tmp_path / "out" / "n.log").read_text().count(MASK) >= 3


def test_a_figure_that_the_page_draws_counts_as_one(tmp_path: Path) -> None:
    """Plotly and Vega save no image beside their own data."""
    shown = "display({{'{0}': {{'data': []}}, 'text/plain': 'figure'}}, raw=True)"
    kinds = ("application/vnd.plotly.v1+json", "application/vnd.vegalite.v5+json", "application/json")
    notebooks.write(tmp_path / "n.ipynb", *map(shown.format, kinds))

    ended = cli.runner("run", tmp_path / "n.ipynb", "--output-dir", tmp_path, "--no-html")

    assert ended.code == 0, ended.err
    assert [cell["figures"] for cell in cli.metrics(tmp_path, "n")["cells"]] == [1, 1, 0]
