# SPDX-License-Identifier: Apache-2.0
"""A kubectl for tests: records each call, answers from a small cluster held in a folder.

It keeps objects as the API server would hand them out, runs `exec` on a local folder that stands for the
volume, passes `kustomize` on to the real kubectl, and can lose its connection.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

REAL = shutil.which("kubectl")

_PROGRAM = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.kubectl import main
main({{folder!r}}, sys.argv[1:])
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
        program = bin_folder / "kubectl"
        program.write_text(_PROGRAM.format(folder=str(folder)))
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


def main(folder: str, arguments: list[str]) -> None:
    """Answer one call."""
    home = Path(folder)
    given = "" if sys.stdin is None or "-" not in arguments else sys.stdin.read()
    with (home / "calls.jsonl").open("a") as log:
        log.write(json.dumps({"arguments": arguments, "stdin": given}) + "\n")
    trouble = json.loads((home / "trouble.json").read_text())
    if trouble:
        (home / "trouble.json").write_text(json.dumps(trouble[1:]))
        if trouble[0]:
            _fail(trouble[0])
    rest = list(arguments)
    for option in ("--context", "--namespace"):
        if option in rest:
            position = rest.index(option)
            del rest[position : position + 2]
    _Cluster(home).answer(rest, given)


def _fail(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(1)


class _Cluster:
    """What a call does to the objects."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.objects = json.loads((home / "objects.json").read_text())

    def save(self) -> None:
        (self.home / "objects.json").write_text(json.dumps(self.objects))

    def answer(self, arguments: list[str], given: str) -> None:
        getattr(self, f"do_{arguments[0]}")(arguments[1:], given)

    def do_version(self, arguments: list[str], given: str) -> None:
        print(json.dumps({"serverVersion": {"gitVersion": "v1.34.0"}}))

    def do_config(self, arguments: list[str], given: str) -> None:
        print("scrna", end="")

    def do_kustomize(self, arguments: list[str], given: str) -> None:
        real = json.loads((self.home / "real.json").read_text())  # on the PATH of this process we stand first
        sys.exit(subprocess.run([real, "kustomize", *arguments], check=False).returncode)

    def do_get(self, arguments: list[str], given: str) -> None:
        kind = KINDS[arguments[0]]
        found = [one for one in self.objects if one["kind"] == kind]
        if "-l" in arguments:
            wanted = dict(pair.split("=") for pair in arguments[arguments.index("-l") + 1].split(","))
            found = [one for one in found if wanted.items() <= one["metadata"].get("labels", {}).items()]
        if len(arguments) > 1 and not arguments[1].startswith("-"):
            named = [one for one in found if one["metadata"]["name"] == arguments[1]]
            if not named:
                _fail(f'Error from server (NotFound): {arguments[0]} "{arguments[1]}" not found')
            print(json.dumps(named[0]))
            return
        print(json.dumps({"items": found}))

    def do_create(self, arguments: list[str], given: str) -> None:
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
        print(json.dumps(document))

    def do_apply(self, arguments: list[str], given: str) -> None:
        import yaml

        for document in yaml.safe_load_all(given):
            if "--dry-run=server" not in arguments:
                key = (document["kind"], document["metadata"]["name"])
                before = [one for one in self.objects if (one["kind"], one["metadata"]["name"]) == key]
                owners = [owner for one in before for owner in one["metadata"].get("ownerReferences", [])]
                if owners:
                    document["metadata"]["ownerReferences"] = owners
                self.objects = [one for one in self.objects if one not in before]
                self.objects.append(document)
            print(f"{document['kind'].lower()}/{document['metadata']['name']} created")
        self.save()

    def do_patch(self, arguments: list[str], given: str) -> None:
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
            _fail(f'Error from server (NotFound): {arguments[0]} "{arguments[1]}" not found')

    def do_delete(self, arguments: list[str], given: str) -> None:
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

    def do_wait(self, arguments: list[str], given: str) -> None:
        print("condition met")

    def do_logs(self, arguments: list[str], given: str) -> None:
        print(f"log of {arguments[0]}")

    def do_exec(self, arguments: list[str], given: str) -> None:
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
            _fail("error: unexpected EOF")
        sys.stdout.buffer.write(done.stdout)
