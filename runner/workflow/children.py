# SPDX-License-Identifier: Apache-2.0
"""Processes of the running notebooks; a signal is forwarded to each of them once."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Self

from runner.core import log
from runner.core.stop import StopKind, Stopper

if TYPE_CHECKING:
    from runner.plan.job import Job
    from runner.run.progress import Progress

_LONGEST_BYTES = 1 << 16
"""Longest line that is shown."""
_ANSWER_SECONDS = 1.0
"""How long to wait for the output of a process that has ended."""
_STDERR = 2
_CHUNK_BYTES = 1 << 16
_LOST = -signal.SIGKILL
"""Exit code of processes whose server died."""
_PATIENCE_SECONDS = 30.0
"""How long to wait for these processes, which got SIGTERM."""


class Children:
    """Processes of `runner run` by notebook.

    Parameters
    ----------
    progress
        Display for their output and logs. Without it both go to stderr; if ``quiet``, output is dropped.
    """

    def __init__(self, environment: Mapping[str, str], progress: Progress | None, *, quiet: bool) -> None:
        self.signalled: int | None = None
        self.stopper = Stopper()
        """Interrupts waits of this process on a signal."""
        self._environment = environment
        self._progress = progress
        self._quiet = quiet
        self._answers: dict[str, threading.Thread] = {}
        self._names: dict[int, str] = {}
        """Names of the running notebooks by pid."""
        self._server: ForkServer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server:
            self._server.close()

    def start(self, job: Job, arguments: Sequence[str]) -> None:
        """Start a notebook."""
        name = job.name
        self._server = self._server or ForkServer(self._environment)
        with contextlib.ExitStack() as stack:
            stdout = stderr = _STDERR
            if self._progress:
                self._progress.begin(name, job.path(".running"))
                answers, stdout = _pipe(stack)
                logged, stderr = _pipe(stack)
                self._answers[name] = _reading(answers, self._progress.screen.print)
                _reading(logged, partial(self._progress.logged, name))
            elif self._quiet:
                stdout = stack.enter_context(Path(os.devnull).open("wb")).fileno()
            self._names[self._server.start(["run", name, *arguments], stdout, stderr)] = name
        if self.signalled is not None:
            self._signal(self.signalled)

    def wait(self, seconds: float) -> dict[str, int]:
        """Wait until a notebook has ended or the time is over, and return the exit codes of all that have ended."""
        ended = self._server.ended(seconds) if self._server else {}
        codes = {self._names.pop(pid): code for pid, code in ended.items()}
        for name in codes:
            if self._progress:
                self._answers.pop(name).join(_ANSWER_SECONDS)
        return codes

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Forward a signal."""
        if self.signalled is None:
            self.signalled = number
            name = signal.Signals(number).name
            log.warning("signal", name=name, action="ending the notebooks, then the report")
            self.stopper.request(StopKind(name), f"received {name}")
            self._signal(number)

    def _signal(self, number: int) -> None:
        for pid in list(self._names):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class ForkServer:
    """Client of the fork server and its processes; a dead server is replaced.

    Parameters
    ----------
    environment
        Environment of all processes.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._ended: dict[int, int] = {}
        self.running: set[int] = set()
        """Pids of running processes."""
        self._serve()

    def _serve(self) -> None:
        self._unread = b""
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "runner.fork_server", str(theirs.fileno())],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                process_group=0,  # a Ctrl-C of the terminal would reach the notebooks twice otherwise
                pass_fds=[theirs.fileno()],
            )

    def start(self, arguments: Sequence[str], stdout: int, stderr: int) -> int:
        """Start ``runner`` with these arguments and file descriptors, and return its pid.

        Raises
        ------
        OSError
            The server has ended.
        """
        if self._server.poll() is not None:
            self._mark_lost()
            self._socket.close()
            self._serve()
        request = json.dumps(list(arguments)).encode() + b"\n"
        sent = socket.send_fds(self._socket, [request], [stdout, stderr])
        self._socket.sendall(request[sent:])
        while (message := self._receive()) is not None:
            if "started" in message:
                self.running.add(message["started"])
                return message["started"]
        raise OSError(f"the process that starts the notebooks ended with exit status {self._server.wait()}")

    def close(self) -> None:
        """End the server, which sends SIGTERM to running processes."""
        self._socket.close()
        self._server.wait()

    def ended(self, seconds: float) -> dict[int, int]:
        """Return exit codes by pid once processes have ended; empty after a timeout."""
        while not self._ended and self.running and select.select([self._socket], [], [], seconds)[0]:
            if self._receive() is None:
                self._mark_lost()
        ended, self._ended = self._ended, {}
        self.running -= set(ended)
        return ended

    def _mark_lost(self) -> None:
        """Record the end of all running processes, which get SIGTERM when the server dies; exit codes are unknown."""
        while self._receive() is not None:  # its last messages
            pass
        lost = self.running - set(self._ended)
        _wait_for(lost)
        self._ended |= dict.fromkeys(lost, _LOST)

    def _receive(self) -> dict[str, int] | None:
        """Return a message, after recording an exit code in it; None if the server has ended."""
        while b"\n" not in self._unread:
            with contextlib.suppress(ConnectionResetError):
                if data := self._socket.recv(_CHUNK_BYTES):
                    self._unread += data
                    continue
            return None
        line, self._unread = self._unread.split(b"\n", 1)
        message: dict[str, int] = json.loads(line)
        if "ended" in message:
            self._ended[message["ended"]] = message["code"]
        return message


def _wait_for(pids: Iterable[int]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)


def _pipe(stack: contextlib.ExitStack) -> tuple[IO[bytes], int]:
    """Return the read end as a file, and the write end, which is closed with the stack."""
    reader, writer = os.pipe()
    stack.callback(os.close, writer)
    return os.fdopen(reader, "rb"), writer


def _reading(stream: IO[bytes], take: Callable[[str], None]) -> threading.Thread:
    """Pass on the lines of a process in a thread; processes that outlive it may keep the stream open forever."""

    def read() -> None:
        with contextlib.suppress(OSError, ValueError), stream:
            while line := stream.readline(_LONGEST_BYTES):
                take(line.decode(errors="replace"))

    thread = threading.Thread(target=read, name="output", daemon=True)
    thread.start()
    return thread
