# SPDX-License-Identifier: Apache-2.0
"""The processes of the notebooks that run now; signals that reach us reach each of them once."""

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
"""Of a line that is shown."""
_ANSWER_SECONDS = 1.0
"""How long the answer of a process that has ended is waited for."""
_STDERR = 2
_CHUNK_BYTES = 1 << 16
_LOST = -signal.SIGKILL
"""Exit code of processes whose server is gone."""
_PATIENCE_SECONDS = 30.0
"""How long those are waited for: SIGTERM has reached them."""


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
        self._quiet = quiet
        self._answers: dict[str, threading.Thread] = {}
        self._names: dict[int, str] = {}
        """Of the notebooks that run, by pid."""
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
        """Wait until a notebook has ended, or so long, and return the exit codes of all that have."""
        ended = self._server.ended(seconds) if self._server else {}
        codes = {self._names.pop(pid): code for pid, code in ended.items()}
        for name in codes:
            if self._progress:
                self._answers.pop(name).join(_ANSWER_SECONDS)
        return codes

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Hand on a signal."""
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
    """The server, and the processes that it forked, as their starter sees them; one that died has a successor.

    Parameters
    ----------
    environment
        That of all processes.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._ended: dict[int, int] = {}
        self.running: set[int] = set()
        """Pids."""
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
        """Start ``runner`` with these arguments and outputs and return its pid.

        Raises
        ------
        OSError
            The server has ended.
        """
        if self._server.poll() is not None:
            self._lose()
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
        """End the server; processes that still run hear SIGTERM."""
        self._socket.close()
        self._server.wait()

    def ended(self, seconds: float) -> dict[int, int]:
        """Return exit codes by pid once processes have ended, or none after so many seconds."""
        while not self._ended and self.running and select.select([self._socket], [], [], seconds)[0]:
            if self._receive() is None:
                self._lose()
        ended, self._ended = self._ended, {}
        self.running -= set(ended)
        return ended

    def _lose(self) -> None:
        """Note the end of all that run, which hear SIGTERM as the server dies; nobody has their exit codes."""
        while self._receive() is not None:  # what it said last
            pass
        lost = self.running - set(self._ended)
        _wait_for(lost)
        self._ended |= dict.fromkeys(lost, _LOST)

    def _receive(self) -> dict[str, int] | None:
        """Take a message, and note an end; None where the server is gone."""
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
    """Return the reading end as a file, and the writing end, which closes with the stack."""
    reader, writer = os.pipe()
    stack.callback(os.close, writer)
    return os.fdopen(reader, "rb"), writer


def _reading(stream: IO[bytes], take: Callable[[str], None]) -> threading.Thread:
    """Give away the lines of a process; what a notebook leaves behind may keep the stream open for ever."""

    def read() -> None:
        with contextlib.suppress(OSError, ValueError), stream:
            while line := stream.readline(_LONGEST_BYTES):
                take(line.decode(errors="replace"))

    thread = threading.Thread(target=read, name="output", daemon=True)
    thread.start()
    return thread
