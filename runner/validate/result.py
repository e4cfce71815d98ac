# SPDX-License-Identifier: Apache-2.0
"""Request and result of a validation; the result is written as JSON and shown as a table or page."""

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
class ValidationRequest:
    """The requirements to check.

    ``limit_seconds`` limits each group of checks: a hanging file system is a finding and must not hang the validation.
    """

    plan: Plan | None = None
    plan_path: Path | None = None
    checkout: Path
    folders: Mapping[str, Path]
    """Folders that notebooks and runs write to: `outputs`, and optionally `checkout` and `cache`."""
    requirements: Requirements = field(default_factory=Requirements)
    kernel: str | None = None
    network: bool = False
    doctors: bool = True
    """Run the libraries' own checks too; False if one of them calls us."""
    limit_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The checks of one subject."""

    name: str
    checks: tuple[Check, ...]
    wall_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Result of `runner validate`; the verdict is its worst check's status."""

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
        """0, or 3 if a check failed."""
        return 3 if self.verdict == "fail" else 0


def checks_of(sections: tuple[Section, ...]) -> Iterator[Check]:
    """Yield every check."""
    for section in sections:
        yield from section.checks


def counts(sections: tuple[Section, ...]) -> dict[str, int]:
    """Return the number of checks by status."""
    found = [check.status for check in checks_of(sections)]
    return {level: found.count(level) for level in LEVELS}


def worst(sections: tuple[Section, ...]) -> Level:
    """Return the worst status of all checks."""
    return max((check.status for check in checks_of(sections)), key=LEVELS.index, default="pass")
