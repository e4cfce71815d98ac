# SPDX-License-Identifier: Apache-2.0
"""Provenance of a run: commit, image, packages, environment.

Packages are identified by the names of their metadata folders, in ten milliseconds; reading the metadata of each,
as `importlib.metadata` does, takes a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core.machine_records import Environment
from runner.core.records import Source
from runner.core.redact import MASK

if TYPE_CHECKING:
    from runner.plan.job import Job

_GIT_SECONDS = 5
_LONGEST_URL = 2_000
_FOLDER = re.compile(r"(?P<name>[^-]{1,200})-(?P<version>[^-]{1,200})(?:-[^.]{1,50})?\.(?:dist|egg)-info")
_QUERY = "import json, platform, sys; print(json.dumps([platform.python_version(), sys.path]))"
_SECONDS = 30
_LONGEST_ARGUMENT = 4_000
_USER = re.compile(r"(?<=://)[^/?#\s]*@")
_SECRET_NAME = re.compile(r"token|secret|passw|api_?key|credential", re.IGNORECASE)


class Commit:
    """Looks up the commit of a notebook in a thread while its kernel starts.

    Parameters
    ----------
    source
        The notebook's file.
    data
        Its content as it was run.
    """

    def __init__(self, source: Path, data: bytes) -> None:
        self._found: tuple[str | None, str | None] = None, "git did not answer in time"
        self._repository: str | None = None
        self._thread = threading.Thread(target=self._find, args=(source, data), name="commit", daemon=True)
        self._thread.start()

    def _find(self, source: Path, data: bytes) -> None:
        found = commit_of(source, data)
        if found[0] is not None:
            self._repository = repository_of(source)
        self._found = found

    def complete(self, source: Source) -> Source:
        """Return the record of the source with its commit, or the reason why it is unavailable."""
        self._thread.join(timeout=10)
        commit, reason = self._found
        unavailable = {"commit": reason} if reason else {}
        return dataclasses.replace(source, commit=commit, repository=self._repository, unavailable=unavailable)


def commit_of(source: Path, data: bytes) -> tuple[str | None, str | None]:
    """Return the commit that contains the notebook as it was run, or None and the reason.

    Parameters
    ----------
    source
        The notebook's file.
    data
        Its content as it was run.
    """
    source = source.resolve()  # git stores a link's target path, not the target's content
    head, problem = _git(source.parent, "rev-parse", "--verify", "HEAD^{commit}")
    if head is None:
        return None, problem or "not in a git repository with a commit"
    blob, problem = _git(source.parent, "rev-parse", "--verify", f"HEAD:./{source.name}")
    if blob is None:
        return None, problem or f"not tracked: commit {head} does not contain this file"
    # git may convert line endings between repository and checkout.
    if blob in {_blob(text, len(blob)) for text in (data, data.replace(b"\r\n", b"\n"))}:
        return head, None
    filters, _ = _git(source.parent, "check-attr", "filter", "--", source.name)
    name = (filters or "").rpartition(": ")[2]
    if name not in {"", "unspecified", "unset"}:
        return None, f"cannot be compared: git passes this file through the filter {name!r}"
    return None, f"edited since commit {head}"


def repository_of(source: Path) -> str | None:
    """Return the URL of the remote `origin` without credentials, None if absent."""
    url, _ = _git(source.resolve().parent, "config", "--get", "remote.origin.url")
    return url and _USER.sub("", url)[:_LONGEST_URL]


def _git(folder: Path, *arguments: str) -> tuple[str | None, str | None]:
    """Return git's output, None if git fails, and the reason if it could not run."""
    # A mounted checkout may belong to another uid; reading its commit is still safe.
    command = ["git", "-c", "safe.directory=*", "-C", str(folder), *arguments]
    # GIT_DIR and similar variables would select another repository than the notebook's.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, env=environ, timeout=_GIT_SECONDS, check=False)
    except FileNotFoundError:
        return None, "git is not installed"
    except subprocess.TimeoutExpired:
        return None, f"git did not answer within {_GIT_SECONDS} s"
    except OSError as error:
        return None, f"git cannot be started: {error.strerror or error}"
    return (done.stdout.decode(errors="replace").strip() or None) if done.returncode == 0 else None, None


