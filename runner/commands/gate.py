# SPDX-License-Identifier: Apache-2.0
"""`runner gate`: check the GPUs and memory of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runner.commands import options
from runner.commands.answer import answer


@click.command("gate")
@options.add(options.gate_options)
@options.as_json
def command(as_json: bool, wait: float, **given: Any) -> int:
    """Check the visible GPUs against the requested number and memory. Exit code: 0 passed, 3 refused.

    \b
    Examples:
      runner gate --min-gpu-memory-gb 24
      runner gate --min-gpus 2 --wait 10m --json
    """
    import os

    from runner.core.records import to_json
    from runner.core.requirements import requirements_of
    from runner.stages.gate.gate import gate

    wanted = requirements_of(given["min_gpus"], given["min_gpu_memory_gb"], given["gpu_free_fraction"])
    with gate(wanted, environ=os.environ, wait_seconds=wait, disk_path=Path.cwd(), owner="runner gate") as decision:
        record = decision.record
    if as_json:
        answer(to_json(record))
        return 0 if record.passed else 3
    for gpu in record.gpus:
        answer(f"{'good' if gpu.good else 'no  '} {gpu.index}: {gpu.name} {gpu.uuid}: {gpu.reason}")
    for check in record.checks:
        answer(f"{check.status:4} {check.name}: {check.seen}{f', {check.needed} needed' if check.needed else ''}")
    answer(f"gate: {'passed' if record.passed else 'refused'}: {record.reason}")
    return 0 if record.passed else 3
