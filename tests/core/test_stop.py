# SPDX-License-Identifier: Apache-2.0
"""The first request ends a run, from any source and at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support.cli import PATIENCE

from runner.core.stop import StopKind, StoppedError, Stopper


def test_the_first_request_is_the_reason() -> None:
    """Later ones have no effect and are not passed on."""
    stopper, heard = Stopper(), []
    stopper.listen(heard.append)
    stopper.request(StopKind.CELL_TIMEOUT, "first")
    stopper.request(StopKind.SIGTERM, "second")

    assert stopper.stop is not None
    assert (stopper.stop.kind, stopper.stop.detail) == (StopKind.CELL_TIMEOUT, "first")
    assert [stop.detail for stop in heard] == ["first"]


def test_who_listens_late_is_told_at_once() -> None:
    """A request that came before the kernel is not lost."""
    stopper, heard = Stopper(), []
    stopper.request(StopKind.SIGINT, "early")
    stopper.listen(heard.append)

    assert [stop.detail for stop in heard] == ["early"]


def test_of_many_threads_one_is_first() -> None:
    """All see the same request, and it is passed on once."""
    stopper, heard, gate = Stopper(), [], threading.Barrier(20)
    stopper.listen(heard.append)

    def ask(number: int) -> None:
        gate.wait(PATIENCE)
        stopper.request(StopKind.MEMORY_GUARD, str(number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert heard == [stopper.stop]


def test_waiting_ends_with_the_request() -> None:
    """Who waits for memory learns of it; without a request the wait just ends."""
    stopper = Stopper()
    stopper.sleep(0.01)
    stopper.check()
    threading.Timer(0.05, stopper.request, [StopKind.SIGTERM, "enough"]).start()

    with pytest.raises(StoppedError, match="enough"):
        stopper.sleep(PATIENCE)
    with pytest.raises(StoppedError):
        stopper.sleep(0)


@pytest.mark.parametrize(("kind", "by_signal"), [(kind, kind.startswith("SIG")) for kind in StopKind])
def test_only_signals_leave_little_time(kind: StopKind, by_signal: bool) -> None:
    """A deadline of ours may take its time to save."""
    stopper = Stopper()
    stopper.request(kind, "x")
    assert stopper.stop is not None
    assert stopper.stop.by_signal is by_signal


def test_signals_are_requests_for_the_length_of_the_block() -> None:
    """Before and after it the handlers are those of before."""
    before = signal.getsignal(signal.SIGTERM)
    stopper = Stopper()
    with stopper.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while stopper.stop is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert stopper.stop is not None
    assert stopper.stop.detail == "received SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)], ids=lambda x: str(int(x))
)
def test_each_signal_has_its_exit_code(number: signal.Signals, code: int) -> None:
    """A closed terminal ends a run like SIGTERM, with the same exit code."""
    stopper = Stopper()
    with stopper.on_signals():
        os.kill(os.getpid(), number)
        with pytest.raises(StoppedError) as caught:
            stopper.sleep(PATIENCE)
    assert caught.value.exit_code == code
    assert caught.value.stop.kind == number.name


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    """A run under nohup outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopper = Stopper()
    try:
        with stopper.on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            stopper.sleep(0.05)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


INTERRUPTED_LOG = """
import os, pathlib, signal, sys
from runner.core import log
from runner.core.redact import Redactor
from runner.outputs.run_log import RunLog
from runner.core.stop import Stopper

class Stream:
    fired = False
    def write(self, text):
        if not Stream.fired:
            Stream.fired = True
            os.kill(os.getpid(), signal.SIGTERM)
        return sys.__stderr__.write(text)
    def flush(self):
        sys.__stderr__.flush()

stopper = Stopper()
with RunLog(pathlib.Path(sys.argv[1]), Redactor()) as runlog, stopper.on_signals():
    sys.stderr = Stream()
    with runlog._lock:
        log.info("in the middle")
print(stopper.stop.detail)
"""


def test_a_signal_in_the_middle_of_a_log_line_does_not_hang_the_run(tmp_path) -> None:
    """The handler logs, too; it must not wait for a lock that the interrupted code holds."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_LOG, str(tmp_path / "n.log")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert (done.returncode, done.stdout.strip()) == (0, "received SIGTERM"), done.stderr
    assert "signal level=warning name=SIGTERM" in (tmp_path / "n.log").read_text()
