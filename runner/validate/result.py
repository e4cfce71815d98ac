# SPDX-License-Identifier: Apache-2.0
"""What a validation is asked and what it answers: one record, written as JSON and shown as table or page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner.core.requirements import Requirements

if TYPE_CHECKING:
    from runner.core.records import Check
    from runner.plan.model import Plan

Level = Literal["pass", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("pass", "warn", "fail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the system should be fit for.

    ``limit_seconds`` bounds each group of checks: a file system that hangs is a finding, and no
    reason to hang as well.
    """

    plan: Plan | None = None
    plan_path: Path | None = None
    checkout: Path
    folders: Mapping[str, Path]
    """Where notebooks and runs will write: `outputs`, and `checkout` and `cache` where there are such."""
    requirements: Requirements = field(default_factory=Requirements)
    kernel: str | None = None
    network: bool = False
    doctors: bool = True
    """Call the libraries' own checks too; not so when one of them calls us."""
    limit_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The checks of one subject."""

    name: str
    checks: tuple[Check, ...]
    wall_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The answer of `runner validate`; the verdict is the worst of its checks."""

    schema_version: int = 1
    verdict: Level
    hostname: str
    runner_version: str
    image: str | None
    plan: str | None
    started_at: str
    wall_seconds: float
    counts: dict[str, int]
    sections: tuple[Section, ...]

    @property
    def exit_code(self) -> int:
        """0, or 3 when a check failed: the machine does not have what is asked for."""
        return 3 if self.verdict == "fail" else 0


def checks_of(sections: tuple[Section, ...]) -> Iterator[Check]:
    """Yield every check."""
    for section in sections:
        yield from section.checks


def counts(sections: tuple[Section, ...]) -> dict[str, int]:
    """Return how many checks passed, warned and failed."""
    found = [check.status for check in checks_of(sections)]
    return {level: found.count(level) for level in LEVELS}


def worst(sections: tuple[Section, ...]) -> Level:
    """Return the verdict over all checks."""
    return max((check.status for check in checks_of(sections)), key=LEVELS.index, default="pass")
