# SPDX-License-Identifier: Apache-2.0
"""What tests of the manifests share: reading them, filling in parameters, and the schemas of Tekton."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TEKTON = ROOT / "tekton"
REFERENCE = re.compile(r"\$\(([^)]+)\)")

Document = dict[str, Any]


@cache
def documents(folder: str) -> dict[str, Document]:
    """Return the documents of a folder by file and position."""
    found = {}
    for path in sorted((TEKTON / folder).glob("*.yaml")):
        for number, document in enumerate(yaml.safe_load_all(path.read_text())):
            found[f"{path.name}#{number}" if number else path.name] = document
    return found


def of_kind(*kinds: str) -> list[tuple[str, Document]]:
    """Return file and document of every object of these kinds."""
    folders = ("tasks", "stepactions", "pipelines", "pipelineruns", "configs", "examples")
    return [(name, doc) for folder in folders for name, doc in documents(folder).items() if doc["kind"] in kinds]


def tasks() -> dict[str, Document]:
    """Return the Tasks by name."""
    return {doc["metadata"]["name"]: doc for _, doc in of_kind("Task")}


def pipelines() -> dict[str, Document]:
    """Return the Pipelines by name."""
    return {doc["metadata"]["name"]: doc for _, doc in of_kind("Pipeline")}


def pipeline_tasks(pipeline: Document) -> list[Document]:
    """Return tasks and finally tasks of a pipeline."""
    return [*pipeline["spec"]["tasks"], *pipeline["spec"].get("finally", [])]


def pipeline_of(run: Document) -> str:
    """Return the name of a run's pipeline, also where a resolver is to find it."""
    reference = run["spec"]["pipelineRef"]
    found: str = reference.get("name") or next(one["value"] for one in reference["params"] if one["name"] == "name")
    return found


def texts(value: Any) -> Iterator[str]:
    """Yield every text in a document."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def references(value: Any, prefix: str) -> set[str]:
    """Return the names of `$(prefix.NAME...)` in a document."""
    found = set()
    for text in texts(value):
        for reference in REFERENCE.findall(text):
            if reference.startswith(f"{prefix}."):
                found.add(re.split(r"[.\[]", reference.removeprefix(f"{prefix}."))[0])
    return found


def filled(task: Document, given: dict[str, Any], workspaces: dict[str, str]) -> Document:
    """Return a Task's spec as Tekton would run it: parameters and workspaces replaced by their values."""
    values = {param["name"]: param.get("default") for param in task["spec"]["params"]} | given
    return _fill(copy.deepcopy(task["spec"]), values, workspaces)


def _fill(value: Any, params: dict[str, Any], workspaces: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(inner, params, workspaces) for key, inner in value.items()}
    if isinstance(value, list):
        found = []
        for item in value:
            whole = re.fullmatch(r"\$\(params\.([\w-]+)\[\*\]\)", item) if isinstance(item, str) else None
            found += params[whole[1]] if whole else [_fill(item, params, workspaces)]
        return found
    if isinstance(value, str):
        return REFERENCE.sub(lambda match: _value(match[1], params, workspaces), value)
    return value


def _value(reference: str, params: dict[str, Any], workspaces: dict[str, str]) -> str:
    kind, _, rest = reference.partition(".")
    if kind == "params":
        assert isinstance(params[rest], str), f"{rest} has no value"
        return str(params[rest])
    if kind == "workspaces":
        return workspaces.get(rest.removesuffix(".path"), "")
    if reference == "context.task.retry-count":
        return "0"
    raise AssertionError(f"nobody fills in $({reference})")


def rendering(path: Path) -> list[str]:
    """Return the arguments of the command that a checked-in file names in its heading."""
    lines = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
    start = next(number for number, line in enumerate(lines) if line.startswith("runner plan render"))
    command = []
    for line in lines[start:]:
        command.append(line.removesuffix("\\").strip())
        if not line.endswith("\\"):
            break
    return shlex.split(" ".join(command))[1:]


def crd_schemas() -> tuple[dict[str, Document], str]:
    """Return the closed schemas by kind, or an empty dict and why there are none."""
    folder = os.environ.get("TEKTON_CRD_DIR")
    if folder:
        found = [yaml.safe_load(path.read_text()) for path in sorted(Path(folder).glob("*.yaml"))]
    else:
        asked = subprocess.run(
            [
                "kubectl",
                "get",
                "crd",
                "-o",
                "yaml",
                *(f"{kind}s.tekton.dev" for kind in _KINDS),
                "--request-timeout=5s",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode != 0 or "versions:" not in asked.stdout:
            return {}, "TEKTON_CRD_DIR is not set and the current cluster, if any, has no Tekton"
        found = yaml.safe_load(asked.stdout)["items"]
    schemas = {}
    for crd in found:
        for version in crd["spec"]["versions"]:
            if version["name"] == _VERSIONS.get(kind := crd["spec"]["names"]["kind"], "v1"):
                schemas[kind] = closed(version["schema"]["openAPIV3Schema"])
    return schemas, ""


_KINDS = ("task", "taskrun", "pipeline", "pipelinerun", "stepaction")
_VERSIONS = {"StepAction": "v1beta1"}


def closed(schema: Any) -> Any:
    """Return a schema in which an object knows no other keys than those it names."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema["properties"], dict):
        found["properties"] = {key: closed(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found = {key: value for key, value in found.items() if key not in {"type", "anyOf"}} | {
            "type": ["integer", "string"]
        }
    return found
