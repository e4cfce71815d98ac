# SPDX-License-Identifier: Apache-2.0
"""`runner fetch`: download and verify the datasets of a plan."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import option_types, options


@click.command("fetch")
@click.argument("plan", type=options.FILE)
@click.option("--dataset", multiple=True, metavar="NAME", help="Fetch this dataset only. Repeatable. [default: all]")
@click.option("--cache", type=options.FOLDER, default=Path("data"), show_default=True, help="Folder for the files.")
@click.option("--offline", is_flag=True, help="Use cached files only; fail if one is missing.")
@click.option(
    "--connections",
    type=option_types.Number(1, 64, whole=True),
    default=8,
    show_default=True,
    help="Connections per file.",
)
@options.as_json
def command(plan: Path, dataset: tuple[str, ...], cache: Path, offline: bool, connections: int, as_json: bool) -> int:
    """Fetch and verify the datasets of PLAN; a second call resumes interrupted downloads.

    Exit code: 0 all staged, 9 wrong content or not found, 75 network failure after all retries,
    3 not enough disk space, 2 usage.

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
