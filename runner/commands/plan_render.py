# SPDX-License-Identifier: Apache-2.0
"""`runner plan render`: Pipeline and PipelineRun for any plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from runner.commands import options

_COMMENTS = {
    "tasks:": "Stage 0: notebooks, checks, and the data that the first notebooks read.",
    "finally:": "Runs whatever happened, and decides whether the run is green. It takes no results of other tasks.",
    "onError: continue": "The runner decides what happens after a failure; a lost Pod stops nothing by itself.",
    "when:": "Notebooks that no node can host would wait for ever; validation names them.",
    "timeouts:": "Sums of the timeouts below: queue + image pull + gate wait + the notebook's own deadline + 2 min.",
    "volumeClaimTemplate:": "The volume lives and goes with the run.",
    "affinity:": "On a ReadWriteOnce volume every Pod lands on one node, so it needs this much GPU memory.",
    "stepSpecs:": "Requests and limits of the plan; they replace the Task's own.",
}


@click.command("render")
@click.argument("plan", type=options.FILE)
@click.option("--pipeline-name", help="Name of the Pipeline. [default: PLAN-workflow]")
@click.option("--run-name", help="Start of the run's name. [default: the plan's name]")
@click.option("--title", default="", help="What the Dashboard shows.")
@click.option("--description", default="", help="Description of the Pipeline.")
@click.option(
    "--order",
    type=click.Choice(["serial", "parallel"]),
    default="serial",
    show_default=True,
    help="One after another, or ordered by needs and shared files only.",
)
@click.option(
    "--source",
    type=click.Choice(["clone", "demo"]),
    default="clone",
    show_default=True,
    help="Whether the notebooks come from git or are those of the demo.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Render this notebook only. Repeatable.")
@click.option("--repository-url", default="", help="Default of the parameter: where the notebooks are.")
@click.option("--revision", default="", help="Default of the parameter. [default: HEAD]")
@click.option("--image", help="Default of the parameter.")
@click.option("--plan-configmap", help="Default of the parameter. [default: gpu-resource-config]")
@click.option("--storage", default="500Gi", show_default=True, help="Size of the volume.")
@click.option("--storage-class", help="Storage class of the volume. [default: the cluster's]")
@click.option(
    "--access-mode",
    type=click.Choice(["ReadWriteOnce", "ReadWriteMany"]),
    default="ReadWriteOnce",
    show_default=True,
    help="ReadWriteMany lets notebooks run on several nodes.",
)
@click.option("--gpu-resource", default="nvidia.com/gpu", show_default=True, help="Resource that stands for a GPU.")
@click.option(
    "--service-accounts/--no-service-accounts",
    default=True,
    show_default=True,
    help="Whether the run uses the accounts of tekton/configs, or the namespace's default one.",
)
@click.option("--param", "params", type=options.Setting(), multiple=True, help="Parameter of the run. Repeatable.")
@click.option(
    "--what",
    type=click.Choice(["both", "pipeline", "run"]),
    default="both",
    show_default=True,
    help="Which objects to print.",
)
def command(plan: Path, what: Literal["both", "pipeline", "run"], **given: Any) -> None:
    """Print the Pipeline and the PipelineRun of PLAN as YAML that one can edit and apply.

    \b
    Example:
      runner plan render plan.yaml --repository-url https://git.example/me/notebooks > mine.yaml
    """
    from runner.plan import load
    from runner.tekton import manifest, pipeline, pipelinerun

    loaded = load(plan)
    shape, run = shapes(loaded.name, given)
    documents = []
    if what in {"both", "pipeline"}:
        documents.append(pipeline.pipeline(loaded, shape))
    if what in {"both", "run"}:
        documents.append(pipelinerun.pipeline_run(loaded, shape, run))
    click.echo(manifest.text(documents, _COMMENTS), nl=False)


def shapes(plan_name: str, given: dict[str, Any]) -> tuple[Any, Any]:
    """Return the shapes of Pipeline and run for what was given; names are made from the plan's where none is."""
    from runner.tekton import names, pipelinerun
    from runner.tekton.pipeline import IMAGE, Shape

    label = names.task_names("plan", [plan_name])[plan_name].removeprefix("plan-")
    shape = Shape(
        name=given["pipeline_name"] or f"{label}-workflow",
        order=given["order"],
        source=given["source"],
        only=given["only"],
        image=given["image"] or IMAGE,
        plan_config_map=given["plan_configmap"] or names.PLAN_CONFIG_MAP,
        repository_url=given["repository_url"],
        revision=given["revision"],
        title=given["title"],
        description=given["description"],
    )
    run = pipelinerun.RunShape(
        generate_name=f"{given['run_name'] or label}-",
        storage=given["storage"],
        storage_class=given["storage_class"],
        access_mode=given["access_mode"],
        gpu_resource=given["gpu_resource"],
        service_accounts=given["service_accounts"],
        params=given["params"],
    )
    return shape, run
