# SPDX-License-Identifier: Apache-2.0
"""`runner cluster install | validate | uninstall`: set up, check and clean up a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from runner.commands import option_types, options
from runner.commands.cluster import connection as shared

if TYPE_CHECKING:
    from pathlib import Path

    from runner.cluster.kubectl import Kubectl


@click.command("install")
@shared.verb
@shared.manifests
@click.option("--image", help="Image of the runner, as the default of every task. [default: the manifests']")
@click.option(
    "--cluster-rights/--no-cluster-rights",
    default=True,
    show_default=True,
    help="Whether the validation may list nodes (a ClusterRole). Without it, capacity is not checked.",
)
@click.option("--create-namespace", is_flag=True, help="Create the namespace if it is missing.")
@shared.dry_run
def install(
    *,
    client: Kubectl,
    manifests: Path,
    image: str | None,
    cluster_rights: bool,
    create_namespace: bool,
    dry_run: bool,
) -> int:
    """Check the cluster, then install tasks, pipelines, configuration and ServiceAccounts.

    A failed check of Tekton or the namespace stops the installation, with a hint; warnings do not.

    \b
    Examples:
      runner cluster install --namespace scrna --create-namespace --image registry.example/runner:1
      runner cluster install --manifests tekton/overlays/air-gapped --dry-run
    """
    from runner.cluster import install as installing
    from runner.cluster.readiness import as_text, check_cluster

    target = shared.namespace_of(client)
    if create_namespace and not dry_run and client.find("get", "namespace", target) is None:
        client.run("create", "namespace", target)
    checks = check_cluster(client, target)
    click.echo(as_text(checks))
    # GPUs are not needed to install, nor for the demo.
    if any(check.status == "fail" and check.name in {"tekton", "namespace"} for check in checks):
        return 3
    documents = installing.manifests(client, manifests, target, image)
    if not cluster_rights:
        documents = [document for document in documents if document["kind"] not in installing.CLUSTER_WIDE]
    click.echo(installing.apply(client, documents, dry_run=dry_run), nl=False)
    click.echo(f"{'would install' if dry_run else 'installed'} {len(documents)} objects in {target}; try: run demo")
    return 0


@click.command("validate")
@shared.verb
@shared.repository
@click.option("--plan", type=options.FILE, help="Plan to check the nodes against. [default: gpu-resource-config]")
@click.option("--param", "params", type=option_types.Setting(), multiple=True, help="Parameter of the run. Repeatable.")
@options.add(shared.fit)
@options.as_json
def validate(
    client: Kubectl,
    tekton_dir: Path,
    plan: Path | None,
    params: tuple[tuple[str, str], ...],
    *,
    as_json: bool,
    **given: Any,
) -> int:
    """Check the cluster, and whether some node can host each notebook of the plan. Exit code: 0 or 3.

    `run` performs these checks before it starts a run.

    \b
    Example:
      runner cluster validate --plan tekton/configs/gpu-resource-config.yaml
    """
    from runner.cluster import readiness
    from runner.cluster.run_checks import check_run
    from runner.cluster.run_request import Fit, check_params, fitted
    from runner.plan.model import load
    from runner.tekton.names import PLAN_CONFIG_MAP, RUN_ACCOUNT, VALIDATION_ACCOUNT
    from runner.tekton.pipeline import Shape, pipeline
    from runner.tekton.pipelinerun import RunShape, pipeline_run

    target = shared.namespace_of(client)
    loaded = load(plan or tekton_dir / "configs" / f"{PLAN_CONFIG_MAP}.yaml")
    shape = Shape(name="any")
    spec = pipeline(loaded, shape)["spec"]
    check_params(spec, params)
    run = fitted(
        pipeline_run(
            loaded,
            shape,
            RunShape(generate_name="any-", access_mode=given["access_mode"] or "ReadWriteOnce", params=params),
        ),
        Fit(**given),
    )
    checks = [*readiness.check_cluster(client, target), readiness.longest_run(loaded, params)]
    known = {check.name for check in checks}
    # Installed by `install`, so not missing yet.
    later = {"image", *(f"serviceaccount {name}" for name in (RUN_ACCOUNT, VALIDATION_ACCOUNT))}
    checks += [one for one in check_run(client, target, run, spec, loaded) if one.name not in known | later]
    if as_json:
        click.echo(json.dumps({"plan": loaded.name, "checks": readiness.as_objects(checks)}, indent=1))
    else:
        click.echo(readiness.as_text(checks))
    return 3 if any(check.status == "fail" for check in checks) else 0


@click.command("uninstall")
@shared.verb
@shared.manifests
@click.option("--delete-volumes", is_flag=True, help="Also delete the runs' volumes, with all outputs.")
@shared.dry_run
def uninstall(client: Kubectl, manifests: Path, delete_volumes: bool, dry_run: bool) -> int:
    """Remove everything that was installed, and all our runs; keep their volumes unless --delete-volumes is given.

    \b
    Example:
      runner cluster uninstall --namespace scrna --dry-run
    """
    from runner.cluster import install as installing

    target = shared.namespace_of(client)
    documents = installing.manifests(client, manifests, target)
    left = installing.uninstall(client, documents, volumes=delete_volumes, dry_run=dry_run)
    word = "would remove" if dry_run else "removed"
    click.echo(f"{word} {len(left.removed)} objects" + (f": {', '.join(left.removed)}" if dry_run else ""))
    for volume in left.volumes:
        what = "would be deleted" if dry_run and delete_volumes else "left"
        click.echo(f"{what}: volume claim {volume}; kubectl delete persistentvolumeclaim -n {target} {volume}")
    for kept in left.kept:
        click.echo(f"left: {kept}")
    click.echo(f"left: Tekton itself, and the namespace {target}")
    return 0
