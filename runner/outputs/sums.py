# SPDX-License-Identifier: Apache-2.0
"""SHA-256 checksum files in the format of ``sha256sum -c``.

``NAME.sha256`` lists the files of a notebook's run, ``reports/SHA256SUMS`` those of the report. Each is written after
its files and names them relative to its folder, so that they can be moved together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from runner.core import files, log
from runner.core.errors import RecordError
from runner.core.hash_cache import sha256_of
from runner.outputs import attempts

REPORT = Path("reports", "SHA256SUMS")
PAGES = "complete_analysis_report_*.html"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]{1,1000})")
_LARGEST_BYTES = 1 << 24


def of_notebook(folder: Path, name: str) -> Path:
    """Return the path of a notebook's checksum file."""
    return folder / f"{name}{attempts.SUMS}"


def write_notebook(folder: Path, name: str) -> None:
    """Write the checksums of a run's files; a failure is only logged, as the record is already written."""
    try:
        write(of_notebook(folder, name), hashes(folder, (f"{name}{suffix}" for suffix in attempts.SUFFIXES)))
    except (OSError, RecordError) as error:
        log.warning("sums", nb=name, reason=str(error))


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the checksums of those files of a folder that exist.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    return {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}


def write(path: Path, sums: Mapping[str, str]) -> None:
    """Write a checksum file.

    Raises
    ------
    RecordError
        It cannot be written.
    """
    files.write(path, "".join(f"{found}  {name}\n" for name, found in sums.items()))


def read(path: Path) -> dict[str, str]:
    """Return checksums by file name.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is not a valid checksum file.
    """
    *lines, rest = files.read(path, _LARGEST_BYTES).decode().split("\n")
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found:
            raise ValueError(f"line {number} is not a SHA-256 and a file name")
        found[match[2]] = match[1]
    if rest or not found:
        raise ValueError("its last line is incomplete" if rest else "it is empty")
    return found


def write_report(folder: Path, written: Iterable[str]) -> None:
    """Write the checksums of a report's files; files of earlier reports keep their checksums.

    Parameters
    ----------
    written
        New files, relative to the output folder.

    Raises
    ------
    OSError, RecordError
        A file cannot be read, or the checksums cannot be written.
    """
    path = folder / REPORT
    try:
        known = read(path)
    except (OSError, ValueError):
        known = {}
    kept = {name: found for name, found in known.items() if (path.parent / name).exists()}
    unlisted = (page.name for page in sorted(path.parent.glob(PAGES)) if page.name not in known)
    now = (os.path.relpath(folder / name, path.parent) for name in written)
    write(path, kept | hashes(path.parent, [*unlisted, *now]))


def forget(path: Path, names: Iterable[str]) -> None:
    """Drop the checksums of files that were removed, or will be rewritten repeatedly.

    Raises
    ------
    RecordError
        The checksums cannot be written.
    """
    try:
        known, gone = read(path), {*names}
    except (OSError, ValueError):  # missing or damaged: `verify` reports it
        return
    if gone & {*known}:
        write(path, {name: found for name, found in known.items() if name not in gone})


def refresh(path: Path, name: str) -> None:
    """Replace the checksum of one rewritten file.

    A missing or damaged checksum file is left as it is: it must not vouch for files that were not just written.

    Raises
    ------
    OSError, RecordError
        The file cannot be read, or the checksums cannot be written.
    """
    try:
        known = read(path)
    except (OSError, ValueError):
        return
    write(path, {**known, name: sha256_of(path.parent / name)})
