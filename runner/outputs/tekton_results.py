# SPDX-License-Identifier: Apache-2.0
"""Tekton results: one short line per file without a trailing newline, less than 1 KB in total.

Some are type hints for Tekton Chains, which signs provenance from them: `X_ARTIFACT_OUTPUTS` is an output file by URI
and digest, `CHAINS-GIT_URL` and `CHAINS-GIT_COMMIT` are its source.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from runner.core import files, log
from runner.core.hash_cache import sha256_of

if TYPE_CHECKING:
    from runner.core.records import Metrics, Source

ARTIFACT = "pkg:generic/"
"""Prefix of the URI of a signed file, before its path in the output folder. No image can have such a name; Chains would
sign it as an image."""
_REASON_BYTES = 200
_PATH_BYTES = 200
_MOST_BYTES = 1000
"""Limit for all results of a task."""


def write(folder: Path, metrics: Metrics, metrics_path: Path) -> None:
    """Write the results of one notebook; once its record is final, with the hints for signing.

    Raises
    ------
    RecordError
        The folder cannot be written.
    """
    hints: dict[str, str] = {}
    if not metrics.provisional:
        made = {"record": metrics_path.name, "notebook": metrics.outputs.notebook}
        hints = artifacts(metrics_path.parent, made) | source_hints([metrics.source])
    write_values(folder, values(metrics, metrics_path), hints)


def write_values(folder: Path, results: Mapping[str, str], hints: Mapping[str, str] | None = None) -> None:
    """Write one file per result, each value on one line.

    Parameters
    ----------
    hints
        Additional results, as far as they fit.

    Raises
    ------
    RecordError
        The folder cannot be written.
    """
    found = {name: line(value, _REASON_BYTES) for name, value in results.items()}
    for name, value in (hints or {}).items():
        if sum(len(text.encode()) for text in (*found.values(), value)) > _MOST_BYTES:
            log.warning("not-signed", result=name, reason=f"with it the results would exceed {_MOST_BYTES} bytes")
        else:
            found[name] = value
    for name, text in found.items():
        files.write(folder / name, text)


def artifacts(folder: Path, made: Mapping[str, str | None]) -> dict[str, str]:
    """Return the type hints of the existing ones among these files of an output folder."""
    found = {}
    for what, path in made.items():
        try:
            digest = sha256_of(folder / path) if path else None
        except OSError as error:
            log.warning("not-signed", file=path, reason=error.strerror or str(error))
            continue
        if path and digest:
            hint = {"uri": ARTIFACT + quote(path), "digest": f"sha256:{digest}", "isBuildArtifact": "true"}
            found[f"{what}_ARTIFACT_OUTPUTS"] = json.dumps(hint, separators=(",", ":"))
    return found


def source_hints(sources: Iterable[Source]) -> dict[str, str]:
    """Return the type hints of the commit that contains all notebooks as they were run, if there is one.

    Skipped notebooks, which were never read, do not count. Chains assumes that commits are SHA-1.
    """
    found = {(one.commit or "", one.repository or "") for one in sources if one.sha256}
    commit, url = found.pop() if len(found) == 1 else ("", "")
    return {"CHAINS-GIT_COMMIT": commit, "CHAINS-GIT_URL": "".join(url.split())} if url and len(commit) == 40 else {}


def values(metrics: Metrics, metrics_path: Path) -> dict[str, str]:
    """Return the value of each result; unknown ones are empty."""
    peaks = [gpu.peak_gpu_memory_bytes for gpu in metrics.gpus if gpu.peak_gpu_memory_bytes is not None]
    failure = metrics.failure
    cell = failure.cell_index if failure else None
    return {
        "status": metrics.status.value,
        "reason": line(metrics.reason, _REASON_BYTES),
        "wall-seconds": f"{metrics.wall_seconds:.1f}",
        "peak-gpu-memory-gb": f"{max(peaks) / 1e9:.2f}" if peaks else "",
        "failed-cell": "" if cell is None else str(cell + 1),
        "metrics-path": line(str(metrics_path), _PATH_BYTES, keep_end=True),
    }


def line(text: str, limit: int, *, keep_end: bool = False) -> str:
    """Return text on one line, truncated to a number of bytes."""
    data = " ".join(text.split()).encode(errors="replace")
    if len(data) <= limit:
        return data.decode()
    cut = data[-(limit - 3) :] if keep_end else data[: limit - 3]
    short = cut.decode(errors="ignore")
    return f"…{short}" if keep_end else f"{short}…"
