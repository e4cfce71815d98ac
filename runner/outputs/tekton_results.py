# SPDX-License-Identifier: Apache-2.0
"""Tekton results: one short line a file, no newline at its end, all of them under 1 KB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import files

if TYPE_CHECKING:
    from runner.core.records import Metrics

_REASON_BYTES = 200


def write(folder: Path, metrics: Metrics, metrics_path: Path) -> None:
    """Write the results of one notebook.

    Raises
    ------
    RecordError
        The folder cannot be written.
    """
    write_values(folder, values(metrics, metrics_path))


def write_values(folder: Path, results: Mapping[str, str]) -> None:
    """Write one file a result, each value on one line.

    Raises
    ------
    RecordError
        The folder cannot be written.
    """
    for name, value in results.items():
        files.write(folder / name, line(value, _REASON_BYTES))


def values(metrics: Metrics, metrics_path: Path) -> dict[str, str]:
    """Return each result's name and value; what is not known is an empty text."""
    peaks = [gpu.peak_gpu_memory_bytes for gpu in metrics.gpus if gpu.peak_gpu_memory_bytes is not None]
    failure = metrics.failure
    cell = failure.cell_index if failure else None
    return {
        "status": metrics.status.value,
        "reason": line(metrics.reason, _REASON_BYTES),
        "wall-seconds": f"{metrics.wall_seconds:.1f}",
        "peak-gpu-memory-gb": f"{max(peaks) / 1e9:.2f}" if peaks else "",
        "failed-cell": "" if cell is None else str(cell + 1),
        "metrics-path": line(str(metrics_path), 300, keep_end=True),
    }


def line(text: str, limit: int, *, keep_end: bool = False) -> str:
    """Return text on one line within a number of bytes."""
    data = " ".join(text.split()).encode(errors="replace")
    if len(data) <= limit:
        return data.decode()
    cut = data[-(limit - 3) :] if keep_end else data[: limit - 3]
    short = cut.decode(errors="ignore")
    return f"…{short}" if keep_end else f"{short}…"
