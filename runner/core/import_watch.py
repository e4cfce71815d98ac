# SPDX-License-Identifier: Apache-2.0
"""Runs inside a Python kernel: calls back when a library was imported, and at once for one that is there.

The texts that need it find `ImportWatch` in their namespace, see `kernel_line`. The kernel may be another Python
with other packages, so what runs there needs the standard library alone and no newer syntax than that of Python 3.8.
Nothing here can raise into the notebook.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any


def kernel_line(*texts: Path, **names: str) -> str:
    """Return one expression without a value that runs these files in a namespace of their own, this one first."""
    paths = [str(path) for path in (Path(__file__), *texts)]
    opened = "exec(open(path, encoding='utf-8').read(), space)"
    return f"[{opened} for space in ({names!r},) for path in {paths!r}] and None"


class ImportWatch:
    """An import finder that leaves finding to the others.

    Parameters
    ----------
    waiting
        What to call with a module, by its name.
    """

    def __init__(self, waiting: Any) -> None:
        self.waiting = dict(waiting)

    def start(self) -> None:
        """Call for what is imported already, and wait for the rest."""
        for name in [name for name in self.waiting if name in sys.modules]:
            self._imported(name)
        if self.waiting:
            sys.meta_path.insert(0, self)

    def stop(self) -> None:
        """Call no more."""
        self.waiting = {}
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find a library as the other finders do, when it is imported."""
        if name not in self.waiting:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self or not hasattr(finder, "find_spec") else finder.find_spec(name, path, target)
            if spec is not None:
                with contextlib.suppress(Exception):  # a loader that takes none is not a library loader
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
            with contextlib.suppress(Exception):  # a library that looks different in another version is left alone
                callback(sys.modules[name])
        if not self.waiting:
            self.stop()
