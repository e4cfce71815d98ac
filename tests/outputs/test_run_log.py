# SPDX-License-Identifier: Apache-2.0
"""A log is bounded, but has its beginning, its end, and notes on omissions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import cli, notebooks

from runner.core.redact import Redactor
from runner.machine import samples
from runner.outputs import run_log
from runner.outputs.run_log import KEPT, Folder, RunLog


def folded(*pieces: str) -> str:
    folder = Folder()
    return "".join(folder.feed(piece) for piece in pieces) + folder.flush()


@given(st.lists(st.sampled_from(["a", "b", "a\n", "b\n", "\n"]), max_size=KEPT))
def test_what_repeats_itself_a_little_stays_as_it_is(pieces: list[str]) -> None:
    """A few equal lines are written unchanged, in any chunks."""
    assert folded(*pieces) == "".join(pieces)


def test_a_long_run_of_one_line_is_counted() -> None:
    """The first lines are written, then a note, then the following text."""
    assert folded("retry\n" * 12_356 + "done\n") == "retry\n" * (KEPT + 1) + "[the same line 12,345 more times]\ndone\n"


def test_the_count_goes_on_after_what_another_wrote() -> None:
    """An event between equal lines gets its note, and the lines after it are still folded."""
    folder = Folder()

    first = folder.feed("retry\n" * 111) + folder.flush()
    second = folder.feed("retry\n" * 50) + folder.flush()

    assert first.endswith("[the same line 100 more times]\n")
    assert second == "[the same line 50 more times]\n"
    assert folder.folded_lines == 150


def test_text_without_a_newline_is_written_at_once() -> None:
    """A progress bar is seen as it grows."""
    folder = Folder()

    assert [folder.feed(piece) for piece in (".", ".", ".\n.", "")] == [".", ".", ".\n.", ""]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound a log at 10 kB and twice 4 kB."""
    monkeypatch.setattr(run_log, "HEAD_BYTES", 10_000)
    monkeypatch.setattr(run_log, "TAIL_BYTES", 4_000)


@pytest.mark.usefixtures("small")
def test_a_log_that_grows_too_long_keeps_head_and_tail(tmp_path: Path) -> None:
    """At every moment the file is bounded, begins as it began and ends with the newest line."""
    path = tmp_path / "n.log"
    written = 0
    with RunLog(path, Redactor(())) as log:
        for number in range(5000):
            log.printed(line := f"line {number} of many\n")
            written += len(line)
            if number % 100 == 99:
                text = path.read_text()
                assert len(text) <= 10_000 + 2 * 4_000 + 100
                assert text.startswith("line 0 of many\n")
                assert text.endswith(line)
        left_out = log.left_out_bytes
        assert log.bounds == f"{run_log.format_bytes(left_out)} omitted from the middle"
    lines = path.read_text().splitlines()
    (note,) = [line for line in lines if line.startswith("[")]
    assert "of this log omitted here" in note
    kept = [line for line in lines if line != note]
    assert sum(len(line) + 1 for line in kept) + left_out == written
    numbers = [int(line.split()[1]) for line in kept]
    assert numbers == sorted(numbers)


@pytest.mark.usefixtures("small")
def test_one_line_without_end_is_bounded_too(tmp_path: Path) -> None:
    """Text that never ends its line leaves no larger file."""
    path = tmp_path / "n.log"
    with RunLog(path, Redactor(())) as log:
        for _ in range(100):
            log.printed("x" * 1000)
        assert path.stat().st_size <= 10_000 + 2 * 4_000 + 1_100


def test_a_client_that_retries_for_ever_leaves_a_small_log_and_a_word_in_the_record(tmp_path: Path) -> None:
    """The record notes that the log was truncated, and by how much."""
    source = notebooks.write(tmp_path / "n.ipynb", "for _ in range(200_000): print('retrying the connection')")

    ended = cli.runner("run", source, "--output-dir", tmp_path / "out", "--no-html")

    assert ended.code == 0, ended.err
    text = (tmp_path / "out" / "n.log").read_text()
    assert text.count("retrying the connection\n") < 1000
    assert " more times]\n" in text
    (warning,) = cli.metrics(tmp_path / "out", "n")["warnings"]
    assert warning.startswith("n.log is truncated: ")
    assert "repeated lines folded" in warning


def test_samples_are_thinned_out_as_their_file_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the ticks is not ten times the file; omitted ticks are counted, lines are complete."""
    monkeypatch.setattr(samples, "PART_BYTES", 2_000)
    file = samples.SamplesFile(tmp_path / "n.samples.csv")
    for tick in range(100_000):
        file.tick([samples.row(tick / 2, "", None, 1_000_000, 50.0)])
    file.close()

    lines = (tmp_path / "n.samples.csv").read_text().splitlines()
    assert sum(map(len, lines)) < 2_000 * 18
    assert len(lines) - 1 + file.left_out_ticks == 100_000
    assert {line.count(",") for line in lines} == {len(samples.COLUMNS) - 1}
    times = [float(line.partition(",")[0]) for line in lines[1:]]
    assert times == sorted(times)
    assert times[-1] > 45_000
