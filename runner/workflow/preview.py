# SPDX-License-Identifier: Apache-2.0
"""`run-all --resume --dry-run`: notebooks to reuse and to run, with reasons and earlier durations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner.core.errors import BrokenInputError
from runner.core.hash_cache import HashCache
from runner.core.records import origin
from runner.core.redact import Redactor
from runner.core.units import format_seconds
from runner.run import preflight, reuse
from runner.run.resume import HASHES

if TYPE_CHECKING:
    from runner.plan.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The decision on one notebook."""

    name: str
    decision: Literal["reused", "runs", "depends"]
    because: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    """Notebooks to run whose products it needs: it is reused if they do not change."""
    expected_seconds: float | None = None

    @property
    def text(self) -> str:
        """The decision as a sentence."""
        if self.decision == "depends":
            return f"depends on the products of {', '.join(self.depends_on)}"
        return f"runs because {'; '.join(self.because)}" if self.decision == "runs" else self.because[0]


def preview(jobs: Sequence[Job]) -> list[Preview]:
    """Return the decisions on the notebooks of a plan in order, without changing anything but cached hashes."""
    hashes = HashCache(jobs[0].output_dir / HASHES)
    found: dict[str, Preview] = {}
    for job in jobs:
        one = _preview(job, hashes)
        running = [need for need in job.needs if need in found and found[need].decision != "reused"]
        if one.decision == "reused" and running:
            one = Preview(name=job.name, decision="depends", depends_on=tuple(running))
        expected = None if one.decision == "reused" else seconds_before(job.output_dir, job.name)
        found[job.name] = dataclasses.replace(one, expected_seconds=expected)
    hashes.save()
    return list(found.values())


def table(previews: Sequence[Preview]) -> str:
    """Format the previews for a terminal, with the expected total time."""
    width = max(len(one.name) for one in previews)
    lines = [f"{one.name:{width}}  {one.text}{_expected(one)}" for one in previews]
    runs = [one for one in previews if one.decision == "runs"]
    open_ones = [one for one in previews if one.decision == "depends"]
    reused = len(previews) - len(runs) - len(open_ones)
    unknown = sum(one.expected_seconds is None for one in (*runs, *open_ones))
    least, most = _total(runs), _total([*runs, *open_ones])
    time = format_seconds(least) if least == most else f"{format_seconds(least)} to {format_seconds(most)}"
    more = f", plus {unknown} without an earlier run" if unknown else ""
    counts = f"{reused} reused, {len(runs)} to run" + (f", {len(open_ones)} to decide" if open_ones else "")
    return "\n".join([*lines, f"{counts}; estimated from earlier runs: {time} in sequence{more}"])


def _preview(job: Job, hashes: HashCache) -> Preview:
    try:
        decision = reuse.decide(job, preflight.check(job), hashes, Redactor(job.hidden))
    except BrokenInputError as error:
        return Preview(name=job.name, decision="runs", because=(f"it cannot be checked: {error.message}",))
    if decision.reused is None or decision.reused.record is None:
        return Preview(name=job.name, decision="runs", because=decision.because)
    text = f"reused from {origin(decision.reused.record)}"
    if decision.unlike_source:
        text += "; only comments or text changed"
    return Preview(name=job.name, decision="reused", because=(text,))


def _expected(one: Preview) -> str:
    return f" (took {format_seconds(one.expected_seconds)})" if one.expected_seconds is not None else ""


def _total(previews: Sequence[Preview]) -> float:
    return sum(one.expected_seconds or 0.0 for one in previews)


def seconds_before(output_dir: Path, name: str) -> float | None:
    """Return the duration of a notebook's last success, else of its last run."""
    records = [one.record for one in reuse.earlier(output_dir, name) if one.record is not None]
    best = next((record for record in records if record.exit_code == 0 and record.cells), None)
    taken = best or next(iter(records), None)
    return taken.wall_seconds if taken else None
