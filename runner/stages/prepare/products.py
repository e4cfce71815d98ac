# SPDX-License-Identifier: Apache-2.0
"""Files that a notebook makes in the checkout, and whether one found there may be taken for data.

The notebooks skip work when its result exists: a file that a killed run left half written would
pass for the whole one. So a product that is found before a run stands only if it is as a run
that succeeded made it, from the same source and parameters (see `runner.stages.prepare.product_records`).
Anything else is moved to `.set-aside/NAME/N/` in the checkout, where no pattern finds it and
nothing is lost. Sources are never moved: a pattern that reaches one is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
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
    """What became of the products that were there before a run."""

    moved: tuple[str, ...]
    standing: Mapping[str, Fingerprint]


@dataclass(frozen=True, slots=True)
class Clash:
    """A pattern of products that reaches what is not a product."""

    pattern: str
    path: Path
    what: str

    def __str__(self) -> str:
        return f"the pattern {self.pattern!r} matches {self.path}: {self.what} would be moved away"


def find(patterns: Sequence[str], checkout: Path) -> list[Path]:
    """Return what the patterns match, relative to the checkout; a folder stands for all that is in it."""
    found: set[Path] = set()
    for pattern in patterns:
        matches = checkout.glob(pattern) if _PATTERN & set(pattern) else [checkout / pattern]
        found |= {match.relative_to(checkout) for match in matches if match.exists() or match.is_symlink()}
    kept = {path for path in found if path.parts[:1] not in {(ASIDE,), (".git",)}}
    return sorted(path for path in kept if not any(parent in kept for parent in path.parents))


def clashes(patterns: Sequence[str], checkout: Path, sources: Sources) -> Iterator[Clash]:
    """Yield every pattern that matches a source, or a folder with one in it."""
    for pattern in patterns:
        for path in find([pattern], checkout):
            what = sources.within(path)
            if what:
                yield Clash(pattern, path, what)


def set_aside(patterns: Sequence[str], *, checkout: Path, output_dir: Path, run: Run, sources: Sources) -> Judged:
    """Move every product that may not be taken for data.

    Raises
    ------
    BrokenInputError
        A pattern matches a source, or a product that may not be taken for data lies behind a link outside the
        checkout, where nothing is ours to move; nothing was moved.
    RecordError
        A product cannot be moved.
    """
    clash = next(clashes(patterns, checkout, sources), None)
    if clash:
        raise BrokenInputError(
            f"notebook {run.name!r}: {clash}", hint="write a narrower pattern under `products`, such as out/*.h5ad"
        )
    vouched = product_records.vouched(output_dir, run)
    looks = {path: product_records.fingerprint(checkout / path) for path in find(patterns, checkout)}
    standing = {str(path): look for path, look in looks.items() if look in vouched.get(str(path), ())}
    doubtful = [path for path in looks if str(path) not in standing]
    for path in doubtful:
        _check_inside(path, checkout, run.name)
    moved = []
    for path in doubtful:
        target = _moved(checkout, path, run.name)
        moved.append(str(target.relative_to(checkout)))
        reason = "no succeeded run of this source and these parameters made it so"
        log.warning("product-set-aside", nb=run.name, product=path, to=moved[-1], reason=reason)
    return Judged(tuple(moved), standing)


def record(
    patterns: Sequence[str],
    *,
    checkout: Path,
    output_dir: Path,
    run: Run,
    standing: Mapping[str, Fingerprint],
    redactor: Redactor | None = None,
) -> tuple[str, ...]:
    """Record which products a run made that succeeded, and return the paths of all that are there.

    Parameters
    ----------
    standing
        Products that were there and good before it, which it may have found only.
    redactor
        Knows the secrets that no file may hold.
    """
    now = {str(path): product_records.fingerprint(checkout / path) for path in find(patterns, checkout)}
    product_records.remember(output_dir, run, now, standing, redactor)
    return tuple(now)


def are_complete(patterns: Sequence[str], *, checkout: Path, output_dir: Path, run: Run) -> bool:
    """Return True if every pattern has products and all of them may be taken for data."""
    vouched = product_records.vouched(output_dir, run)
    each = [find([pattern], checkout) for pattern in patterns]
    return all(
        paths and all(product_records.fingerprint(checkout / path) in vouched.get(str(path), ()) for path in paths)
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
    """Keep notebooks that share files from running at once while the files are still to be made.

    Parameters
    ----------
    shared
        Names of what is shared: the patterns of products.
    warm
        The files are there and may be taken for data: any number may run.
    sleep
        Waits between two looks at a lock; whatever it raises ends the wait.
    """
    with contextlib.ExitStack() as stack:
        for key in sorted(set(shared)):  # sorted: two notebooks never wait for each other
            lock = checkout / ASIDE / "locks" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.lock"

            def say(key: str = key) -> None:
                log.info("waits", nb=name, reason=f"another notebook is making {key}")

            try:
                stack.enter_context(locked(lock, shared=warm, waiting=say, sleep=sleep))
            except OSError as error:
                log.warning("lock-unsupported", path=lock, reason=error.strerror)
        yield


def _check_inside(path: Path, checkout: Path, name: str) -> None:
    """Refuse a product that lies outside the checkout: a rename would move the file of somebody else."""
    place = (checkout / path).parent.resolve()
    if not place.is_relative_to(checkout.resolve()):
        raise BrokenInputError(
            f"notebook {name!r}: the product {path} lies outside the checkout, in {place}, and no succeeded run of "
            "this source and these parameters made it so: it may not be taken for data, and is not moved",
            hint="delete it if it is left over, or put its folder into the checkout; declare data under `datasets`",
        )


def _moved(checkout: Path, path: Path, name: str) -> Path:
    """Rename a product below `.set-aside`, or beside itself when that is another file system."""
    for target in (_free(checkout / ASIDE / name, path), _beside(checkout / path)):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            (checkout / path).rename(target)
        except OSError as error:
            problem = error
        else:
            return target
    raise RecordError(
        f"cannot move {checkout / path} aside: {problem.strerror}",
        hint="move or delete it; the run would take it for data",
    ) from problem


def _free(folder: Path, path: Path) -> Path:
    number = 1
    while (folder / str(number) / path).exists():
        number += 1
    return folder / str(number) / path


def _beside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f".{path.name}.set-aside-{number}")).exists():
        number += 1
    return target
