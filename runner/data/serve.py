# SPDX-License-Identifier: Apache-2.0
"""The data of one run, from the cache to the kernel: looked up, placed, and served while it lasts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.errors import BrokenInputError
from runner.data.fetch import fetch
from runner.data.mirror import Mirror
from runner.data.place import place

if TYPE_CHECKING:
    from runner.core.records import Change
    from runner.data.cache import Staged
    from runner.plan import Plan

_HOOKED = "RUNNER_MIRROR_URLS"
_CODE = Path(__file__).with_name("mirror_startup.py")
# One expression with a namespace of its own, so that nothing is left in the notebook's.
_HOOK = f"exec(open({str(_CODE)!r}, encoding='utf-8').read(), {{'__name__': 'runner_mirror'}})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What preparation and kernel need to know.

    Attributes
    ----------
    replacements
        Where each dataset's URL is served, for `runner.stages.prepare.prepare.prepare`.
    placed
        URLs that need not stand in the source.
    env
        Variables for the kernel.
    startup
        Lines of Python for the kernel to start with.
    """

    replacements: dict[str, str]
    placed: frozenset[str]
    env: dict[str, str]
    startup: tuple[str, ...]
    changes: tuple[Change, ...]
    staged: tuple[Staged, ...]
    copied: frozenset[str]
    """Names of datasets that lie where a library looks for them."""
    warnings: tuple[str, ...]
    mirror: Mirror

    @property
    def unasked(self) -> tuple[str, ...]:
        """Return the datasets that the notebook should have downloaded and did not."""
        return tuple(name for name, times in self.mirror.served.items() if not times and name not in self.copied)


@contextlib.contextmanager
def serving(
    plan: Plan | None,
    names: Sequence[str],
    *,
    cache: Path | None,
    checkout: Path,
    offline: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Serve the datasets of a notebook for the time of its run.

    Nothing is downloaded here: a run that holds a GPU does not wait for a network. Without a
    cache the notebook's own downloads go outside, unless ``offline``.

    Parameters
    ----------
    names
        The notebook's datasets.
    cache
        Where `fetch` staged them.
    environment
        The kernel's environment so far.

    Raises
    ------
    BrokenInputError
        A dataset is missing from the cache or changed since it was verified.
    """
    staged: list[Staged] = []
    warnings: tuple[str, ...] = ()
    if names and plan is not None:
        if cache is not None:
            staged = fetch(plan, names, cache=cache, offline=True)
        elif offline:
            raise BrokenInputError(
                f"offline, but there is no cache for {', '.join(names)}", hint="fetch them and give --cache"
            )
        else:
            warnings = (f"not staged, fetched by the notebook itself: {', '.join(names)}",)
            log.warning("datasets-not-staged", datasets=",".join(names), hint="fetch them and give --cache")
    placed = place(plan, staged, checkout) if plan is not None and staged else None
    datasets = {item.name: plan.datasets[item.name] for item in staged} if plan is not None else {}
    with Mirror(staged, offline=offline, environment=environment) as mirror:
        hooked = {one.url: mirror.urls[one.url] for one in datasets.values() if one.hook}
        yield Served(
            replacements=mirror.urls,
            placed=frozenset(one.url for one in datasets.values() if one.in_no_source),
            env=(mirror.env if staged or offline else {})
            | (placed.env if placed else {})
            | ({_HOOKED: json.dumps(hooked)} if hooked else {}),
            startup=(_HOOK,) if hooked else (),
            changes=placed.changes if placed else (),
            staged=tuple(staged),
            copied=frozenset(name for name, one in datasets.items() if one.place is not None),
            warnings=warnings,
            mirror=mirror,
        )
