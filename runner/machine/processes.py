# SPDX-License-Identifier: Apache-2.0
"""The processes of a run: resource usage, and termination of those that outlive the kernel.

A killed kernel leaves its children behind, and a child in its own session survives even a normal exit;
each may hold a GPU. So all descendants are recorded while they can still be identified, by pid and start
time, because pids are reused. Nothing outside the run is ever signalled, and only known pids are reaped:
``waitpid(-1)`` would steal the kernel's exit status from its waiter.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import re
import signal
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from runner.core import machine_records, procfs

if TYPE_CHECKING:
    from runner.core.procfs import Identity

RUN_TAG = "RUNNER_RUN_TAG"
"""Environment variable of the kernel that identifies its descendants, even after reparenting."""

RUN_NAME = "runner run"
"""Name of a process that runs a notebook, as shown by `ps -e` and `top`; its children have others."""

TERM_SECONDS, KILL_SECONDS = 3.0, 2.0
"""Grace periods after SIGTERM and after SIGKILL for processes that outlive a kernel."""
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_ENVIRON_BYTES = 4 << 20
_TAG = re.compile(r"[0-9a-f]{32}")


class Use(NamedTuple):
    """Resource usage of all processes of a run, current and cumulative."""

    rss_bytes: int
    cpu_seconds: float
    processes: int
    disk: procfs.Disk | None
    """None if /proc does not report it."""


def become_subreaper() -> bool:
    """Become the parent of orphaned descendants, so that they can still be found.

    Returns
    -------
    False if the system refuses; the run tag still finds them.
    """
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def adopt_orphans() -> bool:
    """Become a subreaper, and return True if all processes orphaned to us from now on descend from our kernels.

    False for the first process of a container, which adopts all orphans there (also from `docker exec`),
    and for a process with earlier children (`server & exec runner ...`), which may leave orphans too.
    """
    first = os.getpid() == 1 or procfs.has_children(os.getpid())
    return become_subreaper() and not first


def end_with_parent() -> None:
    """Request SIGTERM when the thread that forked us ends; call between fork and exec."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def name_run() -> None:
    """Set this process's name to that of a run; call in the main thread."""
    _PRCTL(_PR_SET_NAME, RUN_NAME.encode(), 0, 0, 0)


_PRCTL = ctypes.CDLL(None, use_errno=True).prctl
"""Looked up before any fork: in a child, the loader's lock may be held forever by a thread of the parent."""


def _prctl(option: int, value: int) -> bool:
    return _PRCTL(option, value, 0, 0, 0) == 0  # type: ignore[no-any-return]


