# SPDX-License-Identifier: Apache-2.0
"""Location of our control group (cgroup), version 1 or 2.

Its directories are determined from ``/proc``, because a container may see the whole tree, only its own
part, or a path that does not exist.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60
"""cgroup v1 represents "no limit" as the largest page-aligned number; no machine has this much memory."""


@dataclass(frozen=True, slots=True)
class Level:
    """A cgroup directory; ``path`` is the cgroup's path below its mount."""

    directory: Path
    path: str

    def number(self, name: str) -> int | None:
        """Return the number in a file; None for ``max``, no limit, or a missing file."""
        return number_in(text_of(self.directory / name))

    def fields(self, name: str) -> dict[str, int]:
        """Return the numbers of a file of ``key value`` lines."""
        return parse_fields((text_of(self.directory / name) or "").encode())


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Our cgroup for one controller and its visible ancestors, own first."""

    version: int = 0
    levels: tuple[Level, ...] = ()


def parse_fields(content: bytes) -> dict[str, int]:
    """Return the numbers of ``key value`` lines, as in `memory.stat`."""
    words = content.split()
    with contextlib.suppress(ValueError):
        return {key.decode(): int(value) for key, value in zip(words[::2], words[1::2], strict=False)}
    return {}


def find(root: Path, process: str, controller: str) -> Ancestry:
    """Find our cgroup for a controller: version 1 if mounted, else version 2."""
    own: dict[str, str] = {}
    for line in (text_of(root / "proc" / process / "cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        own |= dict.fromkeys(names.split(","), path)
    for version, name in ((1, controller), (2, "")):
        mount = _mount(root, version, controller) if name in own else None
        if mount is not None:
            return Ancestry(version, _levels(own[name], *mount))
    return Ancestry()


def _mount(root: Path, version: int, controller: str) -> tuple[str, Path] | None:
    """Return the root of the mounted part of the hierarchy, and its mount point."""
    for line in (text_of(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        places, kind = before.split(), after.split()
        if len(places) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" if version == 2 else kind[0] == "cgroup" and controller in kind[2].split(","):
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), places[4])  # a space is \040
            return places[3], root / point.lstrip("/")
    return None


def _levels(path: str, mounted: str, point: Path) -> tuple[Level, ...]:
    """Return the directories from our cgroup up to the mount point.

    A container without a cgroup namespace sees the host's path, of which only the part below
    ``mounted`` exists; a path outside the namespace (``/..``) maps to the mount point.
    """
    base = "" if mounted == "/" else mounted
    below = path[len(base) :] if path == base or path.startswith(f"{base}/") else ""
    parts = [part for part in below.split("/") if part]
    if ".." in parts:
        parts = []
    while parts and not point.joinpath(*parts).is_dir():
        parts.pop()
    steps = [parts[:count] for count in range(len(parts), -1, -1)]
    return tuple(Level(point.joinpath(*step), "/" + "/".join(step)) for step in steps)


def number_in(text: str | None) -> int | None:
    """Return the number in a text; None for ``max``, no limit, another text, or None."""
    try:
        value = int(text or "")
    except ValueError:
        return None
    return value if value < UNLIMITED else None


def text_of(path: Path) -> str | None:
    """Return the stripped text of a small file, or None if unreadable."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
