# SPDX-License-Identifier: Apache-2.0
"""The processes of a run: what they use, and the end of those that outlive the kernel.

A killed kernel leaves its children behind, and a child in a session of its own survives even
a normal end; each of them may hold a GPU. So every descendant is remembered while it can still
be distinguished from others, by its pid together with its start time, because pids are used again.
Nothing outside the run is ever signalled, and only known pids are reaped: ``waitpid(-1)``
would take the kernel's exit status away from those who wait for it.
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
"""Environment variable of the kernel by which its descendants are known, whoever adopted them."""

RUN_NAME = "runner run"
"""Name of a process that runs a notebook, which `ps -e` and `top` show; those it starts have others."""

TERM_SECONDS, KILL_SECONDS = 3.0, 2.0
"""How long processes that outlive a kernel have after SIGTERM, and to end after SIGKILL."""
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_ENVIRON_BYTES = 4 << 20
_TAG = re.compile(r"[0-9a-f]{32}")


class Use(NamedTuple):
    """What all processes of a run use at this moment, and have used so far."""

    rss_bytes: int
    cpu_seconds: float
    processes: int
    disk: procfs.Disk | None
    """None where /proc does not count it."""


def become_subreaper() -> bool:
    """Make orphans of our descendants our own children, so that they stay within reach.

    Returns
    -------
    False where the system refuses; the run tag then finds them still.
    """
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def adopt_orphans() -> bool:
    """Become a subreaper, and tell whether whoever is orphaned to us from now on comes from a kernel of ours.

    Not so as the first process of a container, to which the orphans of all others go (those of a
    `docker exec` too), and not with children that were here before us (`server & exec runner ...`),
    which may leave orphans of their own.
    """
    first = os.getpid() == 1 or procfs.has_children(os.getpid())
    return become_subreaper() and not first


def end_with_parent() -> None:
    """Have the system send us SIGTERM when the thread that forked us ends; call it between fork and exec."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def name_run() -> None:
    """Give this process the name of a run; call it in the main thread."""
    _PRCTL(_PR_SET_NAME, RUN_NAME.encode(), 0, 0, 0)


_PRCTL = ctypes.CDLL(None, use_errno=True).prctl
"""Looked up before any fork: in a child, another thread of its parent may hold the loader's lock for ever."""


def _prctl(option: int, value: int) -> bool:
    return _PRCTL(option, value, 0, 0, 0) == 0  # type: ignore[no-any-return]