def _blob(data: bytes, digits: int) -> str:
    """Return git's object id of a file's content; repositories use SHA-1 or SHA-256."""
    kind = "sha1" if digits == 40 else "sha256"
    return hashlib.new(kind, b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def source_record(job: Job, notebook: Any, data: bytes, kernel: str) -> Source:
    """Return the record of the notebook before preparation."""
    return Source(
        path=job.source_label, sha256=hashlib.sha256(data).hexdigest(), title=title_of(notebook), kernel=kernel
    )


def title_of(notebook: Any) -> str | None:
    """Return the first Markdown heading."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("#"):
                    return line.lstrip("#").strip()[:200] or None
    return None


def environment(job: Job, kernel: str, transport: str) -> Environment:
    """Return the environment of the run, with the names of secrets but never their values."""
    return Environment(
        image=os.environ.get("RUNNER_IMAGE") or None,
        python=platform.python_version(),
        platform=platform.platform(),
        cwd=str(job.cwd),
        kernel=kernel,
        transport=transport,
        command=command_line(sys.argv),
        gpu_visibility=job.options.gpu_visibility,
        variables=dict(job.env),
        secrets=tuple(job.secrets),
        parameters={name: _recordable(value) for name, value in job.parameters.items()},
    )


def command_line(argv: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of a process with possible secrets redacted: parts of URLs, values named as secrets."""
    name = Path(argv[0]).name
    return ("runner" if name == "__main__.py" else name, *map(_redacted, argv[1:]))


def _redacted(argument: str) -> str:
    """Return an argument without the user and query of a URL, and without the value of a secret."""
    if len(argument) > _LONGEST_ARGUMENT:
        return "…"
    argument = _USER.sub("", argument)
    scheme, mark, address = argument.partition("://")
    if mark and "?" in address:
        argument = f"{scheme}{mark}{address.partition('?')[0]}?…"
    named = _SECRET_NAME.search(argument)
    value = argument.find("=", named.end()) + 1 if named else 0
    return f"{argument[:value]}{MASK}" if value else argument


def _recordable(value: Any) -> Any:
    """Return a parameter's value as JSON; values without a JSON type (NaN, dates) become text."""
    if isinstance(value, dict):
        return {str(key): _recordable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_recordable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int) else str(value)


def installed(paths: Iterable[str] | None = None) -> dict[str, str]:
    """Return names and versions of the distributions on a path, `sys.path` by default; the first of a name wins."""
    found: dict[str, str] = {}
    for place in sys.path if paths is None else paths:
        with contextlib.suppress(OSError):
            for entry in sorted(os.listdir(place or ".")):  # noqa: PTH208  (ten times faster than Path.iterdir)
                if entry.endswith((".dist-info", ".egg-info")):
                    name, version = _name_and_version(Path(place or "."), entry)
                    found.setdefault(name, version)
    return dict(sorted(found.items()))


def here() -> dict[str, str]:
    """Return the version of this Python as ``python``, and its distributions."""
    return {"python": platform.python_version(), **installed()}


@functools.cache
def of_python(program: str, pythonpath: str | None) -> Mapping[str, str] | None:
    """Return version and distributions of another Python, None if it fails to answer.

    Parameters
    ----------
    pythonpath
        Its value of PYTHONPATH.
    """
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ |= {} if pythonpath is None else {"PYTHONPATH": pythonpath}
    try:
        answer = subprocess.run(
            [program, "-c", _QUERY], capture_output=True, check=True, timeout=_SECONDS, env=environ, cwd="/"
        )
        version, paths = json.loads(answer.stdout)
        return {"python": str(version), **installed(path for path in map(str, paths) if path)}
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return None


def _name_and_version(place: Path, entry: str) -> tuple[str, str]:
    match = _FOLDER.fullmatch(entry)
    if match is not None:
        return match["name"].replace("_", "-").lower(), match["version"]
    with contextlib.suppress(Exception):  # an old egg has its version only in its metadata, in any format
        found = metadata.Distribution.at(place / entry)
        return found.metadata["Name"].replace("_", "-").lower(), found.version
    return entry.rpartition(".")[0].lower(), "unknown"
