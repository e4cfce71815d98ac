# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel: calls a function once a library is imported, or at once if it already is.

Scripts that need it find `ImportWatch` in their namespace, see `kernel_line`. The kernel may be another Python with
other packages, so only the standard library and the syntax of Python 3.8 are used. No exception here reaches the
notebook.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any


def kernel_line(*texts: Path, **names: str) -> str:
    """Return an expression with the value None that runs this file and then others in one separate namespace."""
    paths = [str(path) for path in (Path(__file__), *texts)]
    opened = "exec(open(path, encoding='utf-8').read(), space)"
    return f"[{opened} for space in ({names!r},) for path in {paths!r}] and None"


class ImportWatch:
    """An import finder that delegates to the other finders.

    Parameters
    ----------
    waiting
        Callbacks by module name; each is called with its module.
    """

    def __init__(self, waiting: Any) -> None:
        self.waiting = dict(waiting)

    def start(self) -> None:
        """Call back for imported modules, and watch for the rest."""
        for name in [name for name in self.waiting if name in sys.modules]:
            self._imported(name)
        if self.waiting:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Remove the finder."""
        self.waiting = {}
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec that the other finders find for a watched module."""
        if name not in self.waiting:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self or not hasattr(finder, "find_spec") else finder.find_spec(name, path, target)
            if spec is not None:
                with contextlib.suppress(Exception):  # a loader without settable attributes is not a library's
                    self._follow(spec.loader, name)
                return spec
        return None

    def _follow(self, loader: Any, name: str) -> None:
        original = loader.exec_module

        def exec_module(module: Any) -> None:
            with contextlib.suppress(AttributeError):
                del loader.exec_module
            original(module)
            self._imported(name)

        loader.exec_module = exec_module

    def _imported(self, name: str) -> None:
        callback = self.waiting.pop(name, None)
        if callback is not None:
            with contextlib.suppress(Exception):  # other versions of a library may differ
                callback(sys.modules[name])
        if not self.waiting:
            self.stop()
