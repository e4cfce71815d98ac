# SPDX-License-Identifier: Apache-2.0
"""Effective limits of the host or the container: CPUs, memory, shared memory, disk.

In a container the machine's own numbers are wrong: the effective limit is the smallest one in the
ancestry of our control group (cgroup), version 1 or 2. Every function takes the root of the file system,
so that tests can simulate ``/sys`` and ``/proc``.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runner.machine import cgroups

ROOT = Path("/")
Place = Literal["machine", "container", "cluster"]
"""Where we run, which determines how a limit can be changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """Limits of this process.

    ``memory_source`` is the cgroup with the smallest limit, as ``cgroup-v2:/path`` or ``cgroup-v1:/path``,
    or ``host`` if none is below the machine's memory. Used memory excludes inactive file cache, which the
    kernel reclaims on demand.
    """

    cpus: float
    memory_bytes: int | None
    memory_source: str
    memory_used_bytes: int | None
    hostname: str


def place(environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> Place:
    """Return where we run: in a Pod, in another container, or on the machine itself."""
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "cluster"
    marks = (root / ".dockerenv", root / "run" / ".containerenv")
    return "container" if "container" in environ or any(mark.exists() for mark in marks) else "machine"


def read_limits(root: Path = ROOT) -> HostLimits:
    """Return the limits of this process."""
    limit, level, ancestry = _memory_limit(root, "self")
    if level is None:
        info = meminfo(root)
        available = info.get("MemAvailable")
        used = info["MemTotal"] - available if available is not None and "MemTotal" in info else None
        source = "host"
    else:
        current = level.number("memory.current" if ancestry.version == 2 else "memory.usage_in_bytes")
        stat = level.fields("memory.stat")
        cache = stat.get("inactive_file" if ancestry.version == 2 else "total_inactive_file", 0)
        used = None if current is None else max(0, current - cache)
        source = f"cgroup-v{ancestry.version}:{level.path}"
    return HostLimits(
        cpus=_cpus(root),
        memory_bytes=limit,
        memory_source=source,
        memory_used_bytes=used,
        hostname=platform.node(),
    )


def shm_free_bytes(root: Path = ROOT) -> int | None:
    """Return the free bytes of /dev/shm, None if missing."""
    return _free_bytes(root / "dev/shm")


def disk_free_bytes(path: Path) -> int | None:
    """Return the free bytes for files below ``path``, which need not exist yet."""
    for folder in (path, *path.absolute().parents):
        if folder.exists():
            return _free_bytes(folder)
    return None


@dataclass(slots=True)
class Container:
    """The memory of a process's cgroup, read frequently and cheaply.

    Usage is read from the cgroup with the smallest limit, possibly an ancestor shared with other
    containers; kills are read from the process's own. Without a limit both are its own.

    Parameters
    ----------
    root
        Root of the file system.
    process
        Pid of a process in the container.
    """

    root: Path = ROOT
    process: str = "self"
    limit_bytes: int | None = field(init=False)
    """The smallest limit, None if no cgroup has one below the machine's memory."""
    swap_bytes: int = field(init=False, default=0)
    """Swap allowance in addition to the limit."""
    source: str = field(init=False, default="host")
    unavailable: dict[str, str] = field(init=False, default_factory=dict)
    """Why a value of this container is None, by the name of its method."""
    _version: int = field(init=False)
    _levels: tuple[cgroups.Level, ...] = field(init=False)
    _stat: int | None = field(init=False, default=None)
    _current: int | None = field(init=False, default=None)
    _swap: Path | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        limit, level, ancestry = _memory_limit(self.root, self.process)
        self._version, self._levels = ancestry.version, ancestry.levels
        self.limit_bytes = None if level is None else limit
        if level is None:
            self.unavailable["limit_bytes"] = "no cgroup limits memory below the machine's"
            level = ancestry.levels[0] if ancestry.levels else None
        if level is None:
            self.unavailable["unreclaimable_bytes"] = "no memory cgroup is visible"
            return
        self.source = f"cgroup-v{self._version}:{level.path}"
        self._stat = _open(level.directory / "memory.stat")
        self._current = _open(level.directory / self._name("memory.current", "memory.usage_in_bytes"))
        if self._stat is None:
            self.unavailable["unreclaimable_bytes"] = f"{self.source} has no memory.stat"
        self.swap_bytes = self._swap_allowance(level)
        if self.swap_bytes and self._version == 2:
            self._swap = level.directory / "memory.swap.current"

    def close(self) -> None:
        """Close the files; all values are None afterwards."""
        for handle in (self._stat, self._current):
            if handle is not None:
                os.close(handle)
        self._stat = self._current = None

    def used_bytes(self) -> int | None:
        """Return the total charged memory, file cache included: a single read."""
        return None if self._current is None else cgroups.number_in(_reread(self._current).decode())

    def unreclaimable_bytes(self) -> int | None:
        """Return the memory that the kernel cannot reclaim under pressure.

        Anonymous, shared and kernel memory without its caches. Version 1 does not report which kernel
        memory is cache, so it is excluded there: a miss costs one process, killed by the OOM killer, while
        a false alarm costs a run. If swap is allowed, swapped pages count, and the limit includes the swap
        allowance.
        """
        if self._stat is None:
            return None
        stat = cgroups.parse_fields(_reread(self._stat))
        if self._version == 1:
            if "total_rss" not in stat:
                return None
            swapped = stat.get("total_swap", 0) if self.swap_bytes else 0
            return stat["total_rss"] + stat.get("total_shmem", 0) + swapped
        if "anon" not in stat:
            return None
        if "kernel" in stat:
            kernel = stat["kernel"] - stat.get("slab_reclaimable", 0)
        else:  # Linux before 5.18
            kernel = sum(stat.get(key, 0) for key in ("kernel_stack", "pagetables", "percpu", "slab_unreclaimable"))
        swapped = (cgroups.number_in(cgroups.text_of(self._swap)) or 0) if self._swap else 0
        return stat["anon"] + stat.get("shmem", 0) + max(0, kernel) + stat.get("sock", 0) + swapped

    def oom_kills(self) -> int | None:
        """Return the number of OOM kills in this container so far.

        `memory.events` includes the cgroups below ours, which may contain a kernel; `memory.events.local`
        is the fallback.
        """
        names = ("memory.events", "memory.events.local") if self._version == 2 else ("memory.oom_control",)
        for name in names if self._levels else ():
            kills = self._levels[0].fields(name).get("oom_kill")
            if kills is not None:
                return kills
        self.unavailable["oom_kills"] = f"{self.source} has no count of OOM kills"
        return None

    def peak_bytes(self) -> int | None:
        """Return the container's peak memory since its own start (not the run's), file cache included."""
        name = self._name("memory.peak", "memory.max_usage_in_bytes")
        peak = self._levels[0].number(name) if self._levels else None
        if peak is None:
            self.unavailable["peak_bytes"] = f"{self.source} has no {name} (needs Linux 5.19 or newer)"
        return peak

    def whole_container_oom(self) -> bool | None:
        """Return True if an OOM kill ends every process of the container, including us."""
        if self._version != 2:
            return False if self._levels else None
        values = [level.number("memory.oom.group") for level in self._levels]
        known = [value for value in values if value is not None]
        return any(known) if known else None

    def _name(self, second: str, first: str) -> str:
        return second if self._version == 2 else first

    def _swap_allowance(self, level: cgroups.Level) -> int:
        """Return the swap allowance: the cgroup's, limited by the machine's free swap."""
        free = meminfo(self.root).get("SwapFree", 0)
        if not free or self.limit_bytes is None:
            return 0
        if self._version == 2:
            allowed = level.number("memory.swap.max")
            unknown = not (level.directory / "memory.swap.max").exists()
        else:
            both = level.number("memory.memsw.limit_in_bytes")
            allowed = None if both is None else max(0, both - self.limit_bytes)
            unknown = not (level.directory / "memory.memsw.limit_in_bytes").exists()
        if unknown:  # without swap accounting swapped memory is invisible, so do not rely on it
            return 0
        return free if allowed is None else min(free, allowed)


def _memory_limit(root: Path, process: str) -> tuple[int | None, cgroups.Level | None, cgroups.Ancestry]:
    """Return the smallest limit, its cgroup (None for the machine itself), and the ancestry."""
    total = meminfo(root).get("MemTotal")
    ancestry = cgroups.find(root, process, "memory")
    name = "memory.max" if ancestry.version == 2 else "memory.limit_in_bytes"
    limit, where = total, None
    for level in ancestry.levels:
        here = level.number(name)
        # Of two equal limits the outer one is reached first, since it includes the inner usage.
        if here is not None and (limit is None or here < limit or (where is not None and here == limit)):
            limit, where = here, level
    if ancestry.version == 1 and ancestry.levels:
        # Version 1 also reports limits above the visible part of the tree.
        top = ancestry.levels[-1]
        above = top.fields("memory.stat").get("hierarchical_memory_limit", cgroups.UNLIMITED)
        if above < (limit if limit is not None else cgroups.UNLIMITED):
            limit, where = above, top
    return limit, where, ancestry


def _cpus(root: Path) -> float:
    """Return the smallest CPU quota of the ancestry, limited by our CPU affinity."""
    cpus = float(len(os.sched_getaffinity(0)))
    ancestry = cgroups.find(root, "self", "cpu")
    for level in ancestry.levels:
        if ancestry.version == 2:
            quota, _, period = (cgroups.text_of(level.directory / "cpu.max") or "").partition(" ")
        else:
            quota = cgroups.text_of(level.directory / "cpu.cfs_quota_us") or ""
            period = cgroups.text_of(level.directory / "cpu.cfs_period_us") or ""
        part, whole = cgroups.number_in(quota), cgroups.number_in(period)
        if part is not None and whole and part > 0:  # version 1 writes -1 for no quota
            cpus = min(cpus, part / whole)
    return cpus


def meminfo(root: Path = ROOT) -> dict[str, int]:
    """Return /proc/meminfo in bytes."""
    lines = [line.split() for line in (cgroups.text_of(root / "proc/meminfo") or "").splitlines()]
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) >= 2 and words[1].isdigit()}


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _reread(handle: int) -> bytes:
    """Return the current content of an open cgroup file, empty if the cgroup is gone."""
    try:
        return os.pread(handle, 16384, 0)
    except OSError:
        return b""


def _free_bytes(path: Path) -> int | None:
    try:
        figures = os.statvfs(path)
    except OSError:
        return None
    return figures.f_bavail * figures.f_frsize
