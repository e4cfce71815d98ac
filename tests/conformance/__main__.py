# SPDX-License-Identifier: Apache-2.0
"""`make conformance`: put every case to every engine, print the table, write the page.

A part of the cases or engines renews its part of the page; the rest stays as it was measured.

Exit code 1 when one of this project's own engines is wrong about anything; what others answer
is their business.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conformance import store, table
from conformance.engines import ENGINES, Engine
from conformance.judge import Verdict, judge
from conformance.play import Bench, impossible, play, remove
from conformance.truths import CASES, Case

RIGHT = Verdict(wrong={})
DISTRIBUTIONS = {"papermill": "papermill", "jupyter-execute": "nbclient", "nbmake": "nbmake"}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("--peers", type=Path, required=True, help="bin folder of the environment with the peers")
    parser.add_argument("--ours", type=Path, default=Path(sys.executable).parent, help="bin folder with runner")
    parser.add_argument("--engines", nargs="+", choices=[e.key for e in ENGINES], help="only these")
    parser.add_argument("--cases", nargs="+", metavar="GLOB", default=["*"], help="only cases with such a name")
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1, help="runs at the same time")
    parser.add_argument("--keep", type=Path, help="keep what the runs make in this folder")
    parser.add_argument("--write", type=Path, help="write the page here, and the verdicts beside it as JSON")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run the suite and return the exit code."""
    options = arguments(given)
    ours, peers = options.ours.absolute(), options.peers.absolute()
    engines = [e(ours=ours, peers=peers) for e in ENGINES if not options.engines or e.key in options.engines]
    cases = [case for case in CASES if any(fnmatch.fnmatch(case.name, glob) for glob in options.cases)]
    skipped = {case.name: reason for case in cases if (reason := impossible(case))}
    for name, reason in skipped.items():
        print(f"skipped: {name}: {reason}")
    cases = [case for case in cases if case.name not in skipped]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="conf-", ignore_cleanup_errors=True) as scratch:
        bench = Bench.make((options.keep or Path(scratch)).absolute(), peers / "python")
        verdicts = run_all(cases, engines, bench, jobs=options.jobs, keep=options.keep is not None)
    print(table.terminal(table.rows(cases, engines, verdicts)), end="\n\n")
    print(table.terminal(table.summary(cases, engines, verdicts)))
    print(f"\n{len(verdicts)} runs in {time.monotonic() - started:.0f} s")
    if options.write:
        kept = options.write.with_suffix(".json")
        known = {**store.read(kept, CASES), **verdicts}
        store.write(kept, CASES, known)
        measured = {key for _, key in known}
        everyone = [engine(ours=ours, peers=peers) for engine in ENGINES if engine.key in measured]
        options.write.write_text(table.document(CASES, everyone, known, version))
    failing = [
        f"{engine.title}: {case.name}"
        for engine in engines
        for case in cases
        if engine.ours and case.name not in engine.limits and not verdicts.get((case.name, engine.key), RIGHT).right
    ]
    print("".join(f"\nwrong, and ours to mend: {line}" for line in failing))
    return int(bool(failing))


def run_all(
    cases: Iterable[Case], engines: Sequence[Engine], bench: Bench, *, jobs: int, keep: bool
) -> dict[tuple[str, str], Verdict]:
    """Return the verdicts of all cases on all engines, several runs at the same time."""
    pairs = [(case, engine) for case in cases for engine in engines if engine.applies(case)]

    def one(pair: tuple[Case, Engine]) -> Verdict:
        case, engine = pair
        ended = play(case, engine, bench)
        verdict = judge(case, engine, ended)
        for question, reason in verdict.wrong.items():
            print(f"{engine.title}: {case.name}: {question}: {reason}", flush=True)
        if keep:
            (ended.folder / "engine").write_text(engine.key)
        else:
            remove(ended)
        return verdict

    with ThreadPoolExecutor(jobs) as pool:
        return {(case.name, engine.key): v for (case, engine), v in zip(pairs, pool.map(one, pairs), strict=True)}


def version(engine: Engine) -> str:
    """Return the version of what an engine is made of."""
    if engine.ours:
        return "this checkout"
    script = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    name = DISTRIBUTIONS.get(engine.key, engine.key)
    asked = [engine.program("python"), "-c", script, name]
    return f"{name} {subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()}"


if __name__ == "__main__":
    sys.exit(main())
