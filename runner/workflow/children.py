# SPDX-License-Identifier: Apache-2.0
"""The processes of the notebooks that run now; signals that reach us reach each of them once."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from runner.core import log
from runner.core.stop import StopKind, Stopper
from runner.machine.processes import end_with_parent

if TYPE_CHECKING:
    from runner.plan.job import Job
    from runner.run.progress import Progress

_LONGEST_BYTES = 1 << 16
"""Of a line that is shown."""
_ANSWER_SECONDS = 1.0
"""How long the answer of a process that has ended is waited for."""
_COMMAND = (sys.executable, "-P", "-m", "runner", "run")
"""-P: a `runner.py` or `click.py` in the current folder is not ours."""

_LOOK_SECONDS = 0.05


class Children:
    """Processes of `runner run` by notebook.

    Parameters
    ----------
    progress
        What shows their answers and takes their logs; without it both go to stderr, answers not if it is ``quiet``.
    """

    def __init__(self, environment: Mapping[str, str], progress: Progress | None, *, quiet: bool) -> None:
        self.signalled: int | None = None
        self.stopper = Stopper()
        """Ends waits of this process as a signal ends the children."""
        self._environment = environment
        self._progress = progress
        self._stdout: Any = subprocess.PIPE if progress else subprocess.DEVNULL if quiet else sys.stderr
        self._answers: dict[str, threading.Thread] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ends: dict[str, int | None] = {}
        """By notebook what becomes readable at its end; None where this system has no such thing."""

    def start(self, job: Job, arguments: Sequence[str]) -> None:
        """Start a notebook."""
        name = job.name
        process = subprocess.Popen(
            [*_COMMAND, name, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=subprocess.PIPE if self._progress else None,
            process_group=0,  # a Ctrl-C of the terminal would reach it twice otherwise
            preexec_fn=end_with_parent,  # noqa: PLW1509  (takes no lock that another thread could hold)
        )
        self._processes[name] = process
        if self._progress:
            self._progress.begin(name, job.path(".running"))
            self._answers[name] = _reading(process.stdout, self._progress.screen.print)
            _reading(process.stderr, partial(self._progress.logged, name))
        try:
            self._ends[name] = os.pidfd_open(process.pid)
        except OSError:
            self._ends[name] = None
        if self.signalled is not None:
            process.send_signal(self.signalled)

    def wait(self, seconds: float) -> dict[str, int]:
        """Wait until a notebook has ended, or so long, and return the exit codes of all that have."""
        ends, poller = self._ends.values(), select.poll()
        for end in ends:
            if end is not None:
                poller.register(end, select.POLLIN)
        poller.poll(1000 * (min(seconds, _LOOK_SECONDS) if None in ends else seconds))
        ended = {name: code for name, process in self._processes.items() if (code := process.poll()) is not None}
        for name in ended:
            del self._processes[name]
            if (end := self._ends.pop(name)) is not None:
                os.close(end)
            if self._progress:
                self._answers.pop(name).join(_ANSWER_SECONDS)
        return ended

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Hand on a signal."""
        if self.signalled is None:
            self.signalled = number
            name = signal.Signals(number).name
            log.warning("signal", name=name, action="ending the notebooks, then the report")
            self.stopper.request(StopKind(name), f"received {name}")
            for process in list(self._processes.values()):
                if process.poll() is None:
                    process.send_signal(number)


def _reading(stream: IO[bytes] | None, take: Callable[[str], None]) -> threading.Thread:
    """Give away the lines of a process; what a notebook leaves behind may keep the stream open for ever."""
    assert stream is not None

    def read() -> None:
        with contextlib.suppress(OSError, ValueError), stream:
            while line := stream.readline(_LONGEST_BYTES):
                take(line.decode(errors="replace"))

    thread = threading.Thread(target=read, name="output", daemon=True)
    thread.start()
    return thread
