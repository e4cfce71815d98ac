# SPDX-License-Identifier: Apache-2.0
"""What of our own environment a kernel inherits: all but our options and what is meant for another program."""

from __future__ import annotations

from collections.abc import Mapping

_COMMANDS = (
    "run", "run_all", "status", "repair", "verify", "compare", "clean", "parameters", "kernels", "fit", "forecast",
    "gate", "convert", "report", "validate", "fetch", "clone", "plan", "cluster", "demo",
)  # fmt: skip
_OWN = tuple(f"RUNNER_{command.upper()}_" for command in _COMMANDS)
_INTERNAL = frozenset(
    {"RUNNER_SOCKET_DIR", "RUNNER_LOCK_DIR", "RUNNER_IMAGE", "RUNNER_ALLOCATOR_PROBE", "RUNNER_FAULT_LOG"}
)


def kernel_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a kernel gets from the process that starts it.

    Names like ``RUNNER_TEMP`` and ``RUNNER_TOOL_CACHE`` are those of GitHub's runners and stay. MPLBACKEND goes:
    with the backend of a batch job around us, figures would be missing from the notebook. Who wants one says so in
    the plan's ``env`` or with ``--env``.

    >>> kernel_environment({"RUNNER_RUN_TIMEOUT": "2h", "RUNNER_TEMP": "/t", "MPLBACKEND": "Agg", "HOME": "/h"})
    {'RUNNER_TEMP': '/t', 'HOME': '/h'}
    """
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_OWN) and name not in _INTERNAL and name != "MPLBACKEND"
    }
