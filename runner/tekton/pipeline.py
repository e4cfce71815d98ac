# SPDX-License-Identifier: Apache-2.0
"""Renders a plan's Pipeline: clone, validation, downloads, notebooks in order, and report.

It defines the order only. Whether a notebook runs after another failed is decided by the runner inside its task, so
each has `onError: continue`, unless Tekton is to retry it. Sizes and timeouts are part of the run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from runner import __version__
from runner.core import safe_yaml
from runner.tekton import names
from runner.tekton.sizes import on_larger_card
from runner.tekton.task_order import Groups, downloads, earlier_with_shared_files, stages

if TYPE_CHECKING:
    from runner.plan.model import Notebook, Plan
    from runner.tekton.task_order import Order

IMAGE = f"{names.PART_OF}:{__version__}"
"""A version instead of `latest`, which would be pulled for every Pod."""
PLAN_PATH = f"/etc/runner/plan/{names.PLAN_KEY}"
"""Mount path of the plan's ConfigMap in the tasks."""
RUN_ID = "$(context.pipelineRun.uid)"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Settings of a pipeline."""

    name: str
    order: Order = "serial"
    source: Literal["clone", "demo"] = "clone"
    only: tuple[str, ...] = ()
    """Notebooks to run; empty means all."""
    image: str = IMAGE
    plan_config_map: str = names.PLAN_CONFIG_MAP
    """Empty if the plan is beside the notebooks, as in the demo."""
    repository_url: str = ""
    revision: str = ""
    title: str = ""
    description: str = ""
    retries: int = 0
    """Number of retries by Tekton, which cannot be combined with `onError: continue`."""

    def select(self, plan: Plan) -> list[Notebook]:
        """Return the notebooks to run, in the plan's order."""
        wanted = {plan.notebook(name).name for name in self.only}
        return [notebook for notebook in plan.notebooks if not wanted or notebook.name in wanted]

    @property
    def plan_path(self) -> str:
        """Path of the plan in the tasks: its ConfigMap, or beside the notebooks."""
        return PLAN_PATH if self.plan_config_map else f"source/{names.PLAN_KEY}"

    @property
    def plan_params(self) -> dict[str, str]:
        """Parameters that pass the plan to a task."""
        return _given("plan", *(["plan-configmap"] if self.plan_config_map else []))


def plan_config_map(plan: Plan, text: str) -> Document:
    """Return the plan's ConfigMap for the tasks: the text itself if it is one.

    Otherwise its name is derived from its content and it is immutable: neither another plan nor an installation
    can affect a running run.
    """
    if (document := safe_yaml.load(text)).get("kind") == "ConfigMap":
        return dict(document)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    name = f"{names.plan_label(plan.name)}-plan-{digest}"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": names.labels(name, "plan")},
        "immutable": True,
        "data": {names.PLAN_KEY: text},
    }


def pipeline(plan: Plan, shape: Shape) -> Document:
    """Return the Pipeline.

    Raises
    ------
    PlanError
        A name in ``shape.only`` is not in the plan.
    """
    notebooks = shape.select(plan)
    groups = downloads(notebooks, shape.order)
    return {
        "apiVersion": "tekton.dev/v1",
        "kind": "Pipeline",
        "metadata": {"name": shape.name, "labels": names.labels(shape.name, "pipeline")},
        "spec": {
            "displayName": shape.title or f"Notebooks of {plan.name}",
            "description": shape.description
            or f"Runs {len(notebooks)} notebooks of the plan {plan.name!r}, then writes the report.",
            "params": _params(shape),
            "workspaces": _workspaces(shape),
            "tasks": [
                _source(shape),
                _validate(notebooks, shape),
                *_downloads(groups, shape),
                *_notebooks(plan, notebooks, groups, shape),
            ],
            "finally": [_report(notebooks, groups, shape)],
        },
    }


