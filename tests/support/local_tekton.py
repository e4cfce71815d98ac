# SPDX-License-Identifier: Apache-2.0
"""Runs a Pipeline of ours on this machine: the commands and variables of its Tasks, in its order.

It knows what Tekton does with parameters, workspaces, results, `when`, `onError` and `finally`, and nothing of
Pods. What it shows is that the manifests hand the runner what it needs; `pytest -m cluster` shows the rest.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import cli, tekton

ARRAY = re.compile(r"\$\(tasks\.([\w-]+)\.results\.([\w-]+)\[\*\]\)")


@dataclass
class Ended:
    """How a task ended; `code` None means that `when` kept it from starting."""

    code: int | None
    results: dict[str, Any] = field(default_factory=dict)
    output: str = ""


class LocalTekton:
    """One run of a pipeline."""

    def __init__(self, folder: Path, pipeline: dict[str, Any], plan_text: str, **params: str) -> None:
        self.folder = folder
        self.volume = folder / "volume"
        self.volume.mkdir(parents=True, exist_ok=True)
        (folder / "plan").mkdir(exist_ok=True)
        (folder / "plan" / "plan.yaml").write_text(plan_text)
        self.pipeline = pipeline["spec"]
        declared = {param["name"]: param.get("default", "") for param in self.pipeline["params"]}
        self.values = {f"params.{key}": value for key, value in (declared | params).items()}
        self.values["context.pipelineRun.uid"] = "run-1"
        self.ended: dict[str, Ended] = {}

    def run(self) -> bool:
        """Run everything and return whether the PipelineRun would be green."""
        stopped = False
        for task in self.pipeline["tasks"]:
            if stopped:
                break
            ended = self.ended[task["name"]] = self._task(task)
            stopped = bool(ended.code) and task.get("onError") != "continue"
        for task in self.pipeline["tasks"]:
            ended = self.ended.get(task["name"], Ended(None))
            status = "None" if ended.code is None else "Failed" if ended.code else "Succeeded"
            self.values[f"tasks.{task['name']}.status"] = status
            self.values[f"tasks.{task['name']}.reason"] = "" if ended.code is None else status
        for task in self.pipeline["finally"]:
            self.ended[task["name"]] = self._task(task)
        return not stopped and all(not self.ended[task["name"]].code for task in self.pipeline["finally"])

    def _task(self, task: dict[str, Any]) -> Ended:
        if not all(self._holds(when) for when in task.get("when", [])):
            return Ended(None)
        target = tekton.tasks()[task["taskRef"]["name"]]
        given = {param["name"]: self._fill(param["value"]) for param in task["params"]}
        spec = tekton.filled(target, given, {"shared-storage": str(self.volume)})
        results = self.folder / "results" / task["name"]
        results.mkdir(parents=True, exist_ok=True)
        output = ""
        for step in spec["steps"]:
            done = self._step(step, spec["stepTemplate"], results)
            output += done.out + done.err
            if done.code:
                return Ended(done.code, _read(results), output)
        return Ended(0, _read(results), output)

    def _step(self, step: dict[str, Any], template: dict[str, Any], results: Path) -> cli.Ended:
        places = {"/tekton/results": str(results), "/etc/runner/plan": str(self.folder / "plan")}
        listed = [*template.get("env", []), *step.get("env", [])]
        variables = {one["name"]: _moved(one["value"], places) for one in listed if "value" in one}
        arguments = (_moved(argument, places) for argument in step["args"])
        return cli.runner(*arguments, env={**variables, "HOME": str(self.folder)}, cwd=self.volume)

    def _holds(self, when: dict[str, Any]) -> bool:
        values: list[str] = []
        for value in when["values"]:
            array = ARRAY.fullmatch(value)
            values += self.ended[array[1]].results[array[2]] if array else [self._fill(value)]
        inside = self._fill(when["input"]) in values
        return inside == (when["operator"] == "in")

    def _fill(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._fill(item) for item in value]
        return tekton.REFERENCE.sub(lambda match: self.values[match[1]], value)

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return the notebooks of the report by name."""
        document = json.loads((self.volume / "outputs" / "reports" / "summary.json").read_text())
        return {one["name"]: one for one in document["notebooks"]}


def _moved(text: str, places: dict[str, str]) -> str:
    for place, here in places.items():
        text = text.replace(place, here)
    return text


def _read(results: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in results.iterdir():
        text = path.read_text()
        found[path.name] = json.loads(text) if text.startswith(("[", "{")) else text
    return found
