# SPDX-License-Identifier: Apache-2.0
"""Names shared by manifests, renderer and launcher."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

PART_OF: Final = "rapids-notebook-runner"
PART_OF_LABEL: Final = "app.kubernetes.io/part-of"
STARTED_BY_LABEL: Final = f"{PART_OF}/started-by"
"""Only runs with this label are ever cleaned up."""
STARTED_BY: Final = "launcher"
PLAN_LABEL: Final = f"{PART_OF}/plan"

EXECUTOR_TASK: Final = "gpu-notebook-executor-task"
VALIDATION_TASK: Final = "system-validation-task"
CLONE_TASK: Final = "safe-git-clone-task"
DOWNLOAD_TASK: Final = "large-dataset-download-task"
REPORT_TASK: Final = "analysis-report-task"
DEMO_TASK: Final = "demo-notebooks-task"

ON_FAILURE: Final = "on-failure"
"""Parameter that holds failed notebooks for repair."""
GPU_STEP: Final = "execute-notebook"
WORKSPACE: Final = "shared-storage"
GPU_RESOURCE: Final = "nvidia.com/gpu"
RUN_ACCOUNT: Final = "notebook-runner"
VALIDATION_ACCOUNT: Final = "notebook-validator"
PLAN_CONFIG_MAP: Final = "gpu-resource-config"
PLAN_KEY: Final = "plan.yaml"

_NOT_LABEL = re.compile(r"[^a-z0-9]+")
_LOSSLESS = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")
_LABEL_LENGTH = 50
"""Tekton adds a prefix and the run's name, and truncates Pod names at 63."""


def task_names(prefix: str, names: Sequence[str]) -> dict[str, str]:
    """Return the pipeline task of each notebook or dataset, by name, as readable DNS labels.

    A label that loses characters or is not unique gets a suffix from the hash of its name.

    >>> task_names("notebook", ["01_scRNA_analysis_preprocessing", "größe"])
    {'01_scRNA_analysis_preprocessing': 'notebook-01-scrna-analysis-preprocessing', 'größe': 'notebook-gr-e-ebd89c'}
    """
    plain = {name: f"{prefix}-{_NOT_LABEL.sub('-', name.lower()).strip('-')}" for name in names}
    labels = list(plain.values())
    return {
        name: label
        if labels.count(label) == 1 and len(label) <= _LABEL_LENGTH and _LOSSLESS.fullmatch(name)
        else f"{label[: _LABEL_LENGTH - 7].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
        for name, label in plain.items()
    }


def larger_tasks(notebook_task: str) -> tuple[str, str]:
    """Return the tasks that check for, and perform, a second try on a larger card.

    >>> larger_tasks("notebook-one")
    ('ask-larger-notebook-one', 'larger-notebook-one')
    """
    return f"ask-larger-{notebook_task}", f"larger-{notebook_task}"


def plan_label(plan_name: str) -> str:
    """Return a plan's name as a label value and name prefix.

    >>> plan_label("Mine 1.3")
    'mine-1-3-57f6a4'
    """
    return task_names("plan", [plan_name])[plan_name].removeprefix("plan-")


def labels(name: str, component: str) -> dict[str, str]:
    """Return the recommended labels of an object of ours."""
    from runner import __version__

    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": component,
        PART_OF_LABEL: PART_OF,
        "app.kubernetes.io/version": __version__,
    }
