# SPDX-License-Identifier: Apache-2.0
"""What a container grants is what its control groups say, of version 1 and 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.machine.host import Container, disk_free_bytes, place, read_limits, shm_free_bytes

GIB = 1 << 30
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
V1_NO_LIMIT = "9223372036854771712"


def put(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


@pytest.fixture
def machine(tmp_path):
    """Give the root of a machine with 64 GiB, 60 of them available, and no swap."""
    put(
        tmp_path,
        {
            "proc/meminfo": f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {60 * GIB // 1024} kB\nSwapFree: 0 kB",
            "proc/self/cgroup": "",
            "proc/self/mountinfo": "",
        },
    )
    return tmp_path


@pytest.fixture
def v2(machine):
    """Give a machine where we are in /pod/box of version 2."""
    put(machine, {"proc/self/cgroup": "0::/pod/box", "proc/self/mountinfo": V2_MOUNT})
    (machine / "sys/fs/cgroup/pod/box").mkdir(parents=True)
    return machine


def v1(machine: Path, *, path: str = "/pod/box", mounted: str = "/") -> Path:
    mounts = [
        f"3{number} 31 0:3{number} {mounted} /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"
        for number, name in enumerate(("memory", "cpu,cpuacct"))
    ]
    put(
        machine,
        {
            "proc/self/cgroup": f"4:memory:{path}\n2:cpu,cpuacct:{path}\n1:name=systemd:/\n0::/",
            "proc/self/mountinfo": "".join(mounts) + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        },
    )
    return machine


def test_without_cgroups_the_machine_itself_is_the_limit(machine):
    """No cgroup: the machine's memory, and what is not available of it."""
    limits = read_limits(machine)
    assert (limits.memory_bytes, limits.memory_source, limits.memory_used_bytes) == (64 * GIB, "host", 4 * GIB)
    assert limits.cpus == len(os.sched_getaffinity(0))


def test_an_empty_root_gives_none_and_reasons(tmp_path):
    """Nothing can be read: None, no exception, and a reason for each figure."""
    limits = read_limits(tmp_path)
    assert (limits.memory_bytes, limits.memory_used_bytes) == (None, None)
    container = Container(tmp_path)
    figures = (container.limit_bytes, container.unreclaimable_bytes(), container.used_bytes(), container.oom_kills())
    assert figures == (None, None, None, None)
    assert (container.peak_bytes(), container.whole_container_oom()) == (None, None)
    assert {"limit_bytes", "unreclaimable_bytes", "oom_kills", "peak_bytes"} <= container.unavailable.keys()


@pytest.mark.parametrize(
    ("own", "pod", "limit", "source"),
    [
        (str(8 * GIB), "max", 8 * GIB, "cgroup-v2:/pod/box"),
        ("max", str(16 * GIB), 16 * GIB, "cgroup-v2:/pod"),
        (str(8 * GIB), str(4 * GIB), 4 * GIB, "cgroup-v2:/pod"),
        (str(8 * GIB), str(16 * GIB), 8 * GIB, "cgroup-v2:/pod/box"),
        (str(8 * GIB), str(8 * GIB), 8 * GIB, "cgroup-v2:/pod"),
        ("max", "max", 64 * GIB, "host"),
        (str(500 * GIB), "max", 64 * GIB, "host"),
        ("rubbish", "", 64 * GIB, "host"),
    ],
)
def test_the_smallest_limit_of_the_ancestry_counts_v2(v2, own, pod, limit, source):
    """The smallest limit counts, the outer one of two equal ones, and never more than the machine."""
    put(v2, {"sys/fs/cgroup/pod/box/memory.max": own, "sys/fs/cgroup/pod/memory.max": pod})
    limits = read_limits(v2)
    assert (limits.memory_bytes, limits.memory_source) == (limit, source)
    assert Container(v2).limit_bytes == (None if source == "host" else limit)


