# SPDX-License-Identifier: Apache-2.0
"""`make soak`: play scenario after scenario, check the invariants after each, print the counts.

Each iteration has a seed of its own, from which everything random follows. A violated invariant
is printed with the command that plays this seed again. Exit code 1 when one was violated.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from soak.invariants import INVARIANTS
from soak.scenarios import SCENARIOS, Impossible
from soak.world import World


@dataclass(kw_only=True)
class Tally:
    """What became of one scenario."""

    played: int = 0
    violated: int = 0
    skipped: str = ""
    codes: Counter[int | None] = field(default_factory=Counter)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="start no iteration after this")
    parser.add_argument("--iterations", type=int, help="start so many at most, whatever the time")
    parser.add_argument("--seed", type=int, help="the first seed; they count up from there [default: random]")
    parser.add_argument("--replay", type=int, metavar="SEED", help="play this seed alone and keep its folder")
    parser.add_argument("--scenario", choices=SCENARIOS, help="this one alone")
    parser.add_argument("--jobs", type=int, default=2, help="iterations at the same time")
    parser.add_argument("--keep", type=Path, help="keep the folders of violated iterations here")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Play until the time is over and return the exit code."""
    options = arguments(given)
    if options.replay is not None:
        options.seed, options.iterations, options.jobs = options.replay, 1, 1
        options.keep = options.keep or Path(tempfile.mkdtemp(prefix="soak-kept-"))
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6) * 1000
    print(f"seeds from {options.seed}", flush=True)
    tallies = {name: Tally() for name in SCENARIOS}
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as scratch:
        violated = _play_all(options, Path(scratch), tallies)
    _print_counts(tallies)
    return int(violated > 0)


def _play_all(options: argparse.Namespace, scratch: Path, tallies: dict[str, Tally]) -> int:
    earlier = _earlier(scratch)
    lock, deadline = threading.Lock(), time.monotonic() + options.seconds
    seeds = iter(itertools.islice(itertools.count(options.seed), options.iterations))

    def taken() -> Iterator[int]:
        while time.monotonic() < deadline or options.iterations:
            with lock:
                seed = next(seeds, None)
            if seed is None:
                return
            yield seed

    def work(_: int) -> None:
        for seed in taken():
            name = options.scenario or tuple(SCENARIOS)[seed % len(SCENARIOS)]
            line = _play(seed, name, scratch, earlier, tallies[name], options)
            with lock:
                print(line, flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, range(options.jobs)))
    return sum(tally.violated for tally in tallies.values())


def _earlier(scratch: Path) -> Path:
    """Run the healthy notebook once; what it leaves is every iteration's past."""
    world = World(scratch / "earlier", seed=0)
    code = world.finish(world.start())
    world.end()
    if code != 0:
        sys.exit(f"the healthy notebook does not run: exit code {code}\n{world.words()}")
    return world.out


def _play(seed: int, name: str, scratch: Path, earlier: Path, tally: Tally, options: argparse.Namespace) -> str:
    """Play one iteration and return its line."""
    world = World(scratch / str(seed), seed, earlier)
    try:
        story = SCENARIOS[name](world)
        found = [*story.notes, *(line for invariant in INVARIANTS for line in invariant(world, story))]
    except Impossible as reason:
        tally.skipped = str(reason)
        return f"{seed} {name}: skipped: {reason}"
    finally:
        world.end()
    tally.played += 1
    tally.codes[story.code] += 1
    head = f"{seed} {name}: {story.moment or '-'}: exit {story.code}"
    if not found:
        shutil.rmtree(world.folder, ignore_errors=True)
        return f"{head}: ok"
    tally.violated += 1
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        shutil.copytree(world.folder, options.keep / str(seed), symlinks=True, dirs_exist_ok=True)
    only = f" SCENARIO={name}" if options.scenario else ""
    lines = "".join(f"\n  VIOLATED: {line}" for line in found)
    return f"{head}{lines}\n  replay: make soak REPLAY={seed}{only}"


def _print_counts(tallies: dict[str, Tally]) -> None:
    width = max(map(len, tallies))
    print(f"\n{'scenario':{width}}  played  violated  exit codes")
    for name, tally in tallies.items():
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(tally.codes.items(), key=str))
        print(f"{name:{width}}  {tally.played:6}  {tally.violated:8}  {tally.skipped or codes}")
    played, violated = (sum(getattr(t, key) for t in tallies.values()) for key in ("played", "violated"))
    print(f"{'all':{width}}  {played:6}  {violated:8}")


if __name__ == "__main__":
    sys.exit(main())
