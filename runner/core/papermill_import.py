# SPDX-License-Identifier: Apache-2.0
"""Import papermill without the clients of stores that only its own command reads from and writes to.

It imports each client that is installed: boto3, and in a RAPIDS image pyarrow, which brings numpy, pandas and threads.
That takes longer than all the rest of papermill. We read and write local files.
"""

from __future__ import annotations

import sys

_CLIENTS = ("azure", "boto3", "gcsfs", "github", "pyarrow")


def import_papermill() -> None:
    """Import papermill and the engines of all entry points, ours among them."""
    masked = [name for name in _CLIENTS if name not in sys.modules and "papermill" not in sys.modules]
    sys.modules.update(dict.fromkeys(masked))  # type: ignore[arg-type]  # None: not to be found
    try:
        import papermill.engines  # noqa: F401
    finally:
        for name in masked:
            del sys.modules[name]
