# SPDX-License-Identifier: Apache-2.0
"""Options that the verbs of `runner cluster` share, and the kubectl they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cluster.kubectl import Kubectl
from runner.commands import options

if TYPE_CHECKING:
    from collections.abc import Callable

MANIFESTS = Path("tekton")

where = (
    click.option("--context", metavar="NAME", help="Context of the kubeconfig. [default: the current one]"),
    click.option("-n", "--namespace", metavar="NAME", help="Namespace. [default: the context's]"),
)
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
    help="The repository's tekton/ folder, where plans and runs are.",
)
dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
fit = (
    click.option(
        "--claim", metavar="PVC", help="Volume claim to use, with its data, instead of a volume of the run's own."
    ),
    click.option("--storage", help="Size of the volume, such as 200Gi."),
    click.option("--storage-class", help="Storage class of the volume."),
    click.option("--access-mode", type=click.Choice(["ReadWriteOnce", "ReadWriteMany"]), help="Access to the volume."),
    click.option("--gpu-resource", help="Resource that stands for a GPU, such as nvidia.com/mig-3g.40gb."),
)
run_name = click.argument("name", required=False)


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --context and --namespace to a command."""
    return options.add(where)(function)


def kubectl(context: str | None, namespace: str | None) -> Kubectl:
    """Return the kubectl that the options stand for."""
    return Kubectl(context=context, namespace=namespace)


def namespace_of(client: Kubectl) -> str:
    """Return the namespace that kubectl will use."""
    if client.namespace:
        return client.namespace
    found = client.run("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip()
    return found or "default"
