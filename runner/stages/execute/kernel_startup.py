# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel before the first cell, in a separate namespace.

Uses only the standard library and ipykernel's dependencies: the kernel may be another Python.
Each part may fail without harm to the notebook, and no hook raises into a cell.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
from pathlib import Path
from typing import Any

PIECE_CHARS = 50_000
"""Printed text in one message; a thousand of them can be queued."""


def write_tracebacks_of_crashes() -> None:
    """Write the traceback of a crash to a file.

    PYTHONFAULTHANDLER=1 has no effect under ipykernel, which captures fd 2.
    """
    faulthandler.enable(Path(os.environ["RUNNER_FAULT_LOG"]).open("a"))  # noqa: SIM115  (stays open until the process ends)


def block_when_full() -> None:
    """Make the kernel block, not drop messages, if it prints faster than runner reads.

    ZeroMQ's publisher drops messages when a thousand are queued, including the one that ends a cell. That limit is
    not lowered: the reader of a connection acknowledges messages by the hundreds, so a connection that has carried
    more messages than a new limit would block for ever. The size of the pieces bounds the memory.
    """
    import zmq
    from ipykernel.kernelapp import IPKernelApp

    publisher = IPKernelApp.instance().iopub_socket.io_thread

    def set_option() -> None:
        with contextlib.suppress(Exception):  # runs in the thread that sends all outputs
            publisher.socket.setsockopt(zmq.XPUB_NODROP, 1)

    publisher.schedule(set_option)


def print_in_pieces() -> None:
    """Send printed text in pieces, and wait until each is sent.

    The kernel collects prints for a fifth of a second, which can be hundreds of megabytes in one
    message; its reader would need several times as much memory to parse it.
    """
    from ipykernel.iostream import OutStream

    # Not `write`, which `%%capture` and IPython replace.
    schedule_flush = OutStream._schedule_flush  # noqa: SLF001

    def flush_soon_or_now(stream: Any) -> None:
        schedule_flush(stream)  # type: ignore[no-untyped-call]
        with contextlib.suppress(Exception):  # a cell's `print` must not raise because of this hook
            if _waiting_chars(stream) >= PIECE_CHARS:
                _send(stream)

    OutStream._schedule_flush = flush_soon_or_now  # type: ignore[method-assign]  # noqa: SLF001


def _waiting_chars(stream: Any) -> int:
    """Return the number of unsent characters. The sending thread removes and closes the buffers."""
    with stream._buffer_lock:  # noqa: SLF001
        return sum(buffer.tell() for buffer in stream._buffers.values())  # noqa: SLF001


def _send(stream: Any) -> None:
    """Flush without a time limit: the stream's own flush gives up after ten seconds.

    Never call it with the buffers' lock held, which the sending thread needs.
    """
    publisher = stream.pub_thread
    if threading.current_thread() is publisher.thread:
        return
    sent = threading.Event()
    publisher.schedule(stream._flush)  # noqa: SLF001
    publisher.schedule(sent.set)
    while publisher.thread.is_alive() and not sent.wait(1.0):
        pass


def keep_no_copy_of_prints() -> None:
    """Stop IPython 9 from keeping all printed text until the kernel ends, for its magic `%notebook`."""
    from IPython.core.interactiveshell import InteractiveShell

    if hasattr(InteractiveShell, "_tee"):
        keep_nothing: Any = lambda _shell, channel: contextlib.nullcontext()  # noqa: E731, ARG005
        InteractiveShell._tee = keep_nothing  # type: ignore[method-assign]  # noqa: SLF001


for _part in (write_tracebacks_of_crashes, block_when_full, print_in_pieces, keep_no_copy_of_prints):
    with contextlib.suppress(Exception):
        _part()
