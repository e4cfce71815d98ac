# SPDX-License-Identifier: Apache-2.0
"""Provides the data of one run from the cache to the kernel: looks it up, places it, and serves it.

pooch, scanpy and the Hugging Face hub use a file that is already in their folder. The plan defines that folder
(`place.path`, in the checkout) and the variables that point the library to it (`place.env`; `{checkout}` in a value is
replaced by the checkout's absolute path).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import files, log
from runner.core.errors import BrokenInputError, RecordError
from runner.core.import_watch import kernel_line
from runner.core.records import Change
from runner.data.cache import Staged, hashes
from runner.data.fetch import fetch
from runner.data.mirror import Mirror

if TYPE_CHECKING:
    from runner.data.cache import Staged
    from runner.plan.model import Dataset, Plan

_HOOKED = "RUNNER_MIRROR_URLS"
_HOOK = kernel_line(Path(__file__).with_name("mirror_startup.py"), __name__="runner_mirror")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The served datasets, for preparation and kernel.

    Attributes
    ----------
    replacements
        Local URL for each dataset's URL, for `runner.stages.prepare.prepare.prepare`.
    placed
        URLs that need not appear in the source.
    env
        Variables for the kernel.
    startup
        Startup lines for the kernel.
    """

    replacements: dict[str, str]
    placed: frozenset[str]
    env: dict[str, str]
    startup: tuple[str, ...]
    changes: tuple[Change, ...]
    staged: tuple[Staged, ...]
    copied: frozenset[str]
    """Names of datasets placed in the folder of a library."""
    warnings: tuple[str, ...]
    mirror: Mirror

    @property
    def unasked(self) -> tuple[str, ...]:
        """Return the datasets that the notebook should have downloaded but did not."""
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
    """Serve the datasets of a notebook for the duration of its run.

    Nothing is downloaded here: a run that holds a GPU must not wait for the network. Without a cache the
    notebook downloads from the original URLs, unless ``offline``.

    Parameters
    ----------
    names
        The notebook's datasets.
    cache
        Cache of `fetch`.
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
                f"offline, but no cache given for {', '.join(names)}", hint="fetch them and give --cache"
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


@dataclass(frozen=True, slots=True)
class Placed:
    """Placed datasets, and the variables for the kernel to find them."""

    env: dict[str, str]
    changes: tuple[Change, ...]


def place(plan: Plan, staged: Iterable[Staged], checkout: Path) -> Placed:
    """Copy every dataset with a `place` there, verified.

    Raises
    ------
    BrokenInputError
        A copy differs from the staged file: the cache changed while being read.
    RecordError
        The checkout cannot be written.
    """
    env: dict[str, str] = {}
    changes = []
    for item in staged:
        dataset = plan.datasets[item.name]
        if dataset.place is None:
            continue
        target = checkout / dataset.place.path
        detail = "copied" if _put(item, target) else "already there"
        changes.append(Change(rule="place", detail=f"dataset {item.name!r} {detail}", new=dataset.place.path))
        env |= environment(dataset, checkout)
    return Placed(env, tuple(changes))


def environment(dataset: Dataset, checkout: Path) -> dict[str, str]:
    """Return the variables of a dataset's `place` with `{checkout}` replaced."""
    variables = dataset.place.env if dataset.place else {}
    return {name: value.replace("{checkout}", str(checkout.resolve())) for name, value in variables.items()}


def _put(item: Staged, target: Path) -> bool:
    """Copy unless the same file exists; return True if it was copied.

    A copy instead of a link: the notebook may write to it, and the cache must not change.
    """
    if target.is_file() and target.stat().st_size == item.bytes and hashes(target, with_md5=False)[0] == item.sha256:
        return False
    draft = target.with_name(f".{target.name}.{os.getpid()}.placing")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(item.path, draft)
        if hashes(draft, with_md5=False)[0] != item.sha256:
            raise BrokenInputError(
                f"dataset {item.name!r}: {item.path} changed since it was verified", hint="delete it and fetch it again"
            )
        draft.replace(target)
    except OSError as error:
        raise RecordError(
            f"cannot place dataset {item.name!r} at {target}: {error.strerror}",
            hint=files.remedy(target, error.errno),
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return True
