# SPDX-License-Identifier: Apache-2.0
"""Every descendant of a kernel is known and ended, and nobody else is touched."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
from support.cli import PATIENCE

from runner.core import procfs
from runner.core.procfs import Identity
from runner.machine.processes import (
    RUN_TAG,
    Family,
    _send,
    become_subreaper,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

# A kernel that starts children in every way that is known to outlive it, then says their pids.
KERNEL = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
stubborn = [sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"]
def daemon(environment):
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, f"{os.getpid()} ".encode())
            os.execve(sys.executable, sleep, environment)
        os._exit(0)
    os.wait()
    return int(os.read(read, 100))
pids = {}
for name in sys.argv[1:]:
    if name == "child":
        pids[name] = subprocess.Popen(sleep).pid
    elif name == "session":
        pids[name] = subprocess.Popen(sleep, start_new_session=True).pid
    elif name == "stubborn":
        child = subprocess.Popen(stubborn, stdout=subprocess.PIPE)
        child.stdout.readline()
        pids[name] = child.pid
    elif name == "daemon":
        pids[name] = daemon(dict(os.environ))
    elif name == "orphan":
        pids[name] = daemon({})
    elif name == "untagged":
        pids[name] = subprocess.Popen(sleep, env={"PATH": os.environ["PATH"]}).pid
    elif name == "apart":
        pids[name] = subprocess.Popen(sleep, env={"PATH": os.environ["PATH"]}, start_new_session=True).pid
print(pids, flush=True)
if "exit" in sys.argv:
    sys.exit(3)
time.sleep(600)
"""


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    stat = procfs.read_stat(pid)
    return stat is not None and not stat.dead


@pytest.fixture
def started():
    """Start processes with `started(...)`; whatever is left of them at the end is killed."""
    processes = []
    identities = []

    def start(command, tag=None, **options):
        environment = dict(os.environ) | ({RUN_TAG: tag} if tag else {})
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)
        processes.append(process)
        return process

    start.identities = identities
    yield start
    for identity in identities:
        _send(identity, signal.SIGKILL)
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def subreaper():
    """Adopt orphans for the time of a test."""
    assert become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


def start_kernel(started, *children: str, adopts=False) -> tuple[subprocess.Popen, dict[str, int], Family]:
    tag = f"run-{os.urandom(8).hex()}"
    family = Family(tag, adopts=adopts)
    kernel = started([sys.executable, "-c", KERNEL, *children], tag, start_new_session=True)
    family.watch(kernel.pid)
    pids = eval(kernel.stdout.readline())  # our own text
    started.identities += [procfs.read_stat(pid).identity for pid in pids.values() if procfs.read_stat(pid)]
    return kernel, pids, family


@pytest.mark.parametrize("adopted", [True, False])
def test_all_that_a_killed_kernel_leaves_is_swept_and_listed(started, request, adopted):
    """A child, one in a session of its own and a double-forked daemon end, and the list names them."""
    if adopted:
        request.getfixturevalue("subreaper")
    kernel, pids, family = start_kernel(started, "child", "session", "daemon", "stubborn")
    kernel.kill()
    swept = {process.pid: process for process in family.sweep(2, 10)}
    assert {pid: swept[pid].ended_by for pid in pids.values()} == {
        pids["child"]: "SIGTERM",
        pids["session"]: "SIGTERM",
        pids["daemon"]: "SIGTERM",
        pids["stubborn"]: "SIGKILL",
    }
    assert not any(alive(pid) for pid in pids.values())
    assert swept[pids["child"]].name.startswith("python")
    assert swept[pids["child"]].started_at.endswith("Z")
    assert kernel.wait(timeout=PATIENCE) == -signal.SIGKILL


@pytest.mark.parametrize("subreaper_too", [True, False])
def test_the_exit_status_of_the_kernel_is_never_taken(started, request, subreaper_too):
    """After a sweep those who wait for the kernel still get its true exit status."""
    if subreaper_too:
        request.getfixturevalue("subreaper")
    kernel, pids, family = start_kernel(started, "child", "daemon", "exit")
    wait_for(lambda: not alive(kernel.pid))
    family.sweep(10, 10)
    assert not any(alive(pid) for pid in pids.values())
    assert kernel.wait(timeout=PATIENCE) == 3


