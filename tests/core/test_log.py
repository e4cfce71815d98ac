# SPDX-License-Identifier: Apache-2.0
"""The log: one event per line, in the file of the run and on stderr, with messages of libraries."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cli, notebooks

from runner.core import log
from runner.core.redact import Redactor
from runner.outputs.run_log import RunLog

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Collect the lines of the log."""
    found: list[str] = []
    remove = log.add_sink(found.append)
    yield found
    remove()


def test_a_line_has_time_event_and_quoted_values(lines: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """None is left out, numbers are short, a line break stays within its line; %-signs are nothing special."""
    log.info("cell-end", nb="a b", wall=1.5, gone=None, text="x\ny=%s", at=Path("/p"))
    log.warning("save", reason="")
    log.error("record", seconds=2.0)

    assert re.fullmatch(rf'{TIME} cell-end nb="a b" wall=1\.5 text="x\\ny=%s" at=/p', lines[0])
    assert re.fullmatch(rf'{TIME} save level=warning reason=""', lines[1])
    assert re.fullmatch(rf"{TIME} record level=error seconds=2", lines[2])
    out, err = capfd.readouterr()
    assert (out, err.splitlines()) == ("", lines)


def test_what_libraries_log_reaches_the_file_of_the_run_without_secrets(tmp_path: Path) -> None:
    """Warnings and errors of any logger, and Python's own; no lower levels, and nothing after the run."""
    logger = logging.getLogger("urllib3.connectionpool")
    with RunLog(tmp_path / "n.log", Redactor(["hunter2!"])), log.of_libraries():
        logger.warning("Retrying %s\nagain", "https://u:hunter2!@host")
        logger.info("Starting new HTTPS connection")
        logging.getLogger("traitlets").error("callback failed", exc_info=OSError("no route"))
        warnings.warn("an old spelling", UserWarning, stacklevel=1)
    logger.warning("too late")

    found = (tmp_path / "n.log").read_text().splitlines()
    assert [re.sub(TIME, "TIME", line) for line in found[:2]] == [
        'TIME library level=warning logger=urllib3.connectionpool message="Retrying https://u:[secret]@host again"',
        "TIME library level=error logger=traitlets message=\"callback failed: OSError('no route')\"",
    ]
    assert "logger=py.warnings" in found[2]
    assert "UserWarning: an old spelling" in found[2]
    assert len(found) == 3


def test_a_message_that_comes_with_each_request_is_logged_ten_times(lines: list[str]) -> None:
    """A run of hours keeps a readable log; another message still comes through, and a long one is cut."""
    with log.of_libraries():
        for number in range(5_000):
            logging.getLogger("botocore").warning("throttled %d", number)
        logging.getLogger("botocore").error("x" * 100_000)

    assert len(lines) == 11
    assert lines[9].endswith('message="throttled 9 (no more of these are logged)"')
    assert len(lines[10]) < 2_200


def test_a_message_whose_arguments_do_not_fit_is_logged_as_it_is() -> None:
    """A library's mistake must not end the run."""
    record = logging.makeLogRecord({"name": "x", "levelno": logging.ERROR, "msg": "%d of 2", "args": ("one",)})
    assert log.Logfmt().format(record).endswith('logger=x message="%d of 2"')


LIBRARIES = """
import logging
from runner.run import verification
real = verification.release
def release(*args, **options):
    for name in ("papermill", "nbclient", "traitlets", "urllib3.connectionpool"):
        logging.getLogger(name).warning("%s is not well: %s", name, "hunter2!")
    real(*args, **options)
verification.release = release
from runner.cli import main
main()
"""


def test_a_run_logs_what_its_libraries_warn_of(tmp_path: Path) -> None:
    """In NAME.log and on stderr alike, in lines as all others, without a secret."""
    source = notebooks.write(tmp_path / "n.ipynb", "1")
    ended = cli.python(
        *(LIBRARIES, "run", source, "--output-dir", tmp_path / "out", "--no-html", "--secret-env", "TOKEN"),
        env={"TOKEN": "hunter2!"},
    )

    assert ended.code == 0, ended.err
    for text in (ended.err, (tmp_path / "out" / "n.log").read_text()):
        for name in ("papermill", "nbclient", "traitlets", "urllib3.connectionpool"):
            assert f'library level=warning logger={name} message="{name} is not well: [secret]"' in text
        assert "hunter2" not in text
