# SPDX-License-Identifier: Apache-2.0
"""The processes of the notebooks that run now; signals that reach us reach each of them once."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from runner.core import log
from runner.core.stop import StopKind, Stopper
from runner.machine.processes import end_with_parent

_COMMAND = (sys.executable, "-P", "-m", "runner", "run")
"""-P: a `runner.py` or `click.py` in the current folder is not ours."""

_LOOK_SECONDS = 0.05


class Children:
    """Processes of `runner run` by notebook."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.signalled: int | None = None
        self.stopper = Stopper()
        """Ends waits of this process as a signal ends the children."""
        self._environment = environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ends: dict[str, int | None] = {}
        """By notebook what becomes readable at its end; None where this system has no such thing."""

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start a notebook."""
        process = subprocess.Popen(
            [*_COMMAND, name, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            process_group=0,  # a Ctrl-C of the terminal would reach it twice otherwise
            preexec_fn=end_with_parent,  # noqa: PLW1509  (no other thread here could hold a lock)
        )
        self._processes[name] = process
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
