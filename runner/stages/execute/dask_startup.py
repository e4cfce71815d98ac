# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel: saves Dask's performance report of the last cluster that a notebook used.

It starts when a client connects and is written when that client closes or on the kernel's shutdown request, as most
notebooks never close their client, and in `atexit` its thread has no executor any more. It needs bokeh. Nothing here
may raise into the notebook.
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
"""Exists while a report is pending; the runner then waits longer for the kernel's end."""
_PID = os.getpid()


class Reports:
    """The pending reports by client."""

    def __init__(self) -> None:
        self._running: dict[Any, Any] = {}

    def follow(self, module: Any) -> None:
        """Patch the client class of the just imported `distributed.client`."""
        from IPython import get_ipython  # type: ignore[attr-defined, unused-ignore]

        if importlib.util.find_spec("bokeh") is None:
            return
        begin = functools.partial(self._begin, module.performance_report)
        module.Client.__init__ = _hooked(module.Client.__init__, after=begin)
        module.Client.close = _hooked(module.Client.close, before=self._finish)
        kernel: Any = get_ipython().kernel  # type: ignore[no-untyped-call, unused-ignore]
        kernel.do_shutdown = _hooked(kernel.do_shutdown, before=self._finish_all)

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
    """Return False for the traceback that a scheduler in this process prints if bokeh does not match Dask."""
    return "performance_report" not in record.getMessage()


def _hooked(call: Any, *, before: Any = None, after: Any = None) -> Any:
    """Wrap a function to call hooks with its first argument before and after it."""

    @functools.wraps(call)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        with contextlib.suppress(Exception):
            if before is not None:
                before(*args[:1])
        result = call(*args, **kwargs)
        with contextlib.suppress(Exception):
            if after is not None:
                after(*args[:1])
        return result

    return hooked


with contextlib.suppress(Exception):
    if __name__ == "runner_dask":
        globals()["ImportWatch"]({"distributed.client": Reports().follow}).start()
