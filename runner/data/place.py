# SPDX-License-Identifier: Apache-2.0
"""Datasets put where a library looks for them, for URLs that no source shows.

pooch, scanpy and the Hugging Face hub take a file that is already in their folder. The plan says
where that is (`place.path`, in the checkout) and which variables lead the library there
(`place.env`; `{checkout}` in a value stands for the checkout's absolute path).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import files
from runner.core.errors import BrokenInputError, RecordError
from runner.core.records import Change
from runner.data.cache import Staged, hashes

if TYPE_CHECKING:
    from runner.plan import Dataset, Plan


@dataclass(frozen=True, slots=True)
class Placed:
    """What was put where, and the variables that the kernel needs to find it."""

    env: dict[str, str]
    changes: tuple[Change, ...]


def place(plan: Plan, staged: Iterable[Staged], checkout: Path) -> Placed:
    """Put a verified copy of every dataset that has a `place` there.

    Raises
    ------
    BrokenInputError
        A copy is not what was staged: the cache changed while it was read.
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
    """Return the variables of a dataset's `place` with the checkout filled in."""
    variables = dataset.place.env if dataset.place else {}
    return {name: value.replace("{checkout}", str(checkout.resolve())) for name, value in variables.items()}


def _put(item: Staged, target: Path) -> bool:
    """Copy unless the same file is there; return whether it was copied.

    A copy and no link: the notebook may write to it, and the cache must stay as it was verified.
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