def _params(shape: Shape) -> list[Document]:
    url = [
        _param(
            "repository-url", "Git repository with the notebooks: https, ssh or file.", shape.repository_url or None
        ),
        _param("revision", "Branch, tag or commit of the repository.", shape.revision or "HEAD"),
    ]
    return [
        _param("image", "Image of the runner, used by every step.", shape.image),
        *(url if shape.source == "clone" else []),
        _param("plan", "Path of the plan, absolute or on the workspace.", shape.plan_path),
        *(
            [_param("plan-configmap", "ConfigMap with the plan under the key plan.yaml.", shape.plan_config_map)]
            if shape.plan_config_map
            else []
        ),
        _param(
            "skip-optional-notebooks",
            "Whether an optional notebook is skipped if the gate refuses it or no node can host it.",
            "true",
        ),
        _param(
            "skip-unhostable-notebooks",
            "Whether notebooks that no node can host are skipped; otherwise the run fails at its start.",
            "false",
        ),
        _param("continue-on-failure", "Whether later notebooks run after one has failed.", "true"),
        _param("cleanup-between-notebooks", "Whether processes left behind by a notebook are killed.", "true"),
        _param(
            "check-capacity", "Whether nodes are checked first; set to false if nodes are created on demand.", "true"
        ),
        _param("gate-wait", "How long a notebook waits for GPU memory held by others.", "10m"),
        _param("strict-release", "Whether GPU memory that is not released fails the notebook.", "false"),
        _param("offline", "Whether data that is not staged is an error instead of being fetched.", "false"),
        _param(
            names.ON_FAILURE,
            "When a cell raises: end, or hold=1h to wait for `runner repair`. Empty: as in the plan.",
            "",
        ),
        _param("resume", "Whether notebooks reuse an earlier success if nothing it depends on has changed.", "false"),
        _param("interactive", "Whether the HTML keeps interactive figures; they need no network.", "false"),
        _param("pushgateway", "URL of a Prometheus Pushgateway for the metrics; empty for none.", ""),
        _param("otlp-endpoint", "URL of an OpenTelemetry collector (OTLP over HTTP) for spans; empty for none.", ""),
    ]


def _param(name: str, description: str, default: str | None) -> Document:
    found: Document = {"name": name, "type": "string", "description": description}
    return found if default is None else {**found, "default": default}


def _workspaces(shape: Shape) -> list[Document]:
    found: list[Document] = [
        {"name": names.WORKSPACE, "description": "One volume with the folders source, data and outputs."}
    ]
    if shape.source == "clone":
        found += [
            {"name": "git-basic-auth", "description": "Secret with .git-credentials.", "optional": True},
            {"name": "git-ssh", "description": "Secret with id_* and known_hosts.", "optional": True},
        ]
    return found


def _task(
    name: str,
    task: str,
    title: str,
    values: dict[str, Any],
    *,
    after: list[str] | None = None,
    workspaces: dict[str, str] | None = None,
    **more: Any,
) -> Document:
    """Return a pipeline task on the shared volume, with keys in reading order."""
    found: Document = {"name": name, "displayName": title, "taskRef": {"name": task, "kind": "Task"}}
    if after:
        found["runAfter"] = after
    bound = {names.WORKSPACE: names.WORKSPACE, **(workspaces or {})}
    return {
        **found,
        **more,
        "params": [{"name": key, "value": value} for key, value in values.items()],
        "workspaces": [{"name": inner, "workspace": outer} for inner, outer in bound.items()],
    }


def _given(*keys: str) -> dict[str, str]:
    return {key: f"$(params.{key})" for key in keys}


def _source(shape: Shape) -> Document:
    if shape.source == "demo":
        return _task("demo-notebooks", names.DEMO_TASK, "Put the demo on the volume", _given("image"))
    return _task(
        "clone",
        names.CLONE_TASK,
        "Clone the notebooks",
        {**_given("image"), "url": "$(params.repository-url)", **_given("revision")},
        workspaces={"basic-auth": "git-basic-auth", "ssh-directory": "git-ssh"},
    )


def _only(notebooks: list[Notebook], shape: Shape) -> dict[str, Any]:
    return {"only": [f"--only={notebook.name}" for notebook in notebooks]} if shape.only else {}


def _validate(notebooks: list[Notebook], shape: Shape) -> Document:
    values = {
        **_given("image"),
        **shape.plan_params,
        **_given("skip-optional-notebooks", "skip-unhostable-notebooks", "check-capacity"),
        "run-id": RUN_ID,
        **_only(notebooks, shape),
    }
    return _task(
        "validate", names.VALIDATION_TASK, "Check image, storage and nodes", values, after=[_source(shape)["name"]]
    )


