# SPDX-License-Identifier: Apache-2.0
"""Whether a notebook is worth a second try on the next larger card: only if the GPU's memory was full."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from runner.core import files
from runner.core.endings import settled
from runner.core.records import Cause, read_metrics
from runner.tekton.sizes import GPU_FREE_FRACTION

if TYPE_CHECKING:
    from pathlib import Path

    from runner.plan.model import Notebook


def why_not(output_dir: Path, larger: Notebook, run_id: str | None) -> str:
    """Return why the record of the first try does not call for a larger card, empty if it does.

    Parameters
    ----------
    larger
        The notebook as its second try asks for a GPU.
    """
    record = None
    with suppress(OSError, ValueError):
        record = settled(read_metrics(files.read(output_dir / f"{larger.name}.metrics.json").decode()))
    if record is None or record.run_id != run_id:
        return "this run has no record of a first try"
    if record.failure is None or record.failure.cause is not Cause.DEVICE_MEMORY:
        return f"its first try ended as {record.status.value}, and not because the GPU's memory was full"
    gpus = [gpu for gpu in record.gate.gpus if gpu.uuid in record.gate.chosen] if record.gate else []
    had = max((gpu.total_bytes or 0 for gpu in gpus), default=0)
    if had >= GPU_FREE_FRACTION * (larger.requires.gpu_memory_gb or 0) * 1e9:
        return f"its first try had a GPU of {had / 1e9:.0f} GB already"
    return ""
