# SPDX-License-Identifier: Apache-2.0
"""Import papermill without the clients of stores that only its own command reads from and writes to.

It imports each client that is installed: boto3, and in a RAPIDS image pyarrow, which brings numpy, pandas and threads.
That takes longer than all the rest of papermill. We read and write local files. `requests` it cannot do without, so
that one is imported when somebody asks it for something.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_CLIENTS = ("azure", "boto3", "gcsfs", "github", "pyarrow")


def import_papermill() -> None:
    """Import papermill and the engines of all entry points, ours among them."""
    masked = [name for name in _CLIENTS if name not in sys.modules and "papermill" not in sys.modules]
    sys.modules.update(dict.fromkeys(masked))  # type: ignore[arg-type]  # None: not to be found
    later = _Later("requests") if masked and "requests" not in sys.modules else None
    if later:
        sys.modules["requests"] = later
    try:
        import papermill.engines  # noqa: F401
    finally:
        for name in masked:
            del sys.modules[name]
        if later and sys.modules.get("requests") is later:
            del sys.modules["requests"]


class _Later(ModuleType):
    """Stands for a module until an attribute of it is wanted."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)
