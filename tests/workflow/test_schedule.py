# SPDX-License-Identifier: Apache-2.0
"""Which notebooks run at once: never more than the machine has, and the longest path first."""

from __future__ import annotations

import heapq
import random

from runner.workflow.schedule import Machine, Schedule, Task, critical_paths

GB = 1e9


def simulate(machine: Machine, tasks: list[Task]) -> tuple[float, list[tuple[float, str, str]]]:
    """Run a schedule on a simulated clock and return the total time and all start and end times."""
    schedule = Schedule(machine=machine, tasks=tasks)
    by_name = {task.name: task for task in tasks}
    events: list[tuple[float, str, str]] = []
    running: list[tuple[float, str]] = []
    now = 0.0
    while not schedule.over:
        while (name := schedule.next()) is not None:
            schedule.start(name)
            events.append((now, "start", name))
            heapq.heappush(running, (now + by_name[name].seconds, name))
        assert running, "nothing runs and something is left"
        now, name = heapq.heappop(running)
        schedule.end(name, succeeded=True)
        events.append((now, "end", name))
    return now, events


def random_plan(rng: random.Random) -> tuple[Machine, list[Task]]:
    tasks: list[Task] = []
    for number in range(rng.randint(1, 14)):
        earlier = [task.name for task in tasks]
        tasks.append(
            Task(
                name=f"n{number}",
                needs=frozenset(rng.sample(earlier, k=min(len(earlier), rng.choice([0, 0, 1, 2])))),
                gpus=rng.choice([0, 1, 1, 2]),
                gpu_bytes=rng.choice([0, 16, 40]) * GB,
                cpus=rng.choice([0, 1, 2, 4]),
                memory_gb=rng.choice([0, 8, 32]),
                shares=frozenset(rng.sample(["x", "y"], k=rng.choice([0, 0, 1]))),
                seconds=rng.uniform(0.1, 50),
            )
        )
    sizes = tuple(rng.choice([24, 80]) * GB for _ in range(rng.randint(2, 4)))
    return Machine(jobs=rng.randint(1, 6), gpu_bytes=sizes, cpus=rng.randint(4, 8), memory_gb=64), tasks


def test_200_random_plans_keep_every_bound() -> None:
    """Needs end first; GPUs, CPUs and memory are never oversubscribed; a cold shared product has one maker."""
    for seed in range(200):
        machine, tasks = random_plan(random.Random(seed))
        by_name = {task.name: task for task in tasks}
        _, events = simulate(machine, tasks)
        running: list[Task] = []
        ended: set[str] = set()
        warm: set[str] = set()
        for _, kind, name in events:
            task = by_name[name]
            if kind == "end":
                running.remove(task)
                ended.add(name)
                warm |= task.shares
                continue
            assert task.needs <= ended, seed
            assert not any(task.shares & other.shares - warm for other in running), seed
            running.append(task)
            assert len(running) <= machine.jobs, seed
            if len(running) > 1:
                assert sum(each.gpus for each in running) <= len(machine.gpu_bytes), seed
                assert sum(each.cpus for each in running) <= (machine.cpus or 0), seed
                assert sum(each.memory_gb for each in running) <= (machine.memory_gb or 0), seed
        assert ended == set(by_name), seed


def test_one_at_a_time_keeps_the_plans_order() -> None:
    for seed in range(50):
        _, tasks = random_plan(random.Random(seed))
        _, events = simulate(Machine(jobs=1), tasks)
        assert [name for _, kind, name in events if kind == "start"] == [task.name for task in tasks]


def test_the_longest_path_starts_first() -> None:
    tasks = [Task(name="short", seconds=5), Task(name="head", seconds=1), Task(name="tail", seconds=9, needs={"head"})]
    assert critical_paths(tasks) == {"short": 5, "head": 10, "tail": 9}
    _, events = simulate(Machine(jobs=1 + 1), [*tasks, Task(name="other", seconds=4)])
    assert [name for _, kind, name in events if kind == "start"][:2] == ["head", "short"]


def test_the_mission_on_three_gpus_is_close_to_the_bound() -> None:
    """Seven notebooks as the plan has them: within a tenth of the longest path, or of the work over three GPUs."""
    needs = {"04": {"01"}, "07": {"03"}, "05": {"04"}}
    seconds = {"01": 12, "02": 10, "03": 14, "06": 9, "04": 11, "07": 8, "05": 13}
    tasks = [
        Task(name=name, seconds=seconds[name], needs=frozenset(needs.get(name, ())), gpus=1, gpu_bytes=40 * GB)
        for name in seconds
    ]
    took, _ = simulate(Machine(jobs=7, gpu_bytes=(80 * GB,) * 3), tasks)
    bound = max(*critical_paths(tasks).values(), sum(seconds.values()) / 3)
    assert took <= 1.10 * bound


def test_a_large_notebook_waits_for_the_large_gpu_and_never_gets_a_small_one() -> None:
    """The gate takes the largest free GPU, so a small notebook may delay a large one, but not make it fail."""
    tasks = [Task(name="small", gpus=1, gpu_bytes=10 * GB, seconds=9), Task(name="large", gpus=1, gpu_bytes=70 * GB)]
    _, events = simulate(Machine(jobs=2, gpu_bytes=(24 * GB, 80 * GB)), tasks)
    assert events[0] == (0.0, "start", "small")
    assert events[2] == (9.0, "start", "large")


def test_what_asks_for_more_than_there_is_runs_alone_so_that_the_gate_refuses_it() -> None:
    tasks = [Task(name="huge", gpus=8, cpus=500, memory_gb=9000), Task(name="small")]
    _, events = simulate(Machine(jobs=4, gpu_bytes=(80 * GB,), cpus=4, memory_gb=8), tasks)
    assert {name for _, kind, name in events if kind == "end"} == {"huge", "small"}
