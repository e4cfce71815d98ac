# SPDX-License-Identifier: Apache-2.0
"""`runner clone`: clone or update a repository at a revision."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import option_types, options


@click.command("clone")
@click.argument("url")
@click.argument("folder", type=options.FOLDER)
@click.option("--revision", default="HEAD", show_default=True, help="Branch, tag or commit.")
@click.option("--depth", type=option_types.Number(1, whole=True), help="Commits of history to fetch. [default: all]")
@click.option("--submodules", is_flag=True, help="Fetch submodules too.")
@click.option("--allow-host", multiple=True, metavar="HOST", help="Allow this host only. Repeatable.")
@options.as_json
def command(
    url: str,
    folder: Path,
    revision: str,
    depth: int | None,
    submodules: bool,
    allow_host: tuple[str, ...],
    as_json: bool,
) -> int:
    """Clone the repository at URL (https, ssh or file) into FOLDER and check out a revision.

    An existing clone is updated, unless tracked files were edited.
    Exit code: 0 done, 9 no such repository or revision, 75 network failure, 2 usage.

    \b
    Example:
      runner clone https://github.com/NVIDIA-AI-Blueprints/single-cell-analysis-blueprint source --depth 1
    """
    import dataclasses
    import json

    from runner.data.clone import clone

    cloned = clone(url, folder, revision=revision, depth=depth, submodules=submodules, allowed_hosts=allow_host)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(cloned), indent=1, ensure_ascii=False))
    else:
        click.echo(f"{cloned.folder}: {cloned.commit}")
    return 0
