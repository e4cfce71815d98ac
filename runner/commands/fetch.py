# SPDX-License-Identifier: Apache-2.0
"""`runner fetch`: the datasets of a plan, verified, into a cache."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import option_types, options


@click.command("fetch")
@click.argument("plan", type=options.FILE)
@click.option("--dataset", multiple=True, metavar="NAME", help="Fetch this dataset only. Repeatable. [default: all]")
@click.option("--cache", type=options.FOLDER, default=Path("data"), show_default=True, help="Where the files go.")
@click.option("--offline", is_flag=True, help="Use what is there; fail on what is not.")
@click.option(
    "--connections",
    type=option_types.Number(1, 64, whole=True),
    default=8,
    show_default=True,
    help="Connections a file.",
)
@options.as_json
def command(plan: Path, dataset: tuple[str, ...], cache: Path, offline: bool, connections: int, as_json: bool) -> int:
    """Fetch the datasets of PLAN and verify them; a second call resumes what was cut off.

    Exit code: 0 all there, 9 wrong content or not found, 75 the network failed after its retries,
    3 too little disk, 2 usage.

    \b
    Examples:
      runner fetch plan.yaml --cache /data
      runner fetch plan.yaml --dataset census --offline
    """
    import dataclasses
    import json

    from runner.data.download.progress_bar import suited_watcher
    from runner.data.fetch import fetch
    from runner.data.locate import shown
    from runner.plan.model import load

    staged = fetch(
        load(plan),
        list(dataset) or None,
        cache=cache,
        offline=offline,
        connections=connections,
        watcher=suited_watcher(),
    )
    if as_json:
        found = [{**dataclasses.asdict(item), "url": shown(item.url)} for item in staged]
        click.echo(json.dumps({"datasets": found}, indent=1, default=str, ensure_ascii=False))
        return 0
    for item in staged:
        state = "verified" if item.verified_by else "not verified: pin it with this sha256"
        click.echo(f"{item.name}: {item.path} {item.bytes} bytes sha256={item.sha256} ({state})")
    return 0
