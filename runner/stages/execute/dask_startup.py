# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel: keeps Dask's performance report of the last cluster that a notebook worked with.

It begins when a client connects and is written when that client closes, or when the kernel is asked to end, as most
notebooks never close theirs: in `atexit` the client's own thread has no executor any more. Without bokeh, which draws
it, there is none. Nothing here may raise into the notebook.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

_PATH = Path(os.environ["RUNNER_FAULT_LOG"]).with_name("dask.html")
_OPEN = _PATH.with_suffix(".open")
"""Is there while a report is to be written; the runner waits longer for the kernel's end."""
_PID = os.getpid()


class Reports:
    """The reports under way, by their clients."""

    def __init__(self) -> None:
        self._running: dict[Any, Any] = {}

    def follow(self, module: Any) -> None:
        """Patch the clients of `distributed.client`; it has just been imported."""
        from IPython import get_ipython  # type: ignore[attr-defined, unused-ignore]

        if importlib.util.find_spec("bokeh") is None:
            return
        begin = functools.partial(self._begin, module.performance_report)
        module.Client.__init__ = _then(module.Client.__init__, begin)
        module.Client.close = _first(module.Client.close, self._finish)
        kernel: Any = get_ipython().kernel  # type: ignore[no-untyped-call, unused-ignore]
        kernel.do_shutdown = _first(kernel.do_shutdown, self._finish_all)

    def _begin(self, report: Any, client: Any) -> None:
        if not client.asynchronous and client.status == "running" and os.getpid() == _PID:
            self._running[client] = report(filename=str(_PATH), mode="inline")
            with client.as_current():
                self._running[client].__enter__()
            _OPEN.touch()

    def _finish(self, client: Any) -> None:
        report = self._running.pop(client, None)
        if report is not None and client.status == "running" and os.getpid() == _PID:
            logger = logging.getLogger("distributed.core")
            logger.addFilter(_is_not_ours)
            try:
                with client.as_current():
                    report.__exit__(None, None, None)
            finally:
                logger.removeFilter(_is_not_ours)
            if not self._running:
                _OPEN.unlink()

    def _finish_all(self, *_: Any) -> None:
        for client in list(self._running):
            with contextlib.suppress(Exception):
                self._finish(client)


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Return False for the traceback that a scheduler in this process prints where bokeh does not match Dask."""
    return "performance_report" not in record.getMessage()


def _first(call: Any, what: Any) -> Any:
    """Return a function that does something with its first argument before it does what it did."""

    @functools.wraps(call)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(Exception):
            what(*args[:1])
        return call(*args, **kwargs)

    return replaced


def _then(call: Any, what: Any) -> Any:
    """Return a function that does something with its first argument after it did what it did."""

    @functools.wraps(call)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        with contextlib.suppress(Exception):
            what(*args[:1])
        return result

    return replaced


with contextlib.suppress(Exception):
    if __name__ == "runner_dask":
        globals()["ImportWatch"]({"distributed.client": Reports().follow}).start()