def test_a_container_namespace_has_its_limit_at_the_mount(v2):
    """Inside a cgroup namespace the path is / and the files stand at the mount point itself."""
    put(v2, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": str(2 * GIB)})
    assert read_limits(v2).memory_source == "cgroup-v2:/"


def test_a_path_outside_of_the_namespace_is_read_at_the_mount(v2):
    """A process whose cgroup lies above the namespace does not lead out of the mount."""
    put(v2, {"proc/self/cgroup": "0::/../../other", "sys/fs/cgroup/memory.max": str(2 * GIB)})
    put(v2, {"sys/fs/memory.max": str(GIB), "sys/memory.max": str(GIB), "sys/other/memory.max": str(GIB)})
    assert read_limits(v2).memory_bytes == 2 * GIB


def test_used_memory_leaves_out_the_inactive_file_cache(v2):
    """Usage for the gate is what is charged less the file cache nobody reads."""
    box = "sys/fs/cgroup/pod/box"
    put(v2, {f"{box}/memory.max": str(8 * GIB), f"{box}/memory.current": str(6 * GIB)})
    put(v2, {f"{box}/memory.stat": f"anon {GIB}\ninactive_file {4 * GIB}\nactive_file {GIB}"})
    assert read_limits(v2).memory_used_bytes == 2 * GIB


@pytest.mark.parametrize(("own", "pod", "cpus"), [("50000 100000", "max 100000", 0.5), ("max", "75000 100000", 0.75)])
def test_the_smallest_cpu_quota_counts_v2(v2, own, pod, cpus):
    """CPUs are the smallest quota over the ancestry."""
    put(v2, {"sys/fs/cgroup/pod/box/cpu.max": own, "sys/fs/cgroup/pod/cpu.max": pod})
    assert read_limits(v2).cpus == cpus


def test_cpus_are_never_more_than_the_affinity(v2):
    """A quota above the CPUs we may run on grants no more of them."""
    put(v2, {"sys/fs/cgroup/pod/box/cpu.max": "99900000 100000"})
    assert read_limits(v2).cpus == len(os.sched_getaffinity(0))


def test_version_1_limits_and_quotas(machine):
    """Version 1 keeps memory and CPU in hierarchies of their own; -1 and the huge number are no limit."""
    v1(machine)
    put(
        machine,
        {
            "sys/fs/cgroup/memory/pod/box/memory.limit_in_bytes": V1_NO_LIMIT,
            "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": str(3 * GIB),
            "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/pod/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}",
            "sys/fs/cgroup/cpu,cpuacct/pod/box/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/pod/box/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us": "25000",
            "sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
        },
    )
    limits = read_limits(machine)
    assert (limits.memory_bytes, limits.memory_source) == (3 * GIB, "cgroup-v1:/pod")
    assert (limits.memory_used_bytes, limits.cpus) == (GIB, 0.25)


def test_version_1_without_a_namespace_strips_what_is_not_mounted(machine):
    """A container reads the host's path, of which only the part below its own mount is there."""
    v1(machine, path="/kubepods/pod1/box", mounted="/kubepods/pod1/box")
    put(machine, {"sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB)})
    assert read_limits(machine).memory_source == "cgroup-v1:/"


def test_version_1_tells_of_limits_that_cannot_be_seen(machine):
    """The hierarchical limit of version 1 counts where it is the smallest."""
    v1(machine)
    put(machine, {"sys/fs/cgroup/memory/pod/box/memory.limit_in_bytes": str(8 * GIB)})
    put(machine, {"sys/fs/cgroup/memory/memory.stat": f"hierarchical_memory_limit {5 * GIB}"})
    assert read_limits(machine).memory_bytes == 5 * GIB


def test_file_cache_does_not_count_as_unreclaimable_v2(v2):
    """Anonymous, shared and unreclaimable kernel memory count; file cache and slab caches do not."""
    box = "sys/fs/cgroup/pod/box"
    put(v2, {f"{box}/memory.max": str(8 * GIB)})
    put(v2, {f"{box}/memory.stat": f"anon 1000\nfile {7 * GIB}\nshmem 200\nkernel 90\nslab_reclaimable 60\nsock 5"})
    container = Container(v2)
    assert container.unreclaimable_bytes() == 1000 + 200 + 30 + 5
    put(v2, {f"{box}/memory.stat": "anon 1000\nkernel_stack 1\npagetables 2\npercpu 3\nslab_unreclaimable 4\nshmem 0"})
    assert container.unreclaimable_bytes() == 1010


def test_unreclaimable_memory_of_version_1(machine):
    """Version 1 counts anonymous and shared memory over the hierarchy."""
    v1(machine)
    box = "sys/fs/cgroup/memory/pod/box"
    stat = f"rss 1\ntotal_rss 1000\ntotal_shmem 10\ntotal_cache {GIB}\ntotal_swap 7"
    put(machine, {f"{box}/memory.limit_in_bytes": str(GIB), f"{box}/memory.stat": stat})
    assert Container(machine).unreclaimable_bytes() == 1010


def test_swap_that_is_allowed_is_room_and_what_is_in_it_counts(v2):
    """With swap the guard compares memory and swap together with both limits together."""
    box = "sys/fs/cgroup/pod/box"
    put(v2, {"proc/meminfo": f"MemTotal: {64 * GIB // 1024} kB\nSwapFree: {10 * GIB // 1024} kB"})
    put(v2, {f"{box}/memory.max": str(8 * GIB), f"{box}/memory.stat": "anon 100", f"{box}/memory.swap.max": "max"})
    put(v2, {f"{box}/memory.swap.current": "50"})
    container = Container(v2)
    assert (container.swap_bytes, container.unreclaimable_bytes()) == (10 * GIB, 150)
    put(v2, {f"{box}/memory.swap.max": "0"})
    container = Container(v2)
    assert (container.swap_bytes, container.unreclaimable_bytes()) == (0, 100)


def test_oom_kills_peak_and_group_of_version_2(v2):
    """Kills count those of cgroups below; without memory.events the local file stands in."""
    box = "sys/fs/cgroup/pod/box"
    put(v2, {f"{box}/memory.events": "low 0\noom 3\noom_kill 2", f"{box}/memory.events.local": "oom_kill 1"})
    put(v2, {f"{box}/memory.peak": "123", f"{box}/memory.oom.group": "0", "sys/fs/cgroup/pod/memory.oom.group": "1"})
    container = Container(v2)
    assert (container.oom_kills(), container.peak_bytes(), container.whole_container_oom()) == (2, 123, True)
    (v2 / box / "memory.events").unlink()
    (v2 / box / "memory.peak").unlink()
    assert (container.oom_kills(), container.peak_bytes()) == (1, None)
    assert "memory.peak" in container.unavailable["peak_bytes"]


def test_oom_kills_and_peak_of_version_1(machine):
    """Version 1 kills one process, never the whole container."""
    v1(machine)
    box = "sys/fs/cgroup/memory/pod/box"
    put(machine, {f"{box}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4"})
    put(machine, {f"{box}/memory.max_usage_in_bytes": "99"})
    container = Container(machine)
    assert (container.oom_kills(), container.peak_bytes(), container.whole_container_oom()) == (4, 99, False)


def test_this_machine_can_be_read():
    """The real /proc and /sys give figures that fit each other."""
    limits = read_limits()
    assert limits.cpus > 0
    assert limits.memory_bytes
    assert limits.memory_used_bytes is not None
    assert 0 < limits.memory_used_bytes < limits.memory_bytes


def test_a_closed_container_gives_none(v2):
    """After close every figure that was held open is None."""
    put(v2, {"sys/fs/cgroup/pod/box/memory.max": str(GIB), "sys/fs/cgroup/pod/box/memory.stat": "anon 1"})
    container = Container(v2)
    assert container.unreclaimable_bytes() == 1
    container.close()
    container.close()
    assert container.unreclaimable_bytes() is None


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path):
    """Free space is that of the nearest folder that exists; no /dev/shm is None."""
    assert disk_free_bytes(tmp_path / "not" / "yet") == disk_free_bytes(tmp_path)
    assert shm_free_bytes(tmp_path) is None


@pytest.mark.parametrize(
    ("environ", "file", "where"),
    [
        ({}, "etc/hostname", "machine"),
        ({}, ".dockerenv", "container"),
        ({}, "run/.containerenv", "container"),
        ({"container": "podman"}, "etc/hostname", "container"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ".dockerenv", "cluster"),
    ],
)
def test_where_we_run_is_told_by_its_marks(tmp_path, environ, file, where):
    """A Pod has the address of its cluster, docker and podman leave a file."""
    put(tmp_path, {file: ""})
    assert place(environ, tmp_path) == where
