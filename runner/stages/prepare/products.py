# SPDX-License-Identifier: Apache-2.0
"""Products: files that a notebook writes to the checkout, and whether an existing one is reused.

Notebooks skip work if its result exists, so a partial file of a killed run would pass for a
complete one. So an existing product is reused only if a succeeded run of the same source and
parameters made it (see `runner.stages.prepare.product_records`). Other products are moved to
`.set-aside/NAME/N/` in the checkout, where no pattern matches them and nothing is lost. Sources
are never moved: a pattern that matches one is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.core import log
from runner.core.errors import BrokenInputError, RecordError
from runner.data.locks import locked
from runner.stages.prepare import product_records

if TYPE_CHECKING:
    from runner.core.redact import Redactor
    from runner.plan.sources import Sources
    from runner.stages.prepare.product_records import Fingerprint, Run

ASIDE = ".set-aside"
_PATTERN = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Judged:
    """The products that existed before a run: moved or reused."""

    moved: tuple[str, ...]
    reused: Mapping[str, Fingerprint]


@dataclass(frozen=True, slots=True)
class Clash:
    """A pattern of products that matches something else."""

    pattern: str
    path: Path
    what: str

    def __str__(self) -> str:
        return f"the pattern {self.pattern!r} matches {self.path}: {self.what} would be moved away"


def find(patterns: Sequence[str], checkout: Path) -> list[Path]:
    """Return the matches of the patterns, relative to the checkout; a folder represents its content."""
    found: set[Path] = set()
    for pattern in patterns:
        matches = checkout.glob(pattern) if _PATTERN & set(pattern) else [checkout / pattern]
        found |= {match.relative_to(checkout) for match in matches if match.exists() or match.is_symlink()}
    kept = {path for path in found if path.parts[:1] not in {(ASIDE,), (".git",)}}
    return sorted(path for path in kept if not any(parent in kept for parent in path.parents))


def clashes(patterns: Sequence[str], checkout: Path, sources: Sources) -> Iterator[Clash]:
    """Yield every pattern that matches a source or a folder that contains one."""
    for pattern in patterns:
        for path in find([pattern], checkout):
            what = sources.within(path)
            if what:
                yield Clash(pattern, path, what)


def set_aside(patterns: Sequence[str], *, checkout: Path, output_dir: Path, run: Run, sources: Sources) -> Judged:
    """Move every product that may not be reused.

    Raises
    ------
    BrokenInputError
        A pattern matches a source, or a product that may not be reused lies behind a symlink outside the
        checkout; nothing was moved.
    RecordError
        A product cannot be moved.
    """
    clash = next(clashes(patterns, checkout, sources), None)
    if clash:
        raise BrokenInputError(
            f"notebook {run.name!r}: {clash}", hint="write a narrower pattern under `products`, such as out/*.h5ad"
        )
    reusable = product_records.reusable(output_dir, run)
    looks = {path: product_records.fingerprint(checkout / path) for path in find(patterns, checkout)}
    reused = {str(path): look for path, look in looks.items() if look in reusable.get(str(path), ())}
    doubtful = [path for path in looks if str(path) not in reused]
    for path in doubtful:
        _check_inside(path, checkout, run.name)
    moved = []
    for path in doubtful:
        target = _moved(checkout, path, run.name)
        moved.append(str(target.relative_to(checkout)))
        reason = "not made by a succeeded run of this source with these parameters"
        log.warning("product-set-aside", nb=run.name, product=path, to=moved[-1], reason=reason)
    return Judged(tuple(moved), reused)


def record(
    patterns: Sequence[str],
    *,
    checkout: Path,
    output_dir: Path,
    run: Run,
    reused: Mapping[str, Fingerprint],
    redactor: Redactor | None = None,
) -> tuple[str, ...]:
    """Record the products of a succeeded run and return the paths of all existing products.

    Parameters
    ----------
    reused
        Products that were valid before the run and may not have been written by it.
    redactor
        The secrets that no file may contain.
    """
    now = {str(path): product_records.fingerprint(checkout / path) for path in find(patterns, checkout)}
    product_records.update(output_dir, run, now, reused, redactor)
    return tuple(now)


def are_complete(patterns: Sequence[str], *, checkout: Path, output_dir: Path, run: Run) -> bool:
    """Return True if every pattern has products and all of them may be reused."""
    reusable = product_records.reusable(output_dir, run)
    each = [find([pattern], checkout) for pattern in patterns]
    return all(
        paths and all(product_records.fingerprint(checkout / path) in reusable.get(str(path), ()) for path in paths)
        for paths in each
    )


@contextlib.contextmanager
def exclusive(
    shared: Sequence[str],
    *,
    checkout: Path,
    warm: bool,
    name: str,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Keep notebooks that share files from running at the same time until the files exist.

    Parameters
    ----------
    shared
        Patterns of the shared products.
    warm
        True if the files may be reused: any number of notebooks may run.
    sleep
        Waits between two attempts to lock; an exception from it ends the wait.
    """
    with contextlib.ExitStack() as stack:
        for key in sorted(set(shared)):  # sorted, to avoid deadlocks
            lock = checkout / ASIDE / "locks" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.lock"

            def log_wait(key: str = key) -> None:
                log.info("waits", nb=name, reason=f"another notebook is making {key}")

            try:
                stack.enter_context(locked(lock, shared=warm, waiting=log_wait, sleep=sleep))
            except OSError as error:
                log.warning("lock-unsupported", path=lock, reason=error.strerror)
        yield


def _check_inside(path: Path, checkout: Path, name: str) -> None:
    """Refuse a product outside the checkout: it may be another user's file."""
    place = (checkout / path).parent.resolve()
    if not place.is_relative_to(checkout.resolve()):
        raise BrokenInputError(
            f"notebook {name!r}: the product {path} lies outside the checkout, in {place}, and was not made by a "
            "succeeded run of this source with these parameters: it can be neither reused nor moved",
            hint="delete it if it is a leftover, or move its folder into the checkout; declare data under `datasets`",
        )


def _moved(checkout: Path, path: Path, name: str) -> Path:
    """Move a product below `.set-aside`, or rename it in place if that is another file system."""
    places: tuple[Callable[[int], Path], ...] = (
        lambda number: checkout / ASIDE / name / str(number) / path,
        lambda number: (checkout / path).with_name(f".{path.name}.set-aside-{number}"),
    )
    for place in places:
        target = next(free for number in itertools.count(1) if not (free := place(number)).exists())
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (checkout / path).rename(target)
        except OSError as error:
            problem = error
        else:
            return target
    raise RecordError(
        f"cannot move {checkout / path} aside: {problem.strerror}",
        hint="move or delete it; the notebook would reuse it",
    ) from problem
