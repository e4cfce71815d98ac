# SPDX-License-Identifier: Apache-2.0
"""Options shared by the `runner cluster` commands."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cluster.kubectl import Kubectl
from runner.commands import options

if TYPE_CHECKING:
    from collections.abc import Callable

MANIFESTS = Path("tekton")

manifests = click.option(
    "--manifests",
    type=options.FOLDER,
    default=MANIFESTS,
    show_default=True,
    help="Folder of the kustomization to install: the repository's tekton/, or an overlay.",
)
repository = click.option(
    "--tekton-dir",
    type=options.FOLDER,
    default=MANIFESTS,
    show_default=True,
    help="The repository's tekton/ folder, with plans and runs.",
)
dry_run = click.option("--dry-run", is_flag=True, help="Print what would be done; change nothing.")
fit = (
    click.option("--claim", metavar="PVC", help="Use an existing volume claim instead of a new volume for the run."),
    click.option("--storage", help="Size of the volume, such as 200Gi."),
    click.option("--storage-class", help="Storage class of the volume."),
    click.option("--access-mode", type=click.Choice(["ReadWriteOnce", "ReadWriteMany"]), help="Access to the volume."),
    click.option("--gpu-resource", help="Resource name of a GPU, such as nvidia.com/mig-3g.40gb."),
)
run_name = click.argument("name", required=False)


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --context and --namespace to a command, and pass them on as its ``client``."""

    @click.option("--context", metavar="NAME", help="Context of the kubeconfig. [default: the current one]")
    @click.option("-n", "--namespace", metavar="NAME", help="Namespace. [default: the context's]")
    @functools.wraps(function)
    def command(context: str | None, namespace: str | None, **given: Any) -> Any:
        return function(client=Kubectl(context=context, namespace=namespace), **given)

    return command


def namespace_of(client: Kubectl) -> str:
    """Return the namespace that kubectl uses."""
    if client.namespace:
        return client.namespace
    found = client.run("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip()
    return found or "default"
