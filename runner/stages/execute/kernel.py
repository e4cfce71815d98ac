# SPDX-License-Identifier: Apache-2.0
"""The kernel process: start, interrupt, kill, and explain its exit.

Its channels are UNIX sockets in a private folder with a short path (a socket path has at most
107 bytes, and TCP ports collide when kernels start concurrently:
https://github.com/nteract/papermill/issues/511). If no socket can be created there, TCP is used
with a warning. The private folder also has the output of a kernel without working channels: its
raw stderr and the traceback of `faulthandler` after a crash.

Besides cells, a kernel handles requests for its info, to clean up, and to compile a source.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from queue import Empty
from typing import Any

import zmq.asyncio
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from runner.core import files, log, procfs
from runner.core.errors import BrokenInputError, did_you_mean
from runner.machine.kernel_specs import Kernels

FAULT_LOG = "RUNNER_FAULT_LOG"
STARTUP = "RUNNER_KERNEL_STARTUP"
WAITING_MESSAGES = 8
"""Maximum number of outputs queued here; the kernel queues more, then blocks: `kernel_startup.block_when_full`."""
# A single expression with a separate namespace, so that nothing is left in the notebook's.
_RUN_STARTUP = f"exec(open(__import__('os').environ['{STARTUP}']).read(), {{'__name__': 'runner_startup'}})"

_COMMANDS = (
    "run", "run_all", "status", "repair", "verify", "compare", "clean", "parameters", "kernels", "fit", "forecast",
    "gate", "convert", "report", "validate", "fetch", "clone", "plan", "cluster", "demo",
)  # fmt: skip
_OWN_OPTIONS = tuple(f"RUNNER_{command.upper()}_" for command in _COMMANDS)
_OWN_VARIABLES = frozenset(
    {"RUNNER_SOCKET_DIR", "RUNNER_LOCK_DIR", "RUNNER_IMAGE", "RUNNER_ALLOCATOR_PROBE", "RUNNER_FAULT_LOG"}
)
# Runs in the kernel before it ends, for allocators with exit hooks; only the end of the process
# frees the device, and only `release` proves it.
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
# Expressions, which leave nothing in the notebook's namespace or history.
_TRANSFORMED = "__import__('IPython').get_ipython().transform_cell({source!r})"
_COMPILED = f"__import__('builtins').compile({_TRANSFORMED}, 'cell', 'exec', {ast.PyCF_ALLOW_TOP_LEVEL_AWAIT})"
_SYNTAX_ERRORS = {"SyntaxError", "IndentationError", "TabError"}
_SECONDS = 5.0


def kernel_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a kernel inherits from the process that starts it.

    Names like ``RUNNER_TEMP`` and ``RUNNER_TOOL_CACHE`` belong to GitHub's runners and are kept. MPLBACKEND is
    removed: with the backend of a surrounding batch job, figures would be missing from the notebook. Set it in the
    plan's ``env`` or with ``--env``.

    >>> kernel_environment({"RUNNER_RUN_TIMEOUT": "2h", "RUNNER_TEMP": "/t", "MPLBACKEND": "Agg", "HOME": "/h"})
    {'RUNNER_TEMP': '/t', 'HOME': '/h'}
    """
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_OWN_OPTIONS) and name not in _OWN_VARIABLES and name != "MPLBACKEND"
    }


def check_kernel(name: str) -> str:
    """Return the name of a kernel if it is installed.

    Raises
    ------
    BrokenInputError
        It is not installed, with a list of those that are; or its spec is damaged.
    """
    specs = Kernels()
    try:
        argv = specs.get_kernel_spec(name).argv
    except NoSuchKernel:
        if os.sep in name:
            missing = not Path(name).expanduser().exists()
            raise BrokenInputError(
                f"the environment {name!r} {'does not exist' if missing else 'has no Jupyter kernel'}",
                hint="`runner kernels` lists the available kernels"
                if missing
                else f"install one with `{name}/bin/python -m pip install ipykernel`",
            ) from None
        installed = sorted(specs.find_kernel_specs())
        raise BrokenInputError(
            f"no kernel named {name!r} is installed; installed: {', '.join(installed) or 'none'}",
            hint=f"{did_you_mean(name, installed)}choose one with --kernel (`runner kernels`), "
            "or install it with `python -m pip install ipykernel` in its environment",
        ) from None
    except Exception as error:  # a foreign file: not JSON, wrong types, unreadable
        raise _broken_spec(specs, name, str(error) or type(error).__name__) from error
    if not argv or not argv[0]:
        raise _broken_spec(specs, name, "its `argv` has no program")
    return name