def test_adopted_children_leave_no_zombies(started, subreaper):
    """Orphans that became our children are reaped, by their pids."""
    kernel, pids, family = start_kernel(started, "child", "daemon")
    kernel.kill()
    family.sweep(10, 10)
    assert [procfs.read_stat(pid) for pid in pids.values()] == [None, None]


def test_a_kernel_that_is_alive_still_is_ended_as_well(started):
    """The sweep leaves no kernel either."""
    kernel, _, family = start_kernel(started)
    assert [process.pid for process in family.sweep(10, 10)] == [kernel.pid]
    assert kernel.wait(timeout=PATIENCE) == -signal.SIGTERM


def test_a_descendant_without_the_tag_is_known_from_having_been_seen(started):
    """A child with a cleared environment and a session of its own, observed once, is ended later."""
    kernel, pids, family = start_kernel(started, "apart")
    family.observe()
    kernel.kill()
    wait_for(lambda: not alive(kernel.pid))
    assert pids["apart"] in {process.pid for process in family.sweep(10, 10)}
    assert not alive(pids["apart"])


def test_a_descendant_that_was_never_seen_is_known_by_its_session(started):
    """Even unseen and untagged, whoever is in the kernel's session belongs to it."""
    kernel, pids, family = start_kernel(started, "untagged")
    kernel.kill()
    wait_for(lambda: not alive(kernel.pid))
    assert pids["untagged"] in {process.pid for process in family.sweep(10, 10)}


def test_an_orphan_of_which_nothing_is_known_is_known_by_being_adopted(started, subreaper):
    """No tag, a session of its own, never seen beside its parent: it came to us, so it was the kernel's."""
    kernel, pids, family = start_kernel(started, "orphan", adopts=True)
    own = started(SLEEP)
    wait_for(lambda: procfs.read_stat(pids["orphan"]).parent == os.getpid())
    kernel.kill()
    assert pids["orphan"] in {process.pid for process in family.sweep(10, 10)}
    assert not alive(pids["orphan"])
    assert own.poll() is None


ADOPTS = """
import os, subprocess, sys
from runner.machine.processes import adopt_orphans
if "child" in sys.argv:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
print(adopt_orphans())
"""


