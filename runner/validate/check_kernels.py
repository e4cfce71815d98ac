# SPDX-License-Identifier: Apache-2.0
"""Check that a kernel starts and answers: socket folder, kernel spec, process, channels."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from pathlib import Path

from runner.core.errors import RunnerError
from runner.core.records import Check
from runner.core.units import format_seconds

_EXPRESSION, _ANSWER = "6 * 7", "42"
_START_SECONDS = 30.0


def check(name: str, cwd: Path) -> Check:
    """Start a kernel, evaluate an expression, and shut it down."""
    label = f"kernel {name}"
    started = time.monotonic()
    try:
        transport, answer = asyncio.run(_evaluate(name, cwd if cwd.is_dir() else Path.cwd()))
    except RunnerError as error:
        return Check(name=label, status="fail", seen=error.message, hint=error.hint or "")
    except Exception as error:  # noqa: BLE001  (any reason for no answer is a finding)
        hint = "start it manually: python -m ipykernel; check memory, open files and the temporary folder"
        return Check(name=label, status="fail", seen=f"{type(error).__name__}: {error}"[:300], hint=hint)
    took = format_seconds(time.monotonic() - started)
    if answer != _ANSWER:
        hint = "the kernel's Python is broken"
        return Check(name=label, status="fail", seen=f"{answer!r:.100}", needed=_ANSWER, hint=hint)
    if transport == "tcp":
        hint = "set RUNNER_SOCKET_DIR to a folder that allows sockets: TCP ports collide between runs"
        return Check(name=label, status="warn", seen=f"answered in {took} over tcp", needed="sockets", hint=hint)
    return Check(name=label, status="pass", seen=f"answered in {took}")


async def _evaluate(name: str, cwd: Path) -> tuple[str, str]:
    from runner.stages.execute.kernel import Kernel, check_kernel

    check_kernel(name)
    kernel = Kernel(name, cwd=cwd, env=dict(os.environ))
    try:
        await kernel.start()
        client = kernel.manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=_START_SECONDS)
            reply = await client.execute_interactive(
                "", user_expressions={"answer": _EXPRESSION}, timeout=_START_SECONDS, store_history=False
            )
        except (RuntimeError, TimeoutError) as error:
            words = " ".join(" ".join(kernel.crash_output()).split())[-200:]
            raise RuntimeError(f"{error or 'no answer'} {words}".strip()) from error
        finally:
            client.stop_channels()
        expression = reply["content"].get("user_expressions", {}).get("answer", {})
        return kernel.transport, str(expression.get("data", {}).get("text/plain", expression))
    finally:
        await kernel.shut_down(grace_seconds=2.0)
        kernel.remove_folder()


def python_of(name: str) -> str | None:
    """Return the Python of a kernel; None for another language or a missing kernel."""
    from jupyter_client.kernelspec import NoSuchKernel

    from runner.machine.kernel_specs import Kernels

    try:
        spec = Kernels().get_kernel_spec(name)
    except NoSuchKernel:
        return None
    if spec.language.lower() != "python" or not spec.argv:
        return None
    program = spec.argv[0]
    if Path(program).name in {"python", "python3"} and not Path(program).is_absolute():
        return sys.executable  # as in jupyter_client
    return shutil.which(str(program))