class Family:
    """All descendants of one kernel, including those that left its process tree.

    A process is a member if its parent is, if it is in a session opened by a member, if its environment
    contains the run's tag, or if it was orphaned to us. This is decided once, when it is first seen. Never
    members: this process, its ancestors, the leaders of its group and session, and processes older than the
    run.

    Parameters
    ----------
    tag
        Value of `RUN_TAG` in the kernel's environment, unique to the run.
    adopts
        Processes orphaned to us are the kernel's descendants, see `adopt_orphans`. They are distinguished from
        our own children by their session: only the kernel is started in a new one, and no process can join
        ours.
    orphaned
        The run is another one that died: all processes with its tag are members, of any age, and there is no
        kernel.
    """

    def __init__(self, tag: str, *, adopts: bool = False, orphaned: bool = False) -> None:
        self._needle = f"\0{RUN_TAG}={tag}\0".encode()
        self._lock = threading.RLock()
        self._orphaned = orphaned
        self._oldest = 0 if orphaned else int(time.clock_gettime(time.CLOCK_BOOTTIME) * procfs.TICKS_PER_SECOND)
        self._protected = _protected()
        self._adopts = adopts
        self._session = os.getsid(0)
        self._kernels: set[int] = set()
        self._members: dict[int, procfs.Stat] = {}
        self._sessions: dict[int, int] = {}
        self._strangers: set[int] = set()
        self._ended_ticks = 0
        self._cpu_ticks = 0
        self._disk: dict[int, procfs.Disk] = {}
        """Last known value by member."""
        self._ended_disk = procfs.Disk(0, 0)
        self._whole_disk: procfs.Disk | None = None

    def watch(self, pid: int) -> None:
        """Follow the kernel with this pid."""
        with self._lock:
            self._kernels.add(pid)
            self._strangers.discard(pid)
            stat = procfs.read_stat(pid)
            if stat is not None:
                self._oldest = min(self._oldest, stat.started)
                self._add(stat)

    def observe(self, *, disk: bool = True) -> Use | None:
        """Update the members and return their usage, None before `watch`.

        Cheap enough for each tick: one listing of /proc, and one read per member and per new process;
        ``disk`` reads one more file per member.
        """
        with self._lock:
            if not self._kernels and not self._orphaned:
                return None
            present = procfs.pids()
            self._update_members()
            self._strangers &= present
            self._judge(present - self._strangers - self._members.keys(), present)
            inhabited = {stat.session for stat in self._members.values()}
            self._sessions = {key: value for key, value in self._sessions.items() if key in inhabited}
            alive = [stat for stat in self._members.values() if not stat.dead]
            ticks = sum(stat.own_ticks + stat.waited_ticks for stat in self._members.values())
            self._cpu_ticks = max(self._cpu_ticks, ticks + self._ended_ticks)
            if disk:
                self._disk |= {stat.pid: found for stat in alive if (found := procfs.read_disk(stat.pid))}
            if self._disk:
                whole = procfs.Disk(*map(sum, zip(self._ended_disk, *self._disk.values(), strict=True)))
                self._whole_disk = procfs.Disk(*map(max, self._whole_disk or whole, whole))
            return Use(
                sum(stat.rss_pages for stat in alive) * procfs.PAGE_BYTES,
                self._cpu_ticks / procfs.TICKS_PER_SECOND,
                len(alive),
                self._whole_disk,
            )

    def members(self) -> frozenset[int]:
        """Return the pids of members alive at the last `observe`, including the kernel."""
        with self._lock:
            return frozenset(pid for pid, stat in self._members.items() if not stat.dead)

    def others(self) -> tuple[int, ...]:
        """Return the pids of members alive at the last `observe`, without the kernels."""
        with self._lock:
            return tuple(pid for pid, stat in self._members.items() if not stat.dead and pid not in self._kernels)

    def survivors(self) -> tuple[Identity, ...]:
        """Return all live members, including the kernel."""
        with self._lock:
            self._strangers.clear()  # check all again: a pid may have been reused since
            return self._living()

    def sweep(self, term_seconds: float, kill_seconds: float) -> tuple[machine_records.Process, ...]:
        """Terminate all members: send SIGTERM, wait, then SIGKILL and wait again.

        Call when the kernel should have ended. Takes at most the sum of the two times.

        Returns
        -------
        The processes that were still alive, and how each ended.
        """
        found: dict[Identity, machine_records.Process] = {}
        alive = self.survivors()
        ended_by: dict[Identity, signal.Signals] = {}
        for number, seconds in ((signal.SIGTERM, term_seconds), (signal.SIGKILL, kill_seconds)):
            deadline = time.monotonic() + seconds
            signalled: set[Identity] = set()
            while alive:
                for identity in alive:
                    if identity not in found:
                        found[identity] = self._describe(identity)
                    if identity not in signalled and _send(identity, number):
                        ended_by[identity] = number
                    signalled.add(identity)
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.02)
                alive = self._living()
        left = self.survivors()
        for identity in left:  # forked faster than we could poll
            found.setdefault(identity, self._describe(identity))
        return tuple(_outcome(process, ended_by.get(key), key in left) for key, process in found.items())

    def kill(self) -> int:
        """Kill all members without waiting, and return their number.

        Children forked meanwhile are found by the next call.
        """
        return sum(_send(identity, signal.SIGKILL) for identity in self.survivors())

    def _living(self) -> tuple[Identity, ...]:
        with self._lock:
            self.observe()
            return tuple(stat.identity for stat in self._members.values() if not stat.dead)

    def _update_members(self) -> None:
        """Refresh the members; reap those that became our children, and drop ended ones."""
        before = self._members
        self._members = {}
        gone = []
        for pid, old in before.items():
            stat = procfs.read_stat(pid)
            if stat is None or stat.started != old.started:
                gone.append(old)
                continue
            self._members[pid] = stat
            if stat.dead and stat.parent == os.getpid() and pid not in self._kernels:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        for old in gone:
            disk = self._disk.pop(old.pid, (0, 0))
            if old.parent not in self._members:  # else they are included in its parent's
                self._ended_ticks += old.own_ticks + old.waited_ticks
                self._ended_disk = procfs.Disk(*map(sum, zip(self._ended_disk, disk, strict=True)))

    def _judge(self, pids: set[int], present: set[int]) -> None:
        """Classify processes as members or strangers; a parent may be listed after its child.

        A process whose parent has just ended is about to be reparented, and is classified afterwards.
        """
        open_cases = [stat for stat in map(procfs.read_stat, pids) if stat]
        joined = True
        while joined:
            joined = False
            for stat in tuple(open_cases):
                if self._belongs(stat):
                    self._add(stat)
                    open_cases.remove(stat)
                    joined = True
        self._strangers.update(stat.pid for stat in open_cases if stat.parent == 0 or stat.parent in present)

    def _belongs(self, stat: procfs.Stat) -> bool:
        if stat.started < self._oldest or stat.pid in self._protected:
            return False
        adopted = self._adopts and stat.parent == os.getpid() and stat.session != self._session
        if adopted or stat.parent in self._members or self._in_our_session(stat):
            return True
        environment = b"\0" + procfs.content_of(f"/proc/{stat.pid}/environ", _ENVIRON_BYTES)
        return self._needle in environment

    def _in_our_session(self, stat: procfs.Stat) -> bool:
        """Return True if a member, and not a later process with its pid, opened the process's session."""
        opened = self._sessions.get(stat.session)
        if opened is None or stat.session == stat.pid:
            return False
        leader = procfs.read_stat(stat.session)
        return leader is None or leader.started == opened

    def _add(self, stat: procfs.Stat) -> None:
        self._members[stat.pid] = stat
        if stat.session == stat.pid:
            self._sessions[stat.session] = stat.started

    def _describe(self, identity: Identity) -> machine_records.Process:
        stat = self._members.get(identity.pid)
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        started = datetime.fromtimestamp(boot + identity.started / procfs.TICKS_PER_SECOND, UTC)
        text = started.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return machine_records.Process(pid=identity.pid, name=stat.name if stat else "?", started_at=text)