def _downloads(groups: Groups, shape: Shape) -> list[Document]:
    """Return the download tasks: the first group before the notebooks, later ones in parallel with them.

    They may fail without stopping the run: the notebook that needs the data then reports the missing file.
    """
    found, previous = [], "validate"
    for group in groups.all:
        values = {
            **_given("image"),
            **shape.plan_params,
            **_given("offline"),
            "datasets": [f"--dataset={name}" for name in group.datasets],
        }
        found.append(
            _task(
                group.task,
                names.DOWNLOAD_TASK,
                f"Data for {group.what}",
                values,
                after=[previous],
                **({"retries": shape.retries} if shape.retries else {"onError": "continue"}),
            )
        )
        previous = group.task if shape.order == "serial" else "validate"
    return found


def _notebooks(plan: Plan, notebooks: list[Notebook], groups: Groups, shape: Shape) -> list[Document]:
    tasks = names.task_names("notebook", [notebook.name for notebook in notebooks])
    last = dict(tasks)  # the final try of each notebook
    stage_of = stages(notebooks)
    shared = earlier_with_shared_files(plan, notebooks)
    found: list[Document] = []
    for position, notebook in enumerate(notebooks):
        if shape.order == "serial":
            before = [last[notebooks[position - 1].name]] if position else []
        else:
            before = [last[name] for name in dict.fromkeys([*notebook.needs, *shared[notebook.name]]) if name in tasks]
        after = [*before, *groups.tasks_of(notebook)]
        missing = [need for need in notebook.needs if need not in tasks]
        values = {
            **_given("image"),
            "notebook-name": notebook.name,
            **shape.plan_params,
            **_given("skip-optional-notebooks", "continue-on-failure", "cleanup-between-notebooks"),
            **_given(
                "gate-wait", "strict-release", "offline", names.ON_FAILURE, "resume", "interactive", "otlp-endpoint"
            ),
            "run-id": RUN_ID,
            **({"needs-of-any-run": "true"} if missing else {}),
            **({} if notebook.timeout else {"timeout": "2h"}),
        }
        title = f"Stage {stage_of[notebook.name]}: {notebook.name}"
        larger = on_larger_card(notebook)
        end = {"retries": shape.retries} if shape.retries else {"onError": "continue"}
        found.append(
            _task(
                tasks[notebook.name],
                names.EXECUTOR_TASK,
                title,
                values,
                after=after or ["validate"],
                when=_unless_skipped(notebook, "validate"),
                **(
                    {"onError": "continue"} if larger else end
                ),  # or its failure would end the run before the second try
            )
        )
        if larger:
            ask, again = names.larger_tasks(tasks[notebook.name])
            checked = {
                **_given("image"),
                **shape.plan_params,
                **_given("check-capacity"),
                "run-id": RUN_ID,
                "larger-card": notebook.name,
            }
            card = f"{larger.requires.gpu_memory_gb:g}"
            found += [
                _task(
                    ask, names.VALIDATION_TASK, f"{title}: larger GPU?", checked, after=[tasks[notebook.name]], **end
                ),
                _task(
                    again,
                    names.EXECUTOR_TASK,
                    f"{title} on a GPU of {card} GB",
                    {**values, "min-gpu-memory-gb": card},
                    after=[ask],
                    when=_unless_skipped(notebook, ask),
                    **end,
                ),
            ]
            last[notebook.name] = again
    return found


def _unless_skipped(notebook: Notebook, validation: str) -> list[Document]:
    skipped = f"$(tasks.{validation}.results.skipped-notebooks[*])"
    return [{"input": notebook.name, "operator": "notin", "values": [skipped]}]


def _report(notebooks: list[Notebook], groups: Groups, shape: Shape) -> Document:
    """Return the report's task. It gets the outcome of others from their status, which is always available."""
    before = {task: task for task in (_source(shape)["name"], "validate", *(group.task for group in groups.all))}
    tasks = names.task_names("notebook", [notebook.name for notebook in notebooks])
    # The names of notebooks may contain spaces, which separate the statuses.
    before |= {f"notebook/{quote(name, safe='')}": task for name, task in tasks.items()}
    values = {
        **_given("image"),
        **shape.plan_params,
        "run-id": RUN_ID,
        "task-statuses": " ".join(
            f"{key}=$(tasks.{task}.status):$(tasks.{task}.reason)" for key, task in before.items()
        ),
        **_given("pushgateway", "otlp-endpoint"),
        **_only(notebooks, shape),
    }
    return _task("report", names.REPORT_TASK, "Report and verdict", values)
