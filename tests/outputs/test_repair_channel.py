# SPDX-License-Identifier: Apache-2.0
"""Authentication between a held run and its repair, and their messages."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runner.core.errors import UsageError
from runner.outputs import repair_channel
from runner.outputs.claim import Claim
from runner.outputs.repair_channel import LONGEST_BYTES, Channel, Peer, connect, listening, refusal


def pair() -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    return Channel(ours), theirs


def test_the_user_alone_may_repair() -> None:
    """Another uid, another pid namespace and the notebook's own processes are refused with distinct reasons."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert refusal(Peer(os.getppid(), os.getuid()), ()) == ""
        assert "only uid" in refusal(Peer(os.getppid(), os.getuid() + 1), ())
        assert "another pid namespace" in refusal(Peer(0, os.getuid()), ())
        assert "a process of the notebook" in refusal(Peer(child.pid, os.getuid()), ())
        assert "a process of the notebook" in refusal(Peer(os.getppid(), os.getuid()), {os.getppid()})
    finally:
        child.communicate(b"\n")


def test_the_folder_of_the_socket_is_the_users_alone_and_its_path_is_short() -> None:
    """A socket's path has at most 107 bytes; the folder is gone afterwards."""
    with listening() as (_, path):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.is_socket()
        assert len(os.fsencode(path)) < 107
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "sent", [b"[1]\n", b"{]\n", b"cut off", b"[" * 100_000 + b"\n", b"x" * (LONGEST_BYTES + 2)],
    ids=["list", "syntax", "cut off", "deep", "long"],
)  # fmt: skip
def test_what_is_no_message_is_refused(sent: bytes) -> None:
    """Whatever comes, it ends in one kind of error, after a bounded number of bytes."""
    channel, theirs = pair()

    def send() -> None:
        with contextlib.suppress(OSError):
            theirs.sendall(sent)
        theirs.close()

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(ValueError, match=r"message|Expecting"):
        channel.receive()
    channel.close()
    sender.join()


def test_a_repair_that_is_too_long_is_not_sent() -> None:
    """The limit is named."""
    channel, _ = pair()
    with pytest.raises(UsageError, match=str(LONGEST_BYTES)):
        channel.send(source="x" * LONGEST_BYTES)


@pytest.fixture
def claim(tmp_path: Path):
    with Claim.of(tmp_path, "n", "run-1") as held:
        yield held


def answer_once(listener: socket.socket, **hello: object) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        connection.sendall(json.dumps(hello).encode() + b"\n")

    threading.Thread(target=answer, daemon=True).start()


def test_the_run_that_holds_the_claim_is_believed(tmp_path: Path, claim: Claim) -> None:
    """Its process is that of the claim, and it reports this notebook and folder."""
    with listening() as (listener, path):
        claim.publish(socket=str(path), held_until="2026-11-28T10:00:00Z")
        _written(tmp_path)
        answer_once(listener, notebook="n", output_dir=str(tmp_path))
        channel, hello = connect(tmp_path, "n")
        assert hello["notebook"] == "n"
        channel.close()


@pytest.mark.parametrize("hello", [{"notebook": "m"}, {"output_dir": "/"}, {"output_dir": "no such folder"}, {}])
def test_a_run_of_something_else_is_not(tmp_path: Path, claim: Claim, hello: dict[str, str]) -> None:
    """A claim that was made to lead to another held run of the same user repairs nothing there."""
    with listening() as (listener, path):
        claim.publish(socket=str(path), held_until="2026-11-28T10:00:00Z")
        _written(tmp_path)
        answer_once(listener, **({"notebook": "n", "output_dir": str(tmp_path), **hello} if hello else {}))
        with pytest.raises(UsageError, match="does not lead to the run"):
            connect(tmp_path, "n")


def test_a_socket_of_another_process_is_not_believed(tmp_path: Path, claim: Claim) -> None:
    """The system reports the owner of the socket."""
    script = "import socket, sys\ns = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('up', flush=True); input()"
    with listening() as (_, path):
        forged = str(path.with_name("f"))
        other = subprocess.Popen([sys.executable, "-c", script, forged], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert other.stdout is not None
        other.stdout.readline()
        claim.publish(socket=forged, held_until="2026-11-28T10:00:00Z")
        _written(tmp_path)
        with pytest.raises(UsageError, match=f"its socket is of pid {other.pid}"):
            connect(tmp_path, "n")
        other.communicate(b"\n")


def test_what_is_not_held_is_said_with_what_is(tmp_path: Path, claim: Claim) -> None:
    """Not running, running without a hold: two messages, and the names that are held."""
    with pytest.raises(UsageError, match="nothing is held") as running:
        connect(tmp_path, "n")
    assert "--on-failure hold" in (running.value.hint or "")
    claim.publish(held_until="2026-11-28T10:00:00Z", socket="/nowhere")
    _written(tmp_path)
    with pytest.raises(UsageError, match="m is not running") as missing:
        connect(tmp_path, "m")
    assert "held there: n" in (missing.value.hint or "")


def test_a_run_of_another_machine_is_repaired_there(tmp_path: Path, claim: Claim, monkeypatch) -> None:
    """Pids and sockets of another namespace mean nothing here."""
    monkeypatch.setattr(repair_channel.procfs, "namespace", lambda: "elsewhere")
    with pytest.raises(UsageError, match="another machine or container") as error:
        connect(tmp_path, "n")
    assert "kubectl exec" in (error.value.hint or "")


def _written(folder: Path) -> None:
    from support.cli import until

    until(lambda: 'held_until": "2026' in (folder / "n.running").read_text(), "the claim's word")
