# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel before the first cell, in a namespace of its own.

Standard library and what ipykernel itself needs only: the kernel may be another Python than ours.
Each part may fail without harm to the notebook, and none of its hooks raises into a cell.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
from pathlib import Path
from typing import Any

PIECE_CHARS = 1_000_000


def write_tracebacks_of_crashes() -> None:
    """Let a crash leave its traceback in a file.

    PYTHONFAULTHANDLER=1 is useless under ipykernel, whose capture of fd 2 swallows the traceback.
    """
    faulthandler.enable(Path(os.environ["RUNNER_FAULT_LOG"]).open("a"))  # noqa: SIM115  (open as long as we live)


def lose_no_output() -> None:
    """Make the kernel wait instead of dropping messages when it prints faster than we read.

    ZeroMQ's publisher drops messages once a thousand wait, the one that says that a cell has ended
    among them, and memory grows without bound before that. With a low mark and no dropping, the
    printing cell is slowed down to the pace of its reader.
    """
    from ipykernel.kernelapp import IPKernelApp

    kernel = IPKernelApp.instance()
    publisher = kernel.iopub_socket.io_thread
    _hold_back(publisher)
    kernel.shell.events.register("pre_execute", lambda: _hold_back(publisher))


def _hold_back(publisher: Any) -> None:
    """Set the low mark of the readers that there are: one who connects later gets the mark of the bind."""
    import zmq

    def set_options() -> None:
        with contextlib.suppress(Exception):  # it runs in the thread that sends all outputs
            publisher.socket.setsockopt(zmq.XPUB_NODROP, 1)
            publisher.socket.setsockopt(zmq.SNDHWM, 8)

    if publisher.thread.is_alive():  # not in a forked child
        publisher.schedule(set_options)


def print_in_pieces() -> None:
    """Send what is printed every few megabytes, and wait until it is sent.

    The kernel collects prints for a fifth of a second, which can be hundreds of megabytes in one
    message; its reader would need several times as much memory to take it apart.
    """
    from ipykernel.iostream import OutStream

    # Not `write`, which `%%capture` and IPython put something else in the place of.
    schedule_flush = OutStream._schedule_flush  # noqa: SLF001

    def flush_soon_or_now(stream: Any) -> None:
        schedule_flush(stream)  # type: ignore[no-untyped-call]
        with contextlib.suppress(Exception):  # the cell's `print` must not raise what is our fault
            if _waiting_chars(stream) >= PIECE_CHARS:
                _send(stream)

    OutStream._schedule_flush = flush_soon_or_now  # type: ignore[method-assign]  # noqa: SLF001


def _waiting_chars(stream: Any) -> int:
    """Return how much was printed and not sent. The sending thread takes the buffers away and closes them."""
    with stream._buffer_lock:  # noqa: SLF001
        return sum(buffer.tell() for buffer in stream._buffers.values())  # noqa: SLF001


def _send(stream: Any) -> None:
    """Flush for sure: the stream's own flush gives up after ten seconds.

    Never called with the lock held, which the sending thread needs.
    """
    publisher = stream.pub_thread
    if threading.current_thread() is publisher.thread:
        return
    _hold_back(publisher)
    sent = threading.Event()
    publisher.schedule(stream._flush)  # noqa: SLF001
    publisher.schedule(sent.set)
    while publisher.thread.is_alive() and not sent.wait(1.0):
        pass


def keep_no_copy_of_prints() -> None:
    """Stop IPython 9 from keeping all that is printed until the kernel ends, for its magic `%notebook`."""
    from IPython.core.interactiveshell import InteractiveShell

    if hasattr(InteractiveShell, "_tee"):
        keep_nothing: Any = lambda _shell, channel: contextlib.nullcontext()  # noqa: E731, ARG005
        InteractiveShell._tee = keep_nothing  # type: ignore[method-assign]  # noqa: SLF001


for _part in (write_tracebacks_of_crashes, lose_no_output, print_in_pieces, keep_no_copy_of_prints):
    with contextlib.suppress(Exception):
        _part()