@pytest.mark.parametrize(("arguments", "adopts"), [([], True), (["child"], False)])
def test_orphans_are_ours_only_where_nobody_else_leaves_any(arguments, adopts):
    """A child that was there before the run may have descendants of its own."""
    done = subprocess.run([sys.executable, "-c", ADOPTS, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(adopts)


def test_a_child_of_any_thread_is_a_child(started):
    """A kernel starts its children where it runs its cells, which need not be the main thread."""
    script = (
        "import subprocess, sys, threading, time\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "def work():\n"
        "    print(subprocess.Popen(sleep).pid, flush=True)\n"
        "    time.sleep(600)\n"
        "threading.Thread(target=work).start()"
    )
    assert not procfs.has_children(started(SLEEP).pid)
    kernel = started([sys.executable, "-c", script])
    child = int(kernel.stdout.readline())
    started.identities.append(procfs.read_stat(child).identity)
    assert procfs.has_children(kernel.pid)


def test_all_of_a_run_can_be_killed_at_once(started):
    """The kernel, a child in a session of its own, and one that is deaf to SIGTERM; nobody else."""
    kernel, pids, family = start_kernel(started, "session", "stubborn")
    own = started(SLEEP)
    assert family.kill() == 3
    wait_for(lambda: not any(map(alive, [kernel.pid, *pids.values()])))
    assert own.poll() is None
    assert kernel.wait(timeout=PATIENCE) == -signal.SIGKILL


def test_nobody_else_is_touched(started):
    """Children of ours, those of another run and those older than the run live on."""
    old = started(SLEEP, "same-tag", start_new_session=True)
    old_started = procfs.read_stat(old.pid).started
    wait_for(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * procfs.TICKS_PER_SECOND > old_started + 1)
    family = Family("same-tag")
    bystanders = [old, started(SLEEP), started(SLEEP, "another-tag", start_new_session=True)]
    kernel = started(SLEEP, "same-tag", start_new_session=True)
    family.watch(kernel.pid)
    assert {process.pid for process in family.sweep(10, 10)} == {kernel.pid}
    assert [process.poll() for process in bystanders] == [None] * 3


def test_we_and_our_parents_are_never_members(started):
    """Not even the tag in our own environment makes us our own victim."""
    family = Family("x")
    family._oldest = 0
    family._needle = b"\0"  # what every environment holds
    kernel = started(SLEEP)
    family.watch(kernel.pid)
    members = {identity.pid for identity in family.survivors()}
    assert kernel.pid in members
    assert members.isdisjoint({0, 1, os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0)})


def test_a_pid_that_was_used_again_is_never_touched(started):
    """A member's pid that now belongs to a process with another start time is left alone."""
    kernel, _, family = start_kernel(started)
    bystander, pids, _ = start_kernel(started, "child")
    stat = procfs.read_stat(bystander.pid)
    family._members[bystander.pid] = dataclasses.replace(stat, started=stat.started - 7)
    family._sessions[bystander.pid] = stat.started - 7
    assert {process.pid for process in family.sweep(10, 10)} == {kernel.pid}
    assert bystander.poll() is None
    assert alive(pids["child"])


@pytest.mark.parametrize("pidfd", [True, False])
def test_a_signal_reaches_one_process_and_no_other(started, monkeypatch, pidfd):
    """The start time is compared before a signal is sent, with and without pidfd."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    process = started(SLEEP)
    identity = procfs.read_stat(process.pid).identity
    assert not _send(Identity(identity.pid, identity.started + 1), signal.SIGKILL)
    assert process.poll() is None
    assert _send(identity, signal.SIGKILL)
    assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert not _send(identity, signal.SIGKILL)


def test_a_name_that_looks_like_the_rest_of_the_line_is_read_right(started):
    """Brackets, blanks and control characters in a process name neither mislead nor get through."""
    script = (
        "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a) R 1 (\\x1b\\n', 0, 0, 0); "
        "print('up', flush=True); time.sleep(600)"
    )
    process = started([sys.executable, "-c", script])
    process.stdout.readline()
    stat = procfs.read_stat(process.pid)
    assert (stat.parent, stat.name) == (os.getpid(), "a) R 1 (??")


def test_what_the_tree_uses(started):
    """Memory of a child counts, and CPU time that was used stays when its process has ended."""
    eater = (
        "import time; b = bytearray(80_000_000); t = time.process_time()\n"
        "while time.process_time() < t + 0.3: pass\n"
        "input()"
    )
    kernel = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {eater!r}]); print('done', flush=True); input()"
    )
    family = Family("use")
    assert family.observe() is None
    process = started([sys.executable, "-c", kernel], "use", stdin=subprocess.PIPE)
    family.watch(process.pid)
    wait_for(lambda: family.observe().rss_bytes > 80_000_000 and family.observe().cpu_seconds > 0.3)
    assert family.observe().processes == 2
    process.stdin.write("\n")
    process.stdin.flush()
    process.stdout.readline()
    use = family.observe()
    assert use.processes == 1
    assert use.rss_bytes < 80_000_000
    assert use.cpu_seconds > 0.3
    process.kill()
    process.wait()
    assert family.observe().cpu_seconds >= use.cpu_seconds
    process.stdin.close()


def test_a_process_that_is_gone_is_nothing():
    """No such process: no error."""
    assert procfs.read_stat(2**22 + 5) is None


def test_disk_of_a_family_includes_children_that_ended(tmp_path):
    """What children wrote is counted once they have ended, and what somebody else wrote is not."""
    write = f"['dd', 'if=/dev/zero', 'of={tmp_path}/f', 'bs=1M', 'count=8', 'conv=fsync']"
    script = f"import subprocess; subprocess.run({write}, stderr=subprocess.DEVNULL); input()"
    tag = uuid.uuid4().hex
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as process:
        family = Family(tag)
        family.watch(process.pid)
        (tmp_path / "other").write_bytes(b"x" * 50_000_000)
        if procfs.read_disk(process.pid) is None:
            process.kill()
            pytest.skip("/proc/PID/io cannot be read here")
        wait_for(lambda: family.observe().disk.written_bytes >= 8 << 20 or not _on_a_disk(tmp_path))
        assert family.observe().disk.written_bytes < 40_000_000
        process.kill()
        process.wait()
        assert family.observe().disk.written_bytes >= 8 << 20 or not _on_a_disk(tmp_path)


def _on_a_disk(folder):
    """Return True if a file's bytes go to a block device: those of a tmpfs are counted nowhere."""
    return subprocess.check_output(["stat", "-f", "-c", "%T", folder], text=True).strip() != "tmpfs"
