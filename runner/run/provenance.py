# SPDX-License-Identifier: Apache-2.0
"""With what a notebook ran: package versions, commit, image. Collected beside the work, not before it."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import subprocess
import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.records import Environment, Source

if TYPE_CHECKING:
    from runner.run.job import Job


class Provenance:
    """Collects versions and commit in a thread while the kernel starts.

    Parameters
    ----------
    source
        The notebook's file, whose commit is wanted.
    here
        Whether the kernel runs in this very Python, so that our packages are its packages.
    """

    def __init__(self, source: Path, *, here: bool) -> None:
        self._source = source
        self._here = here
        self._versions: dict[str, str] = {}
        self._commit: str | None = None
        self._thread = threading.Thread(target=self._collect, name="provenance", daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        self._commit = commit_of(self._source.parent)
        if self._here:
            self._versions = versions()

    @property
    def versions(self) -> dict[str, str]:
        """Versions of all installed distributions by name."""
        self._thread.join(timeout=10)
        return self._versions

    @property
    def commit(self) -> str | None:
        """The commit that is checked out where the notebook lies, with ``-dirty`` when it was edited."""
        self._thread.join(timeout=10)
        return self._commit


def versions() -> dict[str, str]:
    """Return the versions of all installed distributions by name."""
    found = {"python": platform.python_version()}
    for distribution in metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:
            found[name] = version
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def commit_of(folder: Path) -> str | None:
    """Return the commit checked out in a folder, None where git or a repository is missing."""
    # A mounted checkout belongs to another uid; that is no reason to refuse to read its commit.
    command = ["git", "-c", "safe.directory=*", "-C", str(folder)]
    try:
        head = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() or None if head.returncode == 0 else None


def source_record(job: Job, notebook: Any, data: bytes, kernel: str) -> Source:
    """Return what the notebook was before anything was done to it."""
    return Source(
        path=job.source_label, sha256=hashlib.sha256(data).hexdigest(), title=title_of(notebook), kernel=kernel
    )


def title_of(notebook: Any) -> str | None:
    """Return the first heading."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("#"):
                    return line.lstrip("#").strip()[:200] or None
    return None


def environment(job: Job, kernel: str, transport: str) -> Environment:
    """Return where the notebook ran; names of secrets, never their values."""
    return Environment(
        image=os.environ.get("RUNNER_IMAGE") or None,
        python=platform.python_version(),
        platform=platform.platform(),
        cwd=str(job.cwd),
        kernel=kernel,
        transport=transport,
        variables=dict(job.env),
        secrets=tuple(job.secrets),
        parameters={name: _recordable(value) for name, value in job.parameters.items()},
    )


def _recordable(value: Any) -> Any:
    """Return a parameter's value as JSON has it; what JSON lacks (NaN, dates) becomes text."""
    if isinstance(value, dict):
        return {str(key): _recordable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_recordable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int) else str(value)
