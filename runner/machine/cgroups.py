# SPDX-License-Identifier: Apache-2.0
"""Where our control group (cgroup) stands in the tree, of version 1 or 2.

Its directories are found from ``/proc`` as the kernel tells them, because a container may see
all of the tree, its own part of it, or a path that is not there.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as the largest page-aligned number; no machine has this much."""


@dataclass(frozen=True, slots=True)
class Level:
    """One cgroup directory; ``path`` is what the cgroup is called below its mount."""

    directory: Path
    path: str

    def number(self, name: str) -> int | None:
        """Return a file's one number, None for ``max``, for no limit and for no such file."""
        return number_in(text_of(self.directory / name))

    def fields(self, name: str) -> dict[str, int]:
        """Return the numbers of a file of ``key value`` lines."""
        return parse_fields((text_of(self.directory / name) or "").encode())


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Our cgroup for one controller and those around it as far as they can be seen, own first."""

    version: int = 0
    levels: tuple[Level, ...] = ()


def parse_fields(content: bytes) -> dict[str, int]:
    """Return the numbers of ``key value`` lines, as `memory.stat` has them."""
    words = content.split()
    with contextlib.suppress(ValueError):
        return {key.decode(): int(value) for key, value in zip(words[::2], words[1::2], strict=False)}
    return {}


def find(root: Path, process: str, controller: str) -> Ancestry:
    """Find our cgroup for a controller, in version 1 if it is mounted there, else in version 2."""
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
    """Return which part of the hierarchy is mounted for us, and where."""
    for line in (text_of(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        places, kind = before.split(), after.split()
        if len(places) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" if version == 2 else kind[0] == "cgroup" and controller in kind[2].split(","):
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), places[4])  # a blank is \040
            return places[3], root / point.lstrip("/")
    return None


def _levels(path: str, mounted: str, point: Path) -> tuple[Level, ...]:
    """Return the directories from our cgroup up to the mount point.

    A container without a cgroup namespace reads the path of the host, of which only the part
    below ``mounted`` is there; a path out of the namespace (``/..``) leaves the mount point.
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
    """Return the number a file holds, None for ``max``, no limit, no number and no file."""
    try:
        value = int(text or "")
    except ValueError:
        return None
    return value if value < UNLIMITED else None


def text_of(path: Path) -> str | None:
    """Return a small file's text without blanks at its ends, None if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
