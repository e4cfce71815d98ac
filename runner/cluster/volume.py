# SPDX-License-Identifier: Apache-2.0
"""Copies a run's outputs from its volume: a helper Pod mounts it read-only, and files are copied one by one.

The Pod is deleted afterwards, and ends by itself after an hour if the client is gone. An interrupted copy resumes
at its byte offset if the file on the volume is unchanged, and a file counts only once its SHA-256 matches. Names
come from a volume that notebooks write: none may leave the target folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.cluster.kubectl import ClusterError, Kubectl, NotFoundError, drained, failure
from runner.core.errors import NetworkError, RecordError
from runner.tekton import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MOUNT = "/volume"
_LIFE_SECONDS = 3600
_WAIT_SECONDS = 300
_SLEEP = f"import time; time.sleep({_LIFE_SECONDS})"
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
    """A file on the volume."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Copied:
    """Totals of a copy."""

    files: int
    bytes: int
    unchanged: int


def claim_of(run: Mapping[str, Any], task_runs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the volume claim of a run and its sub-path.

    Raises
    ------
    NotFoundError
        The run has no volume (yet).
    """
    for owner in (*task_runs, run):
        for workspace in (owner.get("spec") or {}).get("workspaces") or ():
            claim = (workspace.get("persistentVolumeClaim") or {}).get("claimName")
            if workspace.get("name") == names.WORKSPACE and claim:
                return str(claim), str(workspace.get("subPath") or "")
    raise NotFoundError(
        f"the run {run['metadata']['name']} has no volume named {names.WORKSPACE}",
        hint="it may not have started yet, or its volume was deleted",
    )


def manifest(run: Mapping[str, Any], claim: str, image: str) -> dict[str, Any]:
    """Return the helper Pod: with the run's tolerations, and preferably on the node of its Pods."""
    spec = run.get("spec") or {}
    template = (spec.get("taskRunTemplate") or {}).get("podTemplate") or {}
    peers = {"labelSelector": {"matchLabels": {"tekton.dev/pipelineRun": run["metadata"]["name"]}}}
    near = {"weight": 100, "podAffinityTerm": {**peers, "topologyKey": "kubernetes.io/hostname"}}
    resources = {"cpu": "250m", "memory": "256Mi"}
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "fetch-outputs-", "labels": names.labels("fetch-outputs", "helper")},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _LIFE_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": template.get("securityContext")
            or {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "tolerations": template.get("tolerations") or [],
            "imagePullSecrets": template.get("imagePullSecrets") or [],
            "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [near]}},
            "containers": [
                {
                    "name": "volume",
                    "image": image,
                    "command": ["python", "-c", _SLEEP],
                    "resources": {"requests": resources, "limits": resources},
                    "securityContext": security,
                    "volumeMounts": [{"name": "volume", "mountPath": MOUNT, "readOnly": True}],
                }
            ],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}],
        },
    }


@contextlib.contextmanager
def running(kubectl: Kubectl, pod: Mapping[str, Any]) -> Iterator[str]:
    """Create the Pod, wait until it is ready, yield its name, and delete it in any case.

    Raises
    ------
    ClusterError
        The Pod does not start; the message has the reason.
    """
    name = str(kubectl.json("create", "-f", "-", stdin=json.dumps(pod))["metadata"]["name"])
    try:
        try:
            kubectl.run(
                "wait",
                "--for=condition=Ready",
                f"pod/{name}",
                f"--timeout={_WAIT_SECONDS}s",
                timeout_seconds=_WAIT_SECONDS + 30,
            )
        except ClusterError as error:
            raise ClusterError(
                f"the helper Pod does not start: {_why(kubectl.find('get', 'pod', name))}",
                hint="a ReadWriteOnce volume attached to another node is released when the Pod there ends",
            ) from error
        yield name
    finally:
        kubectl.run("delete", "pod", name, "--ignore-not-found", "--wait=false")


def _why(pod: Mapping[str, Any] | None) -> str:
    status = (pod or {}).get("status") or {}
    waiting = [(one.get("state") or {}).get("waiting") or {} for one in status.get("containerStatuses") or ()]
    words = [f"{one.get('reason')}: {one.get('message', '')}" for one in waiting if one]
    words += [str(one["message"]) for one in status.get("conditions") or () if one.get("message")]
    return "; ".join(words) or str(status.get("phase", "it was deleted"))


def listing(kubectl: Kubectl, pod: str, folder: str) -> list[Remote]:
    """Return the files below a folder of the volume, except temporary files and unsafe names."""
    text = kubectl.run("exec", pod, "--", "python", "-c", _LIST, folder)
    found = [Remote(*json.loads(line)) for line in text.splitlines() if line.startswith("[")]
    return sorted((one for one in found if _is_safe(one.path)), key=lambda one: one.path)


def _is_safe(path: str) -> bool:
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
    """Copy files of the volume to a local folder.

    Raises
    ------
    NetworkError
        A file could not be copied completely after several tries; call again to continue.
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
    """Copy one file, resuming where the last try stopped; return the number of bytes received."""
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
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found == wanted:
            os.utime(part, ns=(remote.mtime_ns, remote.mtime_ns))
            part.replace(place)
            return received
        problem = "its content differs from the volume's"
        part.unlink()
    raise NetworkError(
        f"{remote.path} could not be copied completely in {_TRIES} tries: {problem or 'the stream ended early'}",
        hint="run fetch again; it resumes where it stopped",
    )


def _receive(kubectl: Kubectl, pod: str, path: str, offset: int, part: Path) -> tuple[str, int]:
    """Append the rest of the file to the part; return the problem, if any, and the number of bytes received."""
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


def outputs_folder(sub_path: str) -> str:
    """Return the path of the outputs in the helper Pod."""
    return str(PurePosixPath(MOUNT) / sub_path / "outputs")