class Family:
    """All processes that come from one kernel, also those that left its tree.

    A process belongs if its parent does, if it is in a session that a member opened, if its
    environment carries the run's tag, or if it was orphaned to us; it is judged once, when it is
    first seen. Never members: this process, its parents, the leaders of its group and session,
    whatever is older than the run.

    Parameters
    ----------
    tag
        Value of `RUN_TAG` in the kernel's environment; one run has it and no other.
    adopts
        Orphans that come to us are the kernel's descendants, see `adopt_orphans`. They are distinguished from
        processes that we start ourselves by their session: the kernel is started in one of its own,
        nothing else is, and nobody can join ours.
    orphaned
        The run is another one that has died: whoever carries its tag belongs, however old; there is no
        kernel to wait for.
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
        """By member, as it was last seen."""
        self._ended_disk = procfs.Disk(0, 0)
        self._whole_disk: procfs.Disk | None = None

    def watch(self, pid: int) -> None:
        """Follow the kernel with this pid, from its start on."""
        with self._lock:
            self._kernels.add(pid)
            self._strangers.discard(pid)
            stat = procfs.read_stat(pid)
            if stat is not None:
                self._oldest = min(self._oldest, stat.started)
                self._add(stat)

    def observe(self, *, disk: bool = True) -> Use | None:
        """Remember who is there now and return what they use; None before `watch`.

        Cheap enough for each tick: one listing of /proc, and one read for each member and for
        each process that was not there before; ``disk`` reads one file more for each member.
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
        """Return the pids of the members that were alive at the last `observe`, the kernel among them."""
        with self._lock:
            return frozenset(pid for pid, stat in self._members.items() if not stat.dead)

    def others(self) -> tuple[int, ...]:
        """Return the pids of the members at the last `observe`, without the kernels."""
        with self._lock:
            return tuple(pid for pid, stat in self._members.items() if not stat.dead and pid not in self._kernels)

    def survivors(self) -> tuple[Identity, ...]:
        """Return the members that are alive, the kernel among them if it is."""
        with self._lock:
            self._strangers.clear()  # judge all again: a pid may have been used again between two looks
            return self._living()

    def sweep(self, term_seconds: float, kill_seconds: float) -> tuple[machine_records.Process, ...]:
        """End all members: ask with SIGTERM, wait, then SIGKILL those left and wait again.

        Call it when the kernel should have ended. It takes at most the two times together.

        Returns
        -------
        Whoever was still there, and how each of them ended.
        """
        found: dict[Identity, machine_records.Process] = {}
        alive = self.survivors()
        ended_by: dict[Identity, signal.Signals] = {}
        for number, seconds in ((signal.SIGTERM, term_seconds), (signal.SIGKILL, kill_seconds)):
            deadline = time.monotonic() + seconds
            asked: set[Identity] = set()
            while alive:
                for identity in alive:
                    if identity not in found:
                        found[identity] = self._describe(identity)
                    if identity not in asked and _send(identity, number):
                        ended_by[identity] = number
                    asked.add(identity)
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.02)
                alive = self._living()
        left = self.survivors()
        for identity in left:  # forked faster than we could look
            found.setdefault(identity, self._describe(identity))
        return tuple(_outcome(process, ended_by.get(key), key in left) for key, process in found.items())

    def kill(self) -> int:
        """Kill all members now, without a wait, and return how many there were.

        What they forked meanwhile is seen by the next call.
        """
        return sum(_send(identity, signal.SIGKILL) for identity in self.survivors())

    def _living(self) -> tuple[Identity, ...]:
        with self._lock:
            self.observe()
            return tuple(stat.identity for stat in self._members.values() if not stat.dead)

    def _update_members(self) -> None:
        """Read the members again; reap those that became our children, and forget the ended."""
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
            if old.parent not in self._members:  # else that parent's waited time has it, and its bytes
                self._ended_ticks += old.own_ticks + old.waited_ticks
                self._ended_disk = procfs.Disk(*map(sum, zip(self._ended_disk, disk, strict=True)))

    def _judge(self, pids: set[int], present: set[int]) -> None:
        """Make each of these a member or a stranger; a parent may come after its child.

        Whose parent ended between our looks is about to have another one, and is judged by that.
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
        if stat.parent in self._members or self._in_our_session(stat) or self._was_adopted(stat):
            return True
        environment = b"\0" + procfs.content_of(f"/proc/{stat.pid}/environ", _ENVIRON_BYTES)
        return self._needle in environment

    def _was_adopted(self, stat: procfs.Stat) -> bool:
        return self._adopts and stat.parent == os.getpid() and stat.session != self._session

    def _in_our_session(self, stat: procfs.Stat) -> bool:
        """Return True if a member opened the process's session, and not a later process of that pid."""
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
    """End what a run that has died left behind, and return who that was.

    Parameters
    ----------
    tag
        The value of `RUN_TAG` that its processes carry; one that no run of ours gives is nobody's.
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
    """Send a signal to exactly this process; False if it is gone or not ours to signal.

    The pid is held (pidfd) before its start time is compared, so that it cannot be used again
    in between. Old kernels, containers that forbid it and Python builds without it check only.
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
    except OSError:  # gone, or it runs as somebody else
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def _protected() -> set[int]:
    """Return who must never be signalled: we, our parents, the leaders of our group and session."""
    parents = (stat.pid for stat in procfs.ancestors(os.getpid()))
    return {0, 1, os.getpid(), os.getpgrp(), os.getsid(0), *parents}
