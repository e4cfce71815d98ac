# SPDX-License-Identifier: Apache-2.0
"""Import papermill without the storage clients that only its own command uses.

papermill imports each installed client: boto3, and in a RAPIDS image pyarrow, which pulls in numpy, pandas and
threads. That takes longer than the rest of papermill, and only local files are read and written here. `requests`
cannot be omitted, so its import is deferred until first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_CLIENTS = ("azure", "boto3", "gcsfs", "github", "pyarrow")


def import_papermill() -> None:
    """Import papermill and the engines of all entry points, including the runner's."""
    masked = [name for name in _CLIENTS if name not in sys.modules and "papermill" not in sys.modules]
    sys.modules.update(dict.fromkeys(masked))  # type: ignore[arg-type]  # None: ImportError
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
    """A placeholder that imports a module on first attribute access."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)
