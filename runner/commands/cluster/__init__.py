# SPDX-License-Identifier: Apache-2.0
"""`runner cluster`: plans on a Kubernetes cluster with Tekton."""

from __future__ import annotations

import click

from runner.commands.cluster import pod, runs, setup
from runner.commands.help import Commands


@click.group("cluster", cls=Commands)
def command() -> None:
    """Install, run and watch plans on a Kubernetes cluster, through kubectl and its contexts.

    \b
    Exit codes: 0 done (a followed run: it succeeded); 1 the run failed or the cluster refused;
    2 usage; 3 something has to be installed first; 75 no connection.
    """


for verb in (
    setup.install,
    setup.validate,
    runs.run,
    runs.rerun,
    runs.monitor,
    runs.status,
    runs.logs,
    runs.fetch,
    runs.cancel,
    runs.cleanup,
    setup.uninstall,
    pod.capacity,
    pod.start,
    pod.prune,
):
    command.add_command(verb)
