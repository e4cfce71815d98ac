# SPDX-License-Identifier: Apache-2.0
"""The processes of the notebooks that run now; signals that reach us reach each of them once."""

from __future__ import annotations

import os
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


class Children:
    """Processes of `runner run` by notebook."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.signalled: int | None = None
        self.stopper = Stopper()
        """Ends waits of this process as a signal ends the children."""
        self._environment = environment
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

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
        if self.signalled is not None:
            process.send_signal(self.signalled)

    def wait(self) -> dict[str, int]:
        """Wait until a notebook has ended and return the exit codes of all that have."""
        while True:
            ended = {name: code for name, process in self._processes.items() if (code := process.poll()) is not None}
            if ended:
                for name in ended:
                    del self._processes[name]
                return ended
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)

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
