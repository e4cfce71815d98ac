# SPDX-License-Identifier: Apache-2.0
"""A kubectl for tests: records each call, answers from a small cluster held in a folder.

It keeps objects as the API server returns them, runs `exec` on a local directory in place of the volume, passes
`kustomize` to the real kubectl, and can lose its connection. A thread of the test's process answers all else, as a
new Python for each call would take most of the time.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socketserver
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

REAL = shutil.which("kubectl")

_PROGRAM = """#!/bin/bash
folder='{folder}' here="$folder/call.$$"
for argument in "$@"; do
  case $argument in exec | kustomize) exec '{python}' "$folder/bin/kubectl.py" "$@" ;; esac
done
[[ " $* " != *" - "* ]] || cat >"$here.given"
exec 3<>/dev/tcp/127.0.0.1/{port}
printf '%s\\0' "$here" "$#" "$@" >&3
read -r code <&3
cat "$here.out"
cat "$here.err" >&2
rm -f "$here".*
exit "${{code:-1}}"
"""
_STREAMING = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.kubectl import stream
stream({{folder!r}}, sys.argv[1:])
"""

KINDS = {
    "pipelineruns.tekton.dev": "PipelineRun",
    "taskruns.tekton.dev": "TaskRun",
    "nodes": "Node",
    "storageclasses": "StorageClass",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "namespace": "Namespace",
    "configmap": "ConfigMap",
    "persistentvolumeclaim": "PersistentVolumeClaim",
    "tasks.tekton.dev": "Task",
    "pipelines.tekton.dev": "Pipeline",
    "crd": "CustomResourceDefinition",
    "pod": "Pod",
    "serviceaccount": "ServiceAccount",
    "secret": "Secret",
    "resourcequotas": "ResourceQuota",
    "resourceslices.resource.k8s.io": "ResourceSlice",
    "deviceclasses.resource.k8s.io": "DeviceClass",
}


class FakeKubectl:
    """The cluster of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volume = folder / "volume"
        self.volume.mkdir(parents=True)
        (folder / "objects.json").write_text("[]")
        (folder / "trouble.json").write_text("[]")
        (folder / "real.json").write_text(json.dumps(REAL))
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        (bin_folder / "kubectl.py").write_text(_STREAMING.format(folder=str(folder)))
        program = bin_folder / "kubectl"
        program.write_text(_PROGRAM.format(folder=folder, python=sys.executable, port=_port(os.getpid())))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"

    def add(self, *objects: dict[str, Any]) -> None:
        """Put objects onto the cluster."""
        self._write([*self.objects(), *objects])

    def objects(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return what is on the cluster."""
        found = json.loads((self.folder / "objects.json").read_text())
        return [one for one in found if kind in {None, one["kind"]}]

    def _write(self, objects: list[dict[str, Any]]) -> None:
        (self.folder / "objects.json").write_text(json.dumps(objects))

    def trouble(self, *messages: str) -> None:
        """Let the next calls fail with these messages; an empty one lets a call through."""
        (self.folder / "trouble.json").write_text(json.dumps(messages))

    def calls(self) -> list[dict[str, Any]]:
        """Return each call: its arguments and what it was given on stdin."""
        log = self.folder / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def arguments(self) -> list[str]:
        """Return the calls as text."""
        return [" ".join(call["arguments"]) for call in self.calls()]


def tekton_cluster(namespace: str) -> list[dict[str, Any]]:
    """Return a namespace of a cluster with Tekton and a default storage class; it has no nodes."""
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    return [
        {"kind": "CustomResourceDefinition", "metadata": {"name": "pipelines.tekton.dev"}},
        {"kind": "ConfigMap", "metadata": {"name": "pipelines-info"}, "data": {"version": "v1.15.0"}},
        {"kind": "Namespace", "metadata": {"name": namespace}},
        {"kind": "StorageClass", "metadata": {"name": "standard", "annotations": default}},
    ]


def node(
    name: str, *, gpus: str = "0", memory_mib: str | None = None, cpu: str = "64", memory: str = "256Gi", **status: Any
) -> dict[str, Any]:
    """Return a node that offers this."""
    labels = {"nvidia.com/gpu.memory": memory_mib} if memory_mib else {}
    allocatable = {"cpu": cpu, "memory": memory, "nvidia.com/gpu": gpus}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": allocatable, **status},
    }


class _RefusedError(Exception):
    """A call that fails with this message."""


class _Handler(socketserver.StreamRequestHandler):
    """One call, except those that stream."""

    def handle(self) -> None:
        here, count = self._field(), int(self._field())
        arguments = [self._field() for _ in range(count)]
        given = Path(f"{here}.given")
        text = reason = ""
        try:
            text = answer(str(given.parent), arguments, given.read_text() if given.exists() else "")
        except _RefusedError as refused:
            reason = f"{refused}\n"
        Path(f"{here}.out").write_text(text)
        Path(f"{here}.err").write_text(reason)
        self.wfile.write(b"1\n" if reason else b"0\n")

    def _field(self) -> str:
        return b"".join(iter(lambda: self.rfile.read(1), b"\0")).decode()


