# SPDX-License-Identifier: Apache-2.0
"""`runner verify`: check an output folder against its checksums and records."""

from __future__ import annotations

from pathlib import Path

import click

from runner.commands import options
from runner.commands.answer import answer
from runner.core.stop import ending_on_signals


@click.command("verify")
@click.argument("output_dir", type=options.FOLDER)
@click.option(
    "--attestation",
    "attestations",
    type=options.FILE,
    multiple=True,
    help="In-toto statement or DSSE envelope of a TaskRun, by Tekton Chains: compare its digests too. Verify its "
    "signature with `cosign`. Repeatable.",
)
@options.as_json
@ending_on_signals()
def command(output_dir: Path, attestations: tuple[Path, ...], as_json: bool) -> int:
    """Check all files of OUTPUT_DIR against NAME.sha256 and reports/SHA256SUMS, and against each other.

    Records, executed notebooks, summary and RO-Crate are compared, including earlier attempts. Runs in progress are
    not judged. Exit code: 0, or 9 if anything differs; 2 if there is no run.

    \b
    Examples:
      runner verify outputs
      (cd outputs && sha256sum -c *.sha256)
    """
    import dataclasses
    import json

    from runner.core.surrogates import printable
    from runner.core.units import format_count
    from runner.report.attestation import compare_attested
    from runner.report.integrity import verify

    found = verify(output_dir)
    attested = [compare_attested(output_dir, one) for one in attestations]
    found = dataclasses.replace(
        found, differences=(*found.differences, *(note for one in attested for note in one.differences))
    )
    count = sum(one.files for one in attested)
    if as_json:
        report = {"ok": not found.differences, **dataclasses.asdict(found), "attested": count}
        answer(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        lines = [*map(str, found.differences), *(f"not judged: {note}" for note in found.not_judged)]
        checked = f"{format_count(found.files, 'file')} of {format_count(found.notebooks, 'notebook')} checked"
        checked += f", {count} of them attested" if attestations else ""
        verdict = format_count(len(found.differences), "difference") if found.differences else "no difference"
        answer("\n".join([*map(printable, lines), f"{checked}: {verdict}"]))
    return 9 if found.differences else 0
