# SPDX-License-Identifier: Apache-2.0
"""`runner clean`: remove old attempts and report pages of an output folder."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import options
from runner.commands.answer import answer
from runner.commands.option_types import Duration, Number
from runner.core.stop import ending_on_signals


@click.command("clean")
@click.argument("output_dir", type=options.FOLDER)
@click.option(
    "--keep-attempts",
    type=Number(0, whole=True),
    default=3,
    show_default=True,
    metavar="N",
    help="Keep the newest N attempts of each notebook, and as many report pages.",
)
@click.option("--older-than", type=Duration(), default="0s", help="Keep everything newer, such as 30d.")
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@options.as_json
@ending_on_signals()
def command(output_dir: Path, keep_attempts: int, older_than: float, dry_run: bool, as_json: bool) -> int:
    """Remove old attempts and report pages of OUTPUT_DIR.

    Kept in any case: the newest page, each notebook's newest success, and everything of a running notebook.

    \b
    Examples:
      runner clean outputs --older-than 30d --dry-run
      runner clean outputs --keep-attempts 1
    """
    import json

    from runner.core.surrogates import printable
    from runner.core.units import format_bytes
    from runner.outputs import pruning

    old = pruning.find(output_dir, keep=keep_attempts, older_than_seconds=older_than)
    if not dry_run:
        pruning.remove(output_dir, old)
    if as_json:
        listed = [{"path": str(one.path), "bytes": one.bytes} for one in old]
        answer(json.dumps({"dry_run": dry_run, "removed": listed}, indent=1, ensure_ascii=False))
        return 0
    lines = [printable(f"{one.path}  {format_bytes(one.bytes)}") for one in old]
    freed = format_bytes(sum(one.bytes for one in old))
    would = "would free" if dry_run else "freed"
    answer("\n".join([*lines, f"{would} {freed}" if old else "nothing is old enough to be removed"]))
    return 0