@functools.cache
def _port(_pid: int) -> int:
    """Start this process's server and return its port."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, name="kubectl", daemon=True).start()
    return int(server.server_address[1])


def answer(folder: str, arguments: list[str], given: str) -> str:
    """Return the output of one call.

    Raises
    ------
    _RefusedError
        It fails.
    """
    home = Path(folder)
    with (home / "calls.jsonl").open("a") as log:
        log.write(json.dumps({"arguments": arguments, "stdin": given}) + "\n")
    trouble = json.loads((home / "trouble.json").read_text())
    if trouble:
        (home / "trouble.json").write_text(json.dumps(trouble[1:]))
        if trouble[0]:
            raise _RefusedError(trouble[0])
    rest = list(arguments)
    for option in ("--context", "--namespace"):
        if option in rest:
            position = rest.index(option)
            del rest[position : position + 2]
    return _Cluster(home).answer(rest, given)


def stream(folder: str, arguments: list[str]) -> None:
    """Run a call that reads or writes its streams as it goes on."""
    try:
        answer(folder, arguments, "")
    except _RefusedError as refused:
        sys.exit(str(refused))


class _Cluster:
    """The effect of a call on the objects."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.objects = json.loads((home / "objects.json").read_text())

    def save(self) -> None:
        (self.home / "objects.json").write_text(json.dumps(self.objects))

    def answer(self, arguments: list[str], given: str) -> str:
        text: str = getattr(self, f"do_{arguments[0]}")(arguments[1:], given)
        return text

    def do_version(self, arguments: list[str], given: str) -> str:
        return json.dumps({"serverVersion": {"gitVersion": "v1.34.0"}})

    def do_config(self, arguments: list[str], given: str) -> str:
        return "scrna"

    def do_kustomize(self, arguments: list[str], given: str) -> str:
        real = json.loads((self.home / "real.json").read_text())  # on the PATH of this process we stand first
        sys.exit(subprocess.run([real, "kustomize", *arguments], check=False).returncode)

    def do_get(self, arguments: list[str], given: str) -> str:
        kind = KINDS[arguments[0]]
        found = [one for one in self.objects if one["kind"] == kind]
        if "-l" in arguments:
            wanted = dict(pair.split("=") for pair in arguments[arguments.index("-l") + 1].split(","))
            found = [one for one in found if wanted.items() <= one["metadata"].get("labels", {}).items()]
        if len(arguments) > 1 and not arguments[1].startswith("-"):
            named = [one for one in found if one["metadata"]["name"] == arguments[1]]
            if not named:
                raise _RefusedError(f'Error from server (NotFound): {arguments[0]} "{arguments[1]}" not found')
            return json.dumps(named[0])
        return json.dumps({"items": found})

    def do_create(self, arguments: list[str], given: str) -> str:
        if arguments[0] == "namespace":
            document = {"kind": "Namespace", "metadata": {"name": arguments[1]}}
        else:
            document = json.loads(given)
            metadata = document["metadata"]
            metadata["name"] = metadata.get("name") or f"{metadata['generateName']}{len(self.objects):05x}"
            metadata["uid"] = f"uid-{metadata['name']}"
            metadata.setdefault("creationTimestamp", f"2026-11-01T00:00:{len(self.objects):02d}Z")
        if "--dry-run=server" not in arguments:
            self.objects.append(document)
            self.save()
        return json.dumps(document)

    def do_apply(self, arguments: list[str], given: str) -> str:
        import yaml

        created = []
        for document in yaml.safe_load_all(given):
            if "--dry-run=server" not in arguments:
                key = (document["kind"], document["metadata"]["name"])
                before = [one for one in self.objects if (one["kind"], one["metadata"]["name"]) == key]
                owners = [owner for one in before for owner in one["metadata"].get("ownerReferences", [])]
                if owners:
                    document["metadata"]["ownerReferences"] = owners
                self.objects = [one for one in self.objects if one not in before]
                self.objects.append(document)
            created.append(f"{document['kind'].lower()}/{document['metadata']['name']} created\n")
        self.save()
        return "".join(created)

    def do_patch(self, arguments: list[str], given: str) -> str:
        found = False
        for one in self.objects:
            if one["kind"] == KINDS[arguments[0]] and one["metadata"]["name"] == arguments[1]:
                patch = json.loads(arguments[arguments.index("-p") + 1])
                one.get("spec", {}).update(patch.get("spec", {}))
                # As the API server does it: by uid, beside those that are there.
                owners = one["metadata"].setdefault("ownerReferences", [])
                owners += patch.get("metadata", {}).get("ownerReferences", [])
                found = True
        self.save()
        if not found:
            raise _RefusedError(f'Error from server (NotFound): {arguments[0]} "{arguments[1]}" not found')
        return ""

    def do_delete(self, arguments: list[str], given: str) -> str:
        if "-f" in arguments:
            import yaml

            gone = {(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(given)}
            self.objects = [one for one in self.objects if (one["kind"], one["metadata"]["name"]) not in gone]
        elif "-l" in arguments:
            self.objects = [one for one in self.objects if one["kind"] != KINDS[arguments[0]]]
        else:
            names = {argument for argument in arguments[1:] if not argument.startswith("-")}
            kind = KINDS[arguments[0]]
            self.objects = [one for one in self.objects if one["kind"] != kind or one["metadata"]["name"] not in names]
        self.save()
        return ""

    def do_wait(self, arguments: list[str], given: str) -> str:
        return "condition met\n"

    def do_logs(self, arguments: list[str], given: str) -> str:
        return f"log of {arguments[0]}\n"

    def do_exec(self, arguments: list[str], given: str) -> str:
        volume = str(self.home / "volume")
        command = [part.replace("/volume", volume) for part in arguments[arguments.index("--") + 1 :]]
        command[0] = sys.executable
        limit = self.home / "cut.json"
        if not limit.exists():
            sys.exit(subprocess.run(command, check=False).returncode)
        done = subprocess.run(command, check=False, capture_output=True)
        cut = json.loads(limit.read_text())
        if len(done.stdout) > cut:  # the connection ends in the middle of a long answer, once
            limit.unlink()
            sys.stdout.buffer.write(done.stdout[:cut])
            sys.stdout.flush()
            raise _RefusedError("error: unexpected EOF")
        sys.stdout.buffer.write(done.stdout)
        return ""
