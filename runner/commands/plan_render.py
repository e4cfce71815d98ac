# SPDX-License-Identifier: Apache-2.0
"""`runner plan render`: print a plan's Pipeline, PipelineRun and ConfigMap."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from runner.commands import option_types, options

_COMMENTS = {
    "tasks:": "Stage 0: notebooks, checks, and the data of the first notebooks.",
    "finally:": "Always runs, and decides whether the run succeeds. It uses no results of other tasks.",
    "onError: continue": "The runner decides what happens after a failure; a lost Pod does not stop the pipeline.",
    "when:": "Notebooks that no node can host would stay Pending; validation lists them.",
    "timeouts:": "Sums of those below: queue + image pull + gate wait + the notebook's deadline and hold + 2 min.",
    "volumeClaimTemplate:": "The volume is deleted with the run.",
    "affinity:": "A ReadWriteOnce volume ties all Pods to one node, so it needs this much GPU memory.",
    "stepSpecs:": "Requests and limits from the plan; they replace the Task's own.",
}


@click.command("render")
@click.argument("plan", type=options.FILE)
@click.option("--pipeline-name", help="Name of the Pipeline. [default: PLAN-workflow]")
@click.option("--run-name", help="Prefix of the run's name. [default: the plan's name]")
@click.option("--title", default="", help="Display name in the Dashboard.")
@click.option("--description", default="", help="Description of the Pipeline.")
@click.option(
    "--order",
    type=click.Choice(["serial", "parallel"]),
    default="serial",
    show_default=True,
    help="Run notebooks one after another, or order them by needs and shared files only.",
)
@click.option(
    "--source",
    type=click.Choice(["clone", "demo"]),
    default="clone",
    show_default=True,
    help="Clone the notebooks from git, or use those of the demo.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Render this notebook only. Repeatable.")
@click.option("--repository-url", default="", help="Default of the parameter: the notebooks' repository.")
@click.option("--revision", default="", help="Default of the parameter. [default: HEAD]")
@click.option("--image", help="Default of the parameter.")
@click.option("--plan-configmap", help="ConfigMap with the plan on the cluster. [default: print one with the plan]")
@click.option("--storage", help="Size of the volume. [default: computed from the plan]")
@click.option("--storage-class", help="Storage class of the volume. [default: the cluster's]")
@click.option(
    "--access-mode",
    type=click.Choice(["ReadWriteOnce", "ReadWriteMany"]),
    default="ReadWriteOnce",
    show_default=True,
    help="ReadWriteMany lets notebooks run on several nodes.",
)
@click.option("--gpu-resource", default="nvidia.com/gpu", show_default=True, help="Resource name of a GPU.")
@click.option(
    "--service-accounts/--no-service-accounts",
    default=True,
    show_default=True,
    help="Use the ServiceAccounts of tekton/configs, or the namespace's default one.",
)
@click.option(
    "--retries",
    type=option_types.Number(0, 10, whole=True),
    default=0,
    show_default=True,
    help="How often Tekton retries a notebook that was lost, terminated or refused for a neighbour's memory. A "
    "notebook that fails for good then ends the run: Tekton allows no retries with `onError: continue`.",
)
@click.option("--param", "params", type=option_types.Setting(), multiple=True, help="Parameter of the run. Repeatable.")
@click.option(
    "--what",
    type=click.Choice(["all", "pipeline", "run", "plan"]),
    default="all",
    show_default=True,
    help="Which objects to print.",
)
def command(plan: Path, what: Literal["all", "pipeline", "run", "plan"], **given: Any) -> None:
    """Print Pipeline, PipelineRun and ConfigMap of PLAN as editable YAML, for `cluster run FILE`.

    \b
    Example:
      runner plan render plan.yaml --repository-url https://git.example/me/notebooks > mine.yaml
    """
    from runner.plan.model import load
    from runner.tekton import manifest, names, pipeline, pipelinerun

    loaded = load(plan)
    config_map = pipeline.plan_config_map(loaded, plan.read_text(encoding="utf-8"))
    label = names.plan_label(loaded.name)
    held = given["plan_configmap"] or (config_map["metadata"]["name"] if given["source"] == "clone" else "")
    shape = pipeline.Shape(
        name=given["pipeline_name"] or f"{label}-workflow",
        image=given["image"] or pipeline.IMAGE,
        plan_config_map=held,
        **{
            key: given[key]
            for key in ("order", "source", "only", "repository_url", "revision", "title", "description", "retries")
        },
    )
    keys = ("storage", "storage_class", "access_mode", "gpu_resource", "service_accounts", "params")
    run = pipelinerun.RunShape(generate_name=f"{given['run_name'] or label}-", **{key: given[key] for key in keys})
    documents = {
        "pipeline": pipeline.pipeline(loaded, shape),
        "run": pipelinerun.pipeline_run(loaded, shape, run),
        "plan": config_map,
    }
    if what == "all" and held != config_map["metadata"]["name"]:
        del documents["plan"]
    click.echo(
        manifest.text([document for key, document in documents.items() if what in {"all", key}], _COMMENTS), nl=False
    )
