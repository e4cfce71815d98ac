# SPDX-License-Identifier: Apache-2.0
"""Seconds that a cluster takes around a notebook: `python -m benchmarks.cluster --namespace NS RUN NOTEBOOK`.

The notebook's task of an ended run is repeated on the run's volume. Measured are the time from the creation of the
TaskRun to its first cell and from the last cell to its completion, as seen by a watch from here: what Kubernetes writes
down has whole seconds only. The clock of the node must be that of this machine, as it is on one's own box.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

GOALS = (5.0, 1.5)
_KEPT = ("params", "taskRef", "workspaces", "podTemplate", "stepSpecs", "serviceAccountName")


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    return subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=True).stdout


def measure(namespace: str, task_run: dict[str, Any]) -> tuple[float, float]:
    """Repeat a TaskRun and return the seconds before its first and after its last cell."""
    again = {
        "apiVersion": "tekton.dev/v1",
        "kind": "TaskRun",
        "metadata": {"generateName": "cost-"},
        "spec": {key: task_run["spec"][key] for key in _KEPT if key in task_run["spec"]},
    }
    asked = datetime.now(UTC)
    name = kubectl("-n", namespace, "create", "-o", "name", "-f", "-", stdin=json.dumps(again)).strip()
    kubectl("-n", namespace, "wait", name, "--for=condition=Succeeded", "--timeout=10m")
    done = datetime.now(UTC)
    pod = kubectl("-n", namespace, "get", name, "-o", "jsonpath={.status.podName}")
    lines = kubectl("-n", namespace, "logs", pod, "-c", "step-execute-notebook").splitlines()
    first = next(line for line in lines if " cell-start " in line)
    last = next(line for line in reversed(lines) if " cell-end " in line)
    begun, ended = (datetime.fromisoformat(line.split(" ", 1)[0]) for line in (first, last))
    kubectl("-n", namespace, "delete", name, "--wait=true")
    return (begun - asked).total_seconds(), (done - ended).total_seconds()


def main() -> int:
    """Return 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="an ended run whose volume is still there")
    parser.add_argument("notebook", help="one of its notebooks, small enough to be repeated")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--times", type=int, default=10)
    given = parser.parse_args()
    found = json.loads(
        kubectl("-n", given.namespace, "get", "taskruns", "-l", f"tekton.dev/pipelineRun={given.run}", "-o", "json")
    )
    asked = {"name": "notebook-name", "value": given.notebook}
    task_run = next((one for one in found["items"] if asked in one["spec"].get("params", ())), None)
    if task_run is None:
        raise SystemExit(f"{given.run} has no notebook {given.notebook!r}")
    both = list(zip(*(measure(given.namespace, task_run) for _ in range(given.times)), strict=True))
    for what, seconds, goal in zip(("to the first cell", "after the last cell"), both, GOALS, strict=True):
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{what:20} {statistics.median(seconds):.2f} s (of {len(seconds)}: {spread}), at most {goal} s")
    return int(any(statistics.median(seconds) > goal for seconds, goal in zip(both, GOALS, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