def end_orphans(tag: str) -> tuple[machine_records.Process, ...]:
    """Terminate the processes left behind by a dead run, and return them.

    Parameters
    ----------
    tag
        Their value of `RUN_TAG`; ignored if it does not have our format.
    """
    if not _TAG.fullmatch(str(tag)):  # from a file that a notebook may have written
        return ()
    return Family(tag, orphaned=True).sweep(TERM_SECONDS, KILL_SECONDS)


def _outcome(process: machine_records.Process, number: signal.Signals | None, left: bool) -> machine_records.Process:
    if left:
        return dataclasses.replace(process, ended_by="survived")
    if number is None:
        return dataclasses.replace(process, ended_by="itself")
    return dataclasses.replace(process, ended_by="SIGTERM" if number == signal.SIGTERM else "SIGKILL")


def _send(identity: Identity, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False if it is gone or permission is denied.

    The pid is pinned (pidfd) before its start time is compared, so that it cannot be reused in between.
    Without pidfd, on old kernels, in some containers and Python builds, the start time is only compared.
    """
    handle = None
    try:
        if hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):
            with contextlib.suppress(PermissionError, OSError):
                handle = os.pidfd_open(identity.pid)
        stat = procfs.read_stat(identity.pid)
        if stat is None or stat.identity != identity or stat.dead:
            return False
        if handle is not None:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(identity.pid, number)
    except OSError:  # gone, or it belongs to another user
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def _protected() -> set[int]:
    """Return pids that must never be signalled: ours, our ancestors', the leaders of our group and session."""
    parents = (stat.pid for stat in procfs.ancestors(os.getpid()))
    return {0, 1, os.getpid(), os.getpgrp(), os.getsid(0), *parents}