def _broken_spec(specs: Kernels, name: str, problem: str) -> BrokenInputError:
    folder = specs.find_kernel_specs().get(name, name)
    return BrokenInputError(
        f"the kernel {name!r} cannot be used: {folder}/kernel.json: {' '.join(problem.split())}",
        hint="correct the file, or install the kernel again with `python -m ipykernel install`",
    )


class Kernel:
    """A kernel process and its private folder.

    Parameters
    ----------
    name
        Name of an installed kernel spec.
    cwd
        Working directory of the kernel.
    env
        Its complete environment.
    startup
        Lines of Python run before the first cell, outside of history and namespace.
    """

    def __init__(self, name: str, *, cwd: Path, env: Mapping[str, str], startup: tuple[str, ...] = ()) -> None:
        self.name = name
        self.cwd = cwd
        self.folder = files.private_folder("run")
        self.fault_log = self.folder / "fault.log"
        self.stderr_log = self.folder / "stderr.log"
        startup_code = Path(__file__).with_name("kernel_startup.py")
        self._env = {**env, FAULT_LOG: str(self.fault_log), STARTUP: str(startup_code)}
        self._startup = startup
        self.transport = _transport(self.folder)
        # A signature key per process keeps other users of the machine out of TCP channels.
        self.manager = AsyncKernelManager(
            kernel_name=name,
            kernel_spec_manager=Kernels(),
            transport=self.transport,
            connection_file=str(self.folder / "k.json"),
            shutdown_wait_time=5.0,
        )
        if self.transport == "ipc":
            self.manager.ip = str(self.folder / "k")
        self.pid: int | None = None
        self._process: Any = None

    def client(self) -> Any:
        """Return a client with open channels."""
        context = zmq.asyncio.Context()
        context.setsockopt(zmq.RCVHWM, WAITING_MESSAGES)
        client = self.manager.client(context=context)
        client.start_channels(hb=False)  # the process itself shows whether it is alive
        client.allow_stdin = False
        return client

    async def start(self) -> int:
        """Start the process and return its pid, without waiting until it answers.

        Raises
        ------
        BrokenInputError
            It cannot be started, for example because its program is missing or its spec is damaged.
        """
        arguments: list[str] = []
        try:
            if any("ipykernel" in part for part in self.manager.kernel_spec.argv):
                lines = (_RUN_STARTUP, *self._startup)
                arguments = ["--HistoryManager.hist_file=:memory:", *(f"--IPKernelApp.exec_lines={x}" for x in lines)]
            with self.stderr_log.open("wb") as stderr:
                await self.manager.start_kernel(
                    extra_arguments=arguments, cwd=str(self.cwd), env=self._env, stdout=stderr, stderr=stderr
                )
        except Exception as error:  # provisioners and kernel specs may raise anything
            raise BrokenInputError(
                f"the kernel {self.name!r} cannot be started: {type(error).__name__}: {error}",
                hint="check its kernel spec",
            ) from error
        # The provisioner drops its process on shutdown, but its exit status is needed later.
        self._process = getattr(self.manager.provisioner, "process", None)
        self.pid = getattr(self._process, "pid", None)
        return self.pid or 0

    @property
    def returncode(self) -> int | None:
        """Exit status as in `subprocess` (negative: a signal), None while it runs."""
        return self._process.poll() if self._process is not None else None

    @property
    def alive(self) -> bool:
        """True if the process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_children(self) -> bool:
        """True if child processes of the kernel are running."""
        return self.pid is not None and procfs.has_children(self.pid)

    def signal_group(self, number: int) -> None:
        """Send a signal to the kernel and the children in its process group."""
        if self.pid is None or not self.alive:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def interrupt(self) -> None:
        """Interrupt the running cell as the kernel spec specifies."""
        if self.alive:
            with contextlib.suppress(Exception):  # a dying kernel may refuse; its death is detected elsewhere
                await self.manager.interrupt_kernel()

    async def ended(self, seconds: float) -> bool:
        """Wait for the process to end, for so many seconds, and return True if it has."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = 0.005
        while self.alive:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        return True

    async def shut_down(self, grace_seconds: float = 5.0) -> None:
        """End the process by a shutdown request, then SIGTERM, then SIGKILL."""
        if self.alive:
            with contextlib.suppress(Exception):
                await self.manager.request_shutdown()
            for number, seconds in ((None, grace_seconds), (signal.SIGTERM, 1.0), (signal.SIGKILL, 10.0)):
                if number is not None:
                    self.signal_group(number)
                if await self.ended(seconds):
                    break
        with contextlib.suppress(Exception):
            await self.manager.cleanup_resources()

    def crash_output(self) -> tuple[str, str]:
        """Return the output of faulthandler, and the end of the process's raw stderr."""
        return _tail(self.fault_log), _tail(self.stderr_log)

    def remove_folder(self) -> None:
        """Delete the private folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _transport(folder: Path) -> str:
    path = folder / "probe"
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(path))
        path.unlink()
    except OSError as error:
        log.warning("kernel-transport", transport="tcp", reason=f"no socket in {folder}: {error}")
        return "tcp"
    return "ipc"


def _tail(path: Path, limit: int = 20_000) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - limit))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def runs_here(name: str) -> bool:
    """Return True if a kernel uses this Python, and so the same package versions."""
    try:
        program = Path(Kernels().get_kernel_spec(name).argv[0])
    except Exception:  # noqa: BLE001  (a damaged spec is reported by `check_kernel`)
        return False
    here = Path(sys.executable)
    return (
        program.name in {"python", "python3", here.name}
        if not program.is_absolute()
        else program.resolve() == here.resolve()
    )


def python_of(name: str) -> str | None:
    """Return the Python executable of a kernel, None if it is another language or unknown."""
    try:
        spec = Kernels().get_kernel_spec(name)
    except Exception:  # noqa: BLE001  (a damaged spec is reported by `check_kernel`)
        return None
    program = shutil.which(spec.argv[0]) if spec.argv else None
    return program if spec.language.lower() == "python" else None


async def answer(kc: Any, asked: set[str], seconds: float) -> dict[str, Any] | None:
    """Return the reply to one of several kernel info requests, None after the timeout.

    Both channels are read concurrently: a kernel whose outputs are not read blocks instead of answering.
    """
    asked.add(kc.kernel_info())
    reply, output = await asyncio.gather(
        _matching(kc.shell_channel, asked, seconds), _matching(kc.iopub_channel, asked, seconds)
    )
    return reply if output is not None else None


async def clean_up(kc: Any) -> None:
    """Release the memory pools of the kernel's allocators."""
    await _matching(kc.shell_channel, {kc.execute(_CLEANUP_CODE, silent=True, store_history=False)}, _SECONDS)


async def syntax_problem(kc: Any, source: str) -> str | None:
    """Compile a cell in an idle Python kernel and return its syntax error, None without error or reply."""
    expressions = {"compiled": _COMPILED.format(source=source)}
    asked = kc.execute("", silent=True, store_history=False, user_expressions=expressions)
    reply = await _matching(kc.shell_channel, {asked}, _SECONDS)
    found = ((reply or {}).get("content", {}).get("user_expressions") or {}).get("compiled") or {}
    return f"{found['ename']}: {found['evalue']}" if found.get("ename") in _SYNTAX_ERRORS else None


async def _matching(channel: Any, requests: set[str], seconds: float) -> dict[str, Any] | None:
    """Return the next message on a channel for one of the requests, None after the timeout."""
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
