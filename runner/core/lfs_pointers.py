# SPDX-License-Identifier: Apache-2.0
"""Files that are git-lfs pointers: three lines of text where a notebook expects data.

A clone without git-lfs leaves them, and readers then complain about formats and not about git.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

_FIRST_LINE = b"version https://git-lfs.github.com/spec/"
_LARGEST_BYTES = 1024
"""A pointer is smaller by the specification of git-lfs."""
_MOST_NAMES = 2000
_QUOTED = re.compile(r"""["']([^"'\n]{1,400})["']""")


def is_pointer(path: Path) -> bool:
    """Return True if this is a regular file that holds a git-lfs pointer."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_BYTES:
            return False
        with path.open("rb") as stream:
            return stream.read(len(_FIRST_LINE)) == _FIRST_LINE
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return False


def named_pointers(texts: Iterable[str], folder: Path) -> tuple[str, ...]:
    """Return the pointers among the files that quoted names in source or messages lead to.

    Parameters
    ----------
    texts
        Where names stand between quotes.
    folder
        What relative names start from.
    """
    names = islice((match[1] for text in texts for match in _QUOTED.finditer(text)), _MOST_NAMES)
    return tuple(name for name in dict.fromkeys(names) if is_pointer(folder / name))


def pointers_below(folder: Path) -> tuple[str, ...]:
    """Return the pointers in a folder and its subfolders, as far as a short look finds them."""
    return tuple(str(path.relative_to(folder)) for path in islice(_files(folder), _MOST_NAMES) if is_pointer(path))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names))
