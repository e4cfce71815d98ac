# SPDX-License-Identifier: Apache-2.0
"""A server process that imports the modules of a run once, and forks a process per notebook.

Imports take a third of the time of a small notebook. `multiprocessing`'s fork server is not suitable: it
lives as long as any of its children, so nothing would end the notebooks of a killed ``run-all``.

The server only imports and forks, without threads, GPUs or files. It ends with its parent process, and
its children then receive SIGTERM.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

from runner.core.papermill_import import import_papermill
from runner.machine.processes import end_with_parent

_CHUNK_BYTES = 1 << 16
_IGNORED: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Server:
    """The server, which runs in its own process.

    Parameters
    ----------
    connection
        Socket of the client; the server ends when it is closed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._waker)
        self._handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
        self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> list[str] | None:
        """Fork a process for each request; return its arguments in the child, None at the end of the server."""
        while True:
            ready = select.select([self._connection.fileno(), self._woken], [], [])[0]
            if self._woken in ready:
                os.read(self._woken, _CHUNK_BYTES)
                for pid, code in _reaped():
                    self._send(ended=pid, code=code)
            if self._connection.fileno() in ready:
                request, outputs, _, _ = socket.recv_fds(self._connection, _CHUNK_BYTES, 2)
                while request and not request.endswith(b"\n"):
                    request += self._connection.recv(_CHUNK_BYTES)
                if not request:
                    return None
                if self._fork(outputs):
                    arguments: list[str] = json.loads(request)
                    return arguments

    def _fork(self, outputs: Sequence[int]) -> bool:
        """Fork; return True in the child, in which signals and outputs are set up as in a new process."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)  # until the child has its handlers
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            end_with_parent()
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
        if pid:
            self._send(started=pid)
        elif os.getppid() == server:
            for number, output in enumerate(outputs, start=1):
                os.dup2(output, number)
            os.close(self._woken)
            os.close(self._waker)
            self._connection.close()
        else:
            sys.exit(128 + signal.SIGTERM)
        for output in outputs:
            os.close(output)
        return pid == 0

    def _send(self, **message: int) -> None:
        with contextlib.suppress(OSError):  # the client is gone, which the next read detects
            self._connection.sendall(json.dumps(message).encode() + b"\n")


def _reaped() -> Iterator[tuple[int, int]]:
    """Yield pid and exit code of each ended child."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def preload() -> None:
    """Import the modules of `runner run`, none of which starts a thread."""
    import_papermill()  # first: it imports runner's engine by its entry point

    import nbformat.v4

    import runner.commands.run
    import runner.run.execution
    import runner.run.observer
    import runner.run.preparation
    import runner.run.resume
    import runner.run.verification
    import runner.stages.convert.html_cells
    import runner.stages.convert.page
    import runner.stages.execute.kernel
    import runner.stages.execute.session
    import runner.stages.gate.gate
    import runner.stages.prepare.prepare

    runner.stages.convert.page.preload([{"cell_type": "markdown"}])
    nbformat.v4.new_output("stream")  # compiles the schema that validates each output
    gc.freeze()  # keep memory pages shared with the children


def main() -> None:
    """Serve, and run the command in a forked child."""
    server = Server(socket.socket(fileno=int(sys.argv[1])))
    preload()
    arguments = server.serve()
    if arguments is not None:
        sys.argv = ["runner", *arguments]
        from runner.cli import main as run

        run()


if __name__ == "__main__":
    main()
