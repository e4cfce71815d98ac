# SPDX-License-Identifier: Apache-2.0
"""`runner verify`: whether an output folder is as its runs left it."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import options
from runner.commands.answer import answer
from runner.core.stop import ending_on_signals


@click.command("verify")
@click.argument("output_dir", type=options.FOLDER)
@options.as_json
@ending_on_signals()
def command(output_dir: Path, as_json: bool) -> int:
    """Check that all files of OUTPUT_DIR are as NAME.sha256 and reports/SHA256SUMS say, and that they agree.

    Records, executed notebooks, summary and RO-Crate are compared with each other, earlier attempts included.
    Runs in flight are not judged. Exit code: 0, or 9 where something differs; 2 where there is no run.

    \b
    Examples:
      runner verify outputs
      (cd outputs && sha256sum -c *.sha256)
    """
    import dataclasses
    import json

    from runner.core.surrogates import printable
    from runner.core.units import format_count
    from runner.report.integrity import verify

    found = verify(output_dir)
    if as_json:
        answer(json.dumps({"ok": not found.differences, **dataclasses.asdict(found)}, indent=1, ensure_ascii=False))
    else:
        lines = [*map(str, found.differences), *(f"not judged: {note}" for note in found.not_judged)]
        checked = f"{format_count(found.files, 'file')} of {format_count(found.notebooks, 'notebook')} checked"
        verdict = format_count(len(found.differences), "difference") if found.differences else "no difference"
        answer("\n".join([*map(printable, lines), f"{checked}: {verdict}"]))
    return 9 if found.differences else 0
