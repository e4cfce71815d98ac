# SPDX-License-Identifier: Apache-2.0
"""Write the StepAction of the executor from its Task: `python .ci/step_action.py`.

A StepAction is one step for Tasks of other people. It brings no volumes, resources, workspaces and results: the
Task has them, and says where they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from runner.tekton import manifest

TEKTON = Path(__file__).resolve().parents[1] / "tekton"
FILE = TEKTON / "stepactions" / "run-notebook.yaml"
HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# The step of gpu-notebook-executor-task for Tasks of your own, made from it: python .ci/step_action.py
"""
_OF_VOLUMES = {"plan-configmap", "env-secret", "RUNNER_RUN_SECRETS_DIR"}
_PLACES = {"$(workspaces.shared-storage.path)": "$(params.workspace)", "/tekton/results": "$(params.results-dir)"}


def step_action(task: dict[str, Any]) -> dict[str, Any]:
    """Return the StepAction of a Task with one step."""
    (step,) = task["spec"]["steps"]
    template = task["spec"]["stepTemplate"]
    labels = task["metadata"]["labels"]
    own = [
        _param("workspace", "Path of the workspace with the folders source, data and outputs."),
        _param("results-dir", "Where the Task's results are; those that it declares are filled.", "/tekton/results"),
    ]
    params = [one for one in task["spec"]["params"] if one["name"] not in {*_OF_VOLUMES, "plan"}]
    # Without a volume of its own it writes /tmp of the container.
    security = {key: one for key, one in template["securityContext"].items() if key != "readOnlyRootFilesystem"}
    found = {
        "apiVersion": "tekton.dev/v1beta1",
        "kind": "StepAction",
        "metadata": {
            "name": "run-notebook",
            "labels": labels | {"app.kubernetes.io/name": "run-notebook", "app.kubernetes.io/component": "step-action"},
        },
        "spec": {
            "description": task["spec"]["description"],
            "params": [
                *own,
                _param("plan", "Path of the plan, absolute or on the workspace; empty: no plan.", ""),
                *params,
            ],
            "image": step["image"],
            "workingDir": step["workingDir"],
            "command": step["command"],
            "args": step["args"],
            "env": [*template["env"], *(one for one in step["env"] if one["name"] not in _OF_VOLUMES)],
            "securityContext": security,
        },
    }
    return dict(_placed(found))


def text() -> str:
    """Return the file's text."""
    task = yaml.safe_load((TEKTON / "tasks" / "gpu-notebook-executor-task.yaml").read_text(encoding="utf-8"))
    return HEADER + manifest.text([step_action(task)])


def _param(name: str, description: str, default: str | None = None) -> dict[str, Any]:
    found = {"name": name, "type": "string", "description": description}
    return found if default is None else {**found, "default": default}


def _placed(value: Any) -> Any:
    """Return a part with the workspace and the results where the parameters say; their own defaults stay."""
    if isinstance(value, dict):
        return {key: one if key in {"default", "description"} else _placed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_placed(one) for one in value]
    for place, parameter in _PLACES.items() if isinstance(value, str) else ():
        value = value.replace(place, parameter)
    return value


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
