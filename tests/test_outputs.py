# SPDX-License-Identifier: Apache-2.0
"""Outputs of any size and kind neither break the run nor fill its memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import NotebookNode
from support import cli, notebooks

from runner.notebook.outputs import HEAD_CHARS, TAIL_CHARS, Stream


def stream() -> Stream:
    """Return a stream over a fresh output."""
    return Stream(NotebookNode(output_type="stream", name="stdout", text=""), "n.log")


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
    line = "0123456789" * 10 + "\n"
    count = 200_000_000 // len(line)
    notebooks.write(
        tmp_path / "n.ipynb",
        f"line = {line!r}\nfor _ in range({count // 1000}): print(line * 1000, end='')\nprint('the end')",
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
    assert peak_bytes < 400e6
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
