# SPDX-License-Identifier: Apache-2.0
"""`runner cluster capacity | start | prune`: commands that run inside our Pods, with their ServiceAccounts."""

from __future__ import annotations

import dataclasses
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

import click

from runner.commands import option_types, options
from runner.commands.cluster.connection import fit

if TYPE_CHECKING:
    from pathlib import Path


@click.command("capacity")
@click.argument("plan", type=options.FILE)
@click.option("--only", multiple=True, metavar="NAME", help="Check this notebook only. Repeatable.")
@click.option("--check/--no-check", default=True, show_default=True, help="Whether to check nodes.")
@click.option("--skip-optional-notebooks/--no-skip-optional-notebooks", default=True, show_default=True)
@click.option("--skip-unhostable-notebooks/--no-skip-unhostable-notebooks", default=False, show_default=True)
@click.option("--gpu-resource", default="nvidia.com/gpu", show_default=True, help="Resource name of a GPU.")
@click.option("--tolerate", multiple=True, metavar="KEY", help="Taint that the notebooks tolerate. Repeatable.")
@click.option(
    "--larger-card", metavar="NAME", help="Check instead whether to retry this notebook on a node with a larger GPU."
)
@options.output_dir
@click.option("--run-id", help="Run that the records of skipped notebooks belong to. [default: a new one]")
@click.option("--results-dir", type=options.FOLDER, help="Folder for Tekton's results.")
@options.as_json
def capacity(plan: Path, as_json: bool, **given: Any) -> int:
    """Check whether some node can host each notebook of PLAN. Exit code: 0, or 3 if a required one cannot be hosted.

    Optional notebooks that no node can host get a record with status skipped. Without the right to list nodes
    nothing is checked, and all notebooks run. Runs inside a Pod.
    """
    from runner.cluster import capacity_job
    from runner.plan.model import load

    loaded = load(plan)
    request = capacity_job.Request(plan=loaded, **given)
    answer = capacity_job.take(request)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(answer), indent=1))
    else:
        click.echo(answer.text())
    return 3 if answer.refused else 0


@click.command("start")
@click.argument("plan", type=options.FILE)
@click.option("--pipeline", required=True, metavar="NAME", help="The plan's Pipeline, as it is installed.")
@click.option(
    "--order",
    type=click.Choice(["serial", "parallel"]),
    default="serial",
    show_default=True,
    help="Order the Pipeline was rendered with.",
)
@click.option("--param", "params", type=option_types.Setting(), multiple=True, help="Parameter of the run. Repeatable.")
@options.add(fit)
def start(
    plan: Path, pipeline: str, order: Literal["serial", "parallel"], params: tuple[tuple[str, str], ...], **given: Any
) -> None:
    """Create a run of PLAN from inside a Pod, as the weekly CronJob does, and print its name.

    The plan is pinned for the run in an immutable ConfigMap.
    """
    from runner.cluster.api import Api, ApiError
    from runner.cluster.run_request import Fit, fitted, owner_patch
    from runner.cluster.runs import prepared
    from runner.plan.model import load
    from runner.tekton import names
    from runner.tekton.pipeline import Shape, plan_config_map
    from runner.tekton.pipelinerun import RunShape, pipeline_run

    api = Api.from_pod()
    loaded = load(plan)
    config_map = plan_config_map(loaded, plan.read_text(encoding="utf-8"))
    held = config_map["metadata"]["name"]
    name = f"{names.plan_label(loaded.name)[:40]}-"
    run = pipeline_run(
        loaded,
        Shape(name=pipeline, order=order),
        RunShape(generate_name=name, access_mode=given["access_mode"] or "ReadWriteOnce", params=params),
    )
    run = fitted(prepared(run, [*params, ("plan-configmap", held)]), Fit(**given))
    config_maps = f"/api/v1/namespaces/{api.namespace}/configmaps"
    try:
        api.request("POST", config_maps, config_map)
    except ApiError as error:
        if error.code != HTTPStatus.CONFLICT:  # else it exists, with this content: its name contains the hash
            raise
    created = api.request("POST", f"/apis/tekton.dev/v1/namespaces/{api.namespace}/pipelineruns", run)["metadata"]
    api.request("PATCH", f"{config_maps}/{held}", owner_patch(created))
    click.echo(created["name"])


@click.command("prune")
@click.option(
    "--keep", type=option_types.Number(0, whole=True), default=5, show_default=True, help="Newest ended runs to keep."
)
def prune(keep: int) -> None:
    """Delete old finished runs with their volumes from inside a Pod, as the clean-up CronJob does."""
    from runner.cluster.api import Api
    from runner.cluster.runs import STARTED, superseded

    api = Api.from_pod()
    path = f"/apis/tekton.dev/v1/namespaces/{api.namespace}/pipelineruns"
    for name in superseded(api.list(path, labelSelector=STARTED), keep):
        api.request("DELETE", f"{path}/{name}", {"propagationPolicy": "Background"})
        click.echo(f"deleted {name}")
