# SPDX-License-Identifier: Apache-2.0
"""Notebooks from http(s), s3, gs, hf or stdin.

They are copied into a temporary folder for the run. As with papermill, the cells run in the current
folder unless `--cwd` is given.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from runner.core.errors import BrokenInputError, RunnerError, UsageError

_URL = re.compile(r"(https?|s3|gs|hf)://", re.ASCII)
_LONGEST_BYTES = 1 << 30
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


def is_elsewhere(notebook: str) -> bool:
    """Return True for a URL, or `-` for stdin."""
    return notebook == "-" or _URL.match(notebook) is not None


@contextlib.contextmanager
def copied(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a run's options with the notebook replaced by a local copy.

    Raises
    ------
    UsageError
        The notebook cannot be fetched.
    """
    notebook: str = given["notebook"]
    if given.get("plan") is not None or not is_elsewhere(notebook):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="runner-input-") as folder:
        if notebook == "-":
            path, label = Path(folder, "stdin.ipynb"), "-"
            path.write_bytes(_stdin())
        else:
            name = _ODD.sub("-", PurePosixPath(unquote(urlsplit(notebook).path)).name).strip("-.") or "notebook.ipynb"
            path = Path(folder, name if PurePosixPath(name).suffix else f"{name}.ipynb")
            label = _download(notebook, path)
        yield {**given, "notebook": str(path), "source_label": label, "cwd": given["cwd"] or Path.cwd()}


def _stdin() -> bytes:
    data = sys.stdin.buffer.read(_LONGEST_BYTES + 1)
    if not data.strip() or len(data) > _LONGEST_BYTES:
        what = f"more than {_LONGEST_BYTES} bytes" if data.strip() else "nothing"
        raise UsageError(f"stdin holds {what}, not a notebook", hint="pipe an .ipynb file: `runner run - < FILE`")
    return data


def _download(url: str, path: Path) -> str:
    """Download the file and return its URL without secrets."""
    from runner.data.locate import shown

    if url.startswith("gs://"):
        path.write_bytes(_from_google(url))
        return url
    from runner.data.fetch import fetch
    from runner.plan.model import Dataset, Notebook, Plan

    data = Dataset(url=url, path=path.name)
    wanted = Plan(version=1, name="input", notebooks=[Notebook(name="input", path="-")], datasets={"notebook": data})
    try:
        fetch(wanted, cache=path.parent)
    except BrokenInputError as error:
        raise UsageError(error.message, hint=error.hint) from error
    return shown(url)


def _from_google(url: str) -> bytes:
    """Read from Google Cloud Storage as papermill does, through gcsfs."""
    try:
        import gcsfs
    except ImportError:
        raise UsageError(
            f"{url} needs gcsfs", hint="pip install gcsfs, or download it first: `gcloud storage cp`"
        ) from None
    try:
        content: bytes = gcsfs.GCSFileSystem().cat_file(url, end=_LONGEST_BYTES)
    except Exception as error:  # gcsfs, aiohttp and google.auth have no common base class
        raise RunnerError(f"{url} cannot be read: {error}", hint="check the URL and the credentials") from error
    return content
