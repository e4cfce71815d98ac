# SPDX-License-Identifier: Apache-2.0
"""Protocol between `runner repair` and a held run: one JSON message per line over a UNIX socket.

The socket is in a folder that only this user can access. Each side gets the identity of its peer from the system: a
notebook runs as the same user and can write `NAME.running`, so neither a path nor a message proves anything. A run
refuses its own processes; a client refuses all but the run that holds the claim.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runner.core import files, procfs
from runner.core.errors import UsageError, did_you_mean
from runner.core.units import format_moment
from runner.machine.processes import RUN_NAME, RUN_TAG
from runner.outputs import claim

LONGEST_BYTES = 16 << 20
"""Longest message; a notebook is sent without its outputs."""
_SECONDS = 10.0
_CREDENTIALS = struct.Struct("3i")


class Peer(NamedTuple):
    """The process at the other end, as reported by the system; pid 0 is in another pid namespace."""

    pid: int
    uid: int


class Channel:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(_SECONDS)
        self._lines = connection.makefile("rb")
        pid, uid, _gid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self.peer = Peer(pid, uid)

    def send(self, **message: Any) -> None:
        """Send a message.

        Raises
        ------
        UsageError
            It is too long.
        OSError
            The peer is gone, or does not read.
        """
        line = json.dumps(message).encode() + b"\n"
        if len(line) > LONGEST_BYTES:
            raise UsageError(
                f"the repair has {len(line)} bytes, the limit is {LONGEST_BYTES}", hint="shorten its cells"
            )
        self._connection.sendall(line)

    def receive(self, *, patiently: bool = False) -> dict[str, Any] | None:
        """Return the next message, None at the end; ``patiently`` waits without a time limit.

        Raises
        ------
        ValueError
            The message is invalid or too long.
        OSError
            The connection broke or timed out.
        """
        self._connection.settimeout(None if patiently else _SECONDS)
        line = self._lines.readline(LONGEST_BYTES + 1)
        if not line.endswith(b"\n"):
            if line:
                raise ValueError("the message is truncated or too long")
            return None
        try:
            message = json.loads(line)
        except RecursionError as error:
            raise ValueError("the message is nested too deeply") from error
        if not isinstance(message, dict):
            raise ValueError("the message is not a mapping")  # noqa: TRY004
        return message

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._connection.close()


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, Path]]:
    """Listen on a new socket within the block."""
    folder = files.private_folder("hold")
    path = folder / "s"
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(8)
            yield listener, path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def connect(folder: Path, name: str) -> tuple[Channel, dict[str, Any]]:
    """Connect to the held run of a notebook, and return the channel and the description of its failure.

    Raises
    ------
    UsageError
        No notebook of this name is held in the folder, or another process answers in its place; nothing was sent.
    """
    running = claim.read(folder / f"{name}.running")
    if running is None:
        held = [path.stem for path in folder.glob("*.running") if (one := claim.read(path)) and one.held_until]
        others = f"{did_you_mean(name, held)}held there: {', '.join(sorted(held)) or 'none'}"
        raise UsageError(f"{name} is not running in {folder}, so nothing is held", hint=f"{others}; see --output-dir")
    if running.namespace != procfs.namespace():
        raise UsageError(
            f"{name} runs on {running.host}, which is another machine or container",
            hint=f"repair it there: kubectl exec {running.host} -- runner repair {name} --output-dir ...",
        )
    if claim.died_here(running):
        raise UsageError(f"the run that held {name} is gone (pid {running.pid})", hint="run the notebook again")
    if not running.socket or not running.held_until:
        at = f", in cell {running.cell_index + 1} of {running.cell_count}" if running.cell_index is not None else ""
        raise UsageError(f"{name} runs{at}: nothing is held", hint="a failure is held with --on-failure hold")
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(running.socket)
        channel = Channel(connection)
    except (OSError, ValueError) as error:
        text = f"the run of {name} (pid {running.pid}) does not answer: {error}"
        raise UsageError(text, hint=f"it was held until {format_moment(running.held_until)}; see its log") from error
    problem = _identity_problem(channel.peer, running.pid)
    hello: dict[str, Any] = {}
    if not problem:
        with contextlib.suppress(OSError, ValueError):
            hello = channel.receive() or {}
        problem = _mismatch(hello, folder, name)
    if problem:
        channel.close()
        raise UsageError(
            f"{name}.running does not lead to the run of {name}: {problem}; nothing was sent",
            hint="something other than a run changed the file; it is rewritten within seconds: try again",
        )
    return channel, hello


def refusal(peer: Peer, own: Collection[int]) -> str:
    """Return the reason why a peer may not repair this run's notebook; empty if it may.

    Parameters
    ----------
    own
        Pids of the notebook.
    """
    if peer.uid != os.getuid():
        return f"only uid {os.getuid()} may repair this notebook, not uid {peer.uid}"
    if peer.pid <= 0:
        return "a process of another pid namespace cannot be distinguished from the notebook's own"
    if peer.pid in own or any(stat.pid == os.getpid() for stat in procfs.ancestors(peer.pid)):
        return "a process of the notebook cannot repair it"
    return ""


def _identity_problem(peer: Peer, holder: int) -> str:
    """Return the reason why the peer is not the run that holds the claim; empty if it may be."""
    if peer.pid != holder or peer.uid != os.getuid():
        return f"its socket is of pid {peer.pid} (uid {peer.uid}), not of pid {holder} (uid {os.getuid()})"
    parents = list(procfs.ancestors(peer.pid))
    tagged = any(
        f"\0{RUN_TAG}=".encode() in b"\0" + procfs.content_of(f"/proc/{pid}/environ", 4 << 20)
        for pid in (peer.pid, *(stat.pid for stat in parents))
    )
    if tagged or any(stat.name == RUN_NAME for stat in parents):
        return f"pid {peer.pid} is a process of a notebook"
    return ""


def _mismatch(hello: Mapping[str, Any], folder: Path, name: str) -> str:
    """Return the reason why a run is not of this notebook and folder; empty if it is."""
    with contextlib.suppress(OSError):
        if hello.get("notebook") == name and folder.samefile(str(hello.get("output_dir"))):
            return ""
    return f"that run holds {str(hello.get('notebook'))[:100]!r} in {str(hello.get('output_dir'))[:300]!r}"
