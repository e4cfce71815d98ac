# SPDX-License-Identifier: Apache-2.0
"""What is asked of a kernel beside its cells: whether it is there, to clean up, and whether a source compiles."""

from __future__ import annotations

import ast
import asyncio
from queue import Empty
from typing import Any

# Runs in the kernel before it ends, for allocators with exit hooks of their own; only the
# end of the process frees the device, and only `release` proves it.
_CLEANUP_CODE = """
def _(sys=__import__('sys')):
    __import__('gc').collect()
    if 'cupy' in sys.modules:
        sys.modules['cupy'].get_default_memory_pool().free_all_blocks()
        sys.modules['cupy'].get_default_pinned_memory_pool().free_all_blocks()
    if 'rmm' in sys.modules:
        sys.modules['rmm'].reinitialize(pool_allocator=False)
_()
"""
# Expressions, so that nothing of them stays in the notebook's namespace or history.
_TRANSFORMED = "__import__('IPython').get_ipython().transform_cell({source!r})"
_COMPILED = f"__import__('builtins').compile({_TRANSFORMED}, 'cell', 'exec', {ast.PyCF_ALLOW_TOP_LEVEL_AWAIT})"
_SYNTAX_ERRORS = {"SyntaxError", "IndentationError", "TabError"}
_SECONDS = 5.0


async def answer(kc: Any, asked: set[str], seconds: float) -> dict[str, Any] | None:
    """Return the reply to one of several requests for the kernel's info, or None in time.

    Both channels are read at once, so that no first output is missed: a kernel whose outputs nobody takes waits
    instead of answering.
    """
    asked.add(kc.kernel_info())
    reply, heard = await asyncio.gather(
        _matching(kc.shell_channel, asked, seconds), _matching(kc.iopub_channel, asked, seconds)
    )
    return reply if heard is not None else None


async def clean_up(kc: Any) -> None:
    """Have the allocators of the kernel give back what they hold."""
    await _matching(kc.shell_channel, {kc.execute(_CLEANUP_CODE, silent=True, store_history=False)}, _SECONDS)


async def syntax_problem(kc: Any, source: str) -> str | None:
    """Return why the Python of an idle kernel cannot compile a cell; None if it can, or if no Python answers."""
    expressions = {"compiled": _COMPILED.format(source=source)}
    asked = kc.execute("", silent=True, store_history=False, user_expressions=expressions)
    reply = await _matching(kc.shell_channel, {asked}, _SECONDS)
    found = ((reply or {}).get("content", {}).get("user_expressions") or {}).get("compiled") or {}
    return f"{found['ename']}: {found['evalue']}" if found.get("ename") in _SYNTAX_ERRORS else None


async def _matching(channel: Any, requests: set[str], seconds: float) -> dict[str, Any] | None:
    """Return the next message on a channel that belongs to one of the requests, or None in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while (left := deadline - loop.time()) > 0:
        try:
            message: dict[str, Any] = await channel.get_msg(timeout=left)
        except Empty:
            return None
        if message["parent_header"].get("msg_id") in requests:
            return message
    return None
