# SPDX-License-Identifier: Apache-2.0
"""`runner cluster`: plans on a Kubernetes cluster with Tekton."""

from __future__ import annotations

import click

from runner.commands import cluster_pod, cluster_runs, cluster_setup


@click.group("cluster")
def command() -> None:
    """Install, run and watch plans on a Kubernetes cluster, through kubectl and its contexts.

    \b
    Exit codes: 0 done (a followed run: it succeeded); 1 the run failed or the cluster refused;
    2 usage; 3 something has to be installed first; 75 no connection.
    """


for verb in (
    cluster_setup.install,
    cluster_setup.validate,
    cluster_runs.run,
    cluster_runs.monitor,
    cluster_runs.status,
    cluster_runs.logs,
    cluster_runs.fetch,
    cluster_runs.cancel,
    cluster_runs.cleanup,
    cluster_setup.uninstall,
    cluster_pod.capacity,
    cluster_pod.start,
    cluster_pod.prune,
):
    command.add_command(verb)
