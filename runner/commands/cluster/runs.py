# SPDX-License-Identifier: Apache-2.0
"""`runner cluster run | rerun | monitor | status | logs | fetch | cancel | cleanup`: manage runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.commands import option_types, options
from runner.commands.cluster import connection as shared

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl

KNOWN_RUNS = {
    "complete": "complete-analysis-pipelinerun.yaml",
    "preprocessing": "preprocessing-pipelinerun.yaml",
    "parallel": "parallel-analysis-pipelinerun.yaml",
    "demo": "demo-pipelinerun.yaml",
}


FIT = ("storage", "storage_class", "access_mode", "gpu_resource", "claim")
_wait = click.option("--wait/--no-wait", default=True, show_default=True, help="Follow the run until it ends.")


@click.command("run")
@click.argument("which", default="complete", metavar="[complete|preprocessing|parallel|demo|FILE]")
@shared.verb
@shared.repository
@click.option("--plan", type=options.FILE, help="Your own plan: apply its ConfigMap and Pipeline, then run it.")
@click.option("--repository-url", default="", help="With --plan: repository of its notebooks.")
@click.option("--revision", default="", help="With --plan: branch, tag or commit.")
@click.option("--only", multiple=True, metavar="NAME", help="Run this notebook only. Repeatable.")
@click.option("--from", "from_", metavar="NAME", help="Run this notebook and those after it.")
@click.option("--param", "params", type=option_types.Setting(), multiple=True, help="Parameter of the run. Repeatable.")
@options.add(shared.fit)
@click.option("--validate/--no-validate", default=True, show_default=True, help="Check the cluster first.")
@shared.dry_run
@_wait
def run(client: Kubectl, dry_run: bool, wait: bool, validate: bool, **given: Any) -> int:
    """Start a run, print its name, and follow it. FILE is the output of `runner plan render`.

    The cluster is checked first, see `validate`; warnings do not stop the run. The plan is pinned for the run in an
    immutable ConfigMap.

    Exit code: 0 succeeded, 1 failed, 2 no such run, notebook or parameter, 3 nothing is installed, or the cluster
    does not meet the run's requirements.

    \b
    Examples:
      runner cluster run demo --namespace scrna
      runner cluster run complete --param continue-on-failure=false --no-wait
      runner cluster run --plan mine.yaml --repository-url https://git.example/me/notebooks
      runner cluster run complete --only 03_scRNA_analysis_with_pearson_residuals --claim shared-storage
    """
    from runner.cluster import run_request
    from runner.cluster.readiness import as_text
    from runner.cluster.run_checks import check_run

    fit = run_request.Fit(**{key: given.pop(key) for key in FIT})
    choice = run_request.Wanted(**{**given, "which": KNOWN_RUNS.get(given["which"], given["which"]), "fit": fit})
    request = run_request.request(client, choice)
    if validate:
        checks = check_run(client, shared.namespace_of(client), request.run, request.spec, request.plan)
        wrong = [check for check in checks if check.status != "pass"]
        if wrong:
            click.echo(as_text(wrong), err=True)
        if any(check.status == "fail" for check in wrong):
            click.echo("nothing was started; use --no-validate to start it anyway", err=True)
            return 3
    name = run_request.create(client, request, dry_run=dry_run)
    click.echo(name)
    return _follow(client, name) if wait and not dry_run else 0


@click.command("rerun")
@click.argument("notebooks", nargs=-1, metavar="[NOTEBOOK]...")
@shared.verb
@click.option("--run", "name", help="Run to repeat. [default: our newest]")
@click.option("--failed", is_flag=True, help="Repeat all notebooks that did not succeed or were not reached (default).")
@click.option("--gpu-resource", help="Resource name of a GPU, such as nvidia.com/mig-3g.40gb.")
@shared.dry_run
@_wait
def rerun(
    client: Kubectl, notebooks: tuple[str, ...], name: str | None, dry_run: bool, wait: bool, failed: bool, **given: Any
) -> int:
    """Repeat notebooks of a finished run on its volume, under its ID; the new report covers the whole run.

    Earlier files are moved to attempts/ first. Exit code: as for `run`; 2 also if nothing failed.

    \b
    Examples:
      runner cluster rerun --namespace scrna
      runner cluster rerun 03_scRNA_analysis_with_pearson_residuals --run complete-analysis-x7k2p
    """
    from runner.cluster import run_request, runs
    from runner.cluster.run_view import view
    from runner.core.errors import UsageError

    if failed and notebooks:
        raise UsageError("--failed and notebook names are mutually exclusive", hint="give one of them")
    found = runs.find(client, name)
    now = view(found, runs.task_runs(client, str(found["metadata"]["name"])))
    fit = run_request.Fit(gpu_resource=given["gpu_resource"])
    new = run_request.create(client, run_request.rerun(client, found, now, notebooks, fit), dry_run=dry_run)
    click.echo(new)
    return _follow(client, new) if wait and not dry_run else 0


@click.command("monitor")
@shared.run_name
@shared.verb
def monitor(name: str | None, client: Kubectl) -> int:
    """Watch a run (NAME, else our newest) until it ends, with the state of each task and why it waits.

    Exit code: 0 succeeded, 1 failed. A dropped connection is re-established.
    """
    from runner.cluster import runs

    return _follow(client, str(runs.find(client, name)["metadata"]["name"]))


def _follow(client: Any, name: str) -> int:
    from runner.cluster import runs
    from runner.cluster.display import Display

    with Display() as display:
        ended = runs.follow(client, name, display.show)
    return 0 if ended.succeeded else 1


@click.command("status")
@shared.run_name
@shared.verb
@options.as_json
def status(name: str | None, client: Kubectl, as_json: bool) -> None:
    """Show a run (NAME, else our newest) on one screen."""
    from runner.cluster import display, runs

    view = runs.look(client, name)
    if as_json:
        click.echo(display.as_json(view))
        return
    from rich.console import Console

    Console().print(display.table(view))


@click.command("logs")
@click.argument("notebook")
@shared.verb
@click.option("--run", "name", help="Run of the notebook. [default: our newest]")
@click.option("-f", "--follow", is_flag=True, help="Stream the log as it grows.")
def logs(notebook: str, client: Kubectl, name: str | None, follow: bool) -> int:
    """Print the log of NOTEBOOK, or of another task such as validate.

    A cancelled Pod is deleted together with its log; the copy on the volume remains, see fetch.
    """
    from runner.cluster import runs

    pod = runs.task_of(runs.look(client, name), notebook)
    return client.pass_on("logs", pod, "--all-containers", "--prefix=false", *(["--follow"] if follow else []))


@click.command("fetch")
@shared.run_name
@shared.verb
@click.option("--to", "target", type=options.FOLDER, default=Path("outputs"), show_default=True, help="Local folder.")
@click.option("--image", help="Image of the helper Pod; it must have Python. [default: the run's]")
def fetch(name: str | None, client: Kubectl, target: Path, image: str | None) -> int:
    """Copy outputs and report from a run's volume. Run it again to resume after an interruption.

    A helper Pod reads the volume and is removed afterwards.
    """
    from runner.cluster import runs, volume

    found = runs.find(client, name)
    run_name = str(found["metadata"]["name"])
    claim, folder = volume.claim_of(found, runs.task_runs(client, run_name))
    pod = volume.manifest(found, claim, image or runs.image_of(found))
    with volume.running(client, pod) as pod_name:
        source = volume.outputs_folder(folder)
        files = volume.listing(client, pod_name, source)
        copied = volume.copy(client, pod_name, source, files, target, say=click.echo)
    click.echo(f"{run_name}: {copied.files} files copied to {target}, {copied.unchanged} already there")
    return 0


@click.command("cancel")
@shared.run_name
@shared.verb
@click.option("--wait/--no-wait", default=False, show_default=True, help="Wait until the report is written.")
def cancel(name: str | None, client: Kubectl, wait: bool) -> int:
    """Cancel a run (NAME, else our newest); its results so far are kept and its report is still written."""
    from runner.cluster import runs

    found = runs.look(client, name)
    if found.ended:
        click.echo(f"{found.name} has already ended: {found.reason}")
        return 0
    runs.cancel(client, found.name)
    click.echo(f"{found.name}: cancelled; notebook and report are being written")
    if wait:
        _follow(client, found.name)
    return 0


@click.command("cleanup")
@shared.verb
@click.option(
    "--keep", type=option_types.Number(0, whole=True), default=5, show_default=True, help="Newest ended runs to keep."
)
@shared.dry_run
def cleanup(client: Kubectl, keep: int, dry_run: bool) -> None:
    """Delete old finished runs with their volumes, if this launcher or its CronJob started them."""
    from runner.cluster import runs

    for name in (found := runs.clean_up(client, keep, dry_run=dry_run)):
        click.echo(f"{'would delete' if dry_run else 'deleted'} {name}")
    if not found:
        click.echo(f"nothing to delete: {keep} or fewer finished runs were started by runner")
