# SPDX-License-Identifier: Apache-2.0
"""Copies a run's outputs from its volume to a local folder, file by file.

A copy that was cut is continued at its byte when the file on the volume is still the same, and a file
counts only after its SHA-256 agrees. Names come from a volume that notebooks write: none may leave the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from runner.cluster.helper_pod import MOUNT
from runner.cluster.kubectl import ClusterError, Kubectl, drained, failure
from runner.core.errors import NetworkError, RecordError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LIST = """
import json, os, sys
root = sys.argv[1]
for folder, _, names in os.walk(root):
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path):
            info = os.stat(path)
            print(json.dumps([os.path.relpath(path, root), info.st_size, info.st_mtime_ns]))
"""
_SEND = """
import shutil, sys
with open(sys.argv[1], "rb") as stream:
    stream.seek(int(sys.argv[2]))
    shutil.copyfileobj(stream, sys.stdout.buffer, 1 << 20)
"""
_HASH = """
import hashlib, sys
with open(sys.argv[1], "rb") as stream:
    print(hashlib.file_digest(stream, "sha256").hexdigest())
"""
_TRIES = 5
_TEMPORARY = (".part", ".running")


@dataclass(frozen=True, slots=True)
class Remote:
    """One file on the volume."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did."""

    files: int
    bytes: int
    unchanged: int


def listing(kubectl: Kubectl, pod: str, folder: str) -> list[Remote]:
    """Return the files below a folder of the volume; temporary ones and odd names are left out."""
    text = kubectl.run("exec", pod, "--", "python", "-c", _LIST, folder)
    found = [Remote(*json.loads(line)) for line in text.splitlines() if line.startswith("[")]
    return sorted((one for one in found if _sound(one.path)), key=lambda one: one.path)


def _sound(path: str) -> bool:
    pure = PurePosixPath(path)
    inside = not pure.is_absolute() and ".." not in pure.parts and path.isprintable()
    return inside and not path.endswith(_TEMPORARY)


def copy(
    kubectl: Kubectl,
    pod: str,
    source: str,
    files: Sequence[Remote],
    target: Path,
    *,
    say: Callable[[str], None],
) -> Copied:
    """Copy files of the volume below a local folder.

    Raises
    ------
    NetworkError
        A file could not be copied whole after several tries; call again to continue.
    RecordError
        The local folder cannot be written.
    """
    done = transferred = unchanged = 0
    for remote in files:
        place = target / remote.path
        if _same(place, remote):
            unchanged += 1
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            transferred += _copy_one(kubectl, pod, f"{source}/{remote.path}", remote, place)
        except OSError as error:
            raise RecordError(
                f"cannot write {place}: {error.strerror or error}", hint="free space or choose another folder"
            ) from error
        done += 1
        say(f"{remote.path} ({remote.size} bytes)")
    return Copied(done, transferred, unchanged)


def _same(place: Path, remote: Remote) -> bool:
    try:
        info = place.stat()
    except OSError:
        return False
    return info.st_size == remote.size and info.st_mtime_ns == remote.mtime_ns


def _copy_one(kubectl: Kubectl, pod: str, path: str, remote: Remote, place: Path) -> int:
    """Copy one file, going on where the last try stopped; return the bytes that came."""
    part = place.with_name(f".{place.name}.{remote.mtime_ns}.part")
    for stale in place.parent.glob(f".{place.name}.*.part"):
        if stale != part:
            stale.unlink()
    received = 0
    problem = ""
    for _ in range(_TRIES):
        have = part.stat().st_size if part.exists() else 0
        if have < remote.size or not part.exists():
            problem, count = _receive(kubectl, pod, path, have, part)
            received += count
        if part.stat().st_size < remote.size:
            continue
        try:
            wanted = kubectl.run("exec", pod, "--", "python", "-c", _HASH, path, timeout_seconds=1800).strip()
        except NetworkError as error:
            problem = error.message
            continue
        if _sha256(part) == wanted:
            os.utime(part, ns=(remote.mtime_ns, remote.mtime_ns))
            part.replace(place)
            return received
        problem = "its content differs from the volume's"
        part.unlink()
    raise NetworkError(
        f"{remote.path} could not be copied whole in {_TRIES} tries: {problem or 'the stream ended early'}",
        hint="call fetch again; it goes on where it stopped",
    )


def _receive(kubectl: Kubectl, pod: str, path: str, offset: int, part: Path) -> tuple[str, int]:
    """Append the file's rest to the part; return what went wrong and how much came."""
    arguments = ("exec", pod, "--", "python", "-c", _SEND, path, str(offset))
    count = 0
    with kubectl.stream(*arguments) as process, part.open("ab") as sink:
        assert process.stdout is not None
        while block := process.stdout.read(1 << 20):
            sink.write(block)
            count += len(block)
        message = drained(process.stderr)
    if process.returncode == 0:
        return "", count
    error = failure(arguments, message)
    if isinstance(error, ClusterError):
        raise error
    return error.message, count


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def outputs_folder(sub_path: str) -> str:
    """Return where the outputs lie in the helper Pod."""
    return str(PurePosixPath(MOUNT) / sub_path / "outputs")
