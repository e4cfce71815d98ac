# SPDX-License-Identifier: Apache-2.0
"""Files that a notebook makes in the checkout, and whether one found there may be taken for data.

The notebooks skip work when its result exists: a file that a killed run left half written would
pass for the whole one. So a product that is found before a run stands only if a run that
succeeded recorded it just as it is now: one of the same source and parameters, or one of
another notebook that shares the file and whose source is unchanged. Anything else is moved to
`.set-aside/NAME/N/` in the checkout, where no pattern finds it and nothing is lost.

The record is `.NAME.products.json` in the output folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import files, log
from runner.data.locks import locked
from runner.errors import BrokenInputError, RecordError

if TYPE_CHECKING:
    from runner.plan import Rule

ASIDE = ".set-aside"
_PATTERN = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Whose products these are.

    ``source`` is the notebook's path in the checkout. ``identity`` is the same for two runs that
    should make the same products, see `identity`.
    """

    name: str
    source: str
    source_sha256: str
    identity: str


def identity(source_sha256: str, parameters: Mapping[str, Any], rules: Iterable[Rule]) -> str:
    """Return what two runs must share for one to take the other's products: source, parameters, rules."""
    parts = [source_sha256, dict(parameters), [rule.model_dump(mode="json") for rule in rules]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def find(patterns: Sequence[str], checkout: Path) -> list[Path]:
    """Return what the patterns match, relative to the checkout; a folder stands for all that is in it."""
    found: set[Path] = set()
    for pattern in patterns:
        matches = checkout.glob(pattern) if _PATTERN & set(pattern) else [checkout / pattern]
        found |= {match.relative_to(checkout) for match in matches if match.exists() or match.is_symlink()}
    kept = {path for path in found if path.parts and path.parts[0] not in {ASIDE, ".git"}}
    return sorted(path for path in kept if not any(parent in kept for parent in path.parents))


def set_aside(patterns: Sequence[str], *, checkout: Path, output_dir: Path, run: Run) -> tuple[str, ...]:
    """Move every product that may not be taken for data, and return where each went.

    Raises
    ------
    BrokenInputError
        A pattern matches the notebook itself.
    RecordError
        A product cannot be moved.
    """
    found = find(patterns, checkout)
    if Path(run.source) in found:
        raise BrokenInputError(
            f"notebook {run.name!r}: its products include the notebook {run.source} itself",
            hint="write a narrower pattern under `products`",
        )
    trusted = _trusted(checkout, output_dir, run)
    moved = []
    for path in found:
        if trusted.get(str(path)) == _fingerprint(checkout / path):
            continue
        target = _moved(checkout, path, run.name)
        moved.append(str(target.relative_to(checkout)))
        log.warning("product-set-aside", nb=run.name, product=path, to=moved[-1], reason="no succeeded run recorded it")
    return tuple(moved)


def record(patterns: Sequence[str], *, checkout: Path, output_dir: Path, run: Run) -> tuple[str, ...]:
    """Record the products that a run which succeeded leaves, and return their paths."""
    prints = {str(path): _fingerprint(checkout / path) for path in find(patterns, checkout)}
    document = {
        "schema_version": 1,
        "notebook": run.name,
        "source": run.source,
        "source_sha256": run.source_sha256,
        "identity": run.identity,
        "products": prints,
    }
    files.write(_record_path(output_dir, run.name), json.dumps(document, indent=1) + "\n")
    return tuple(prints)


def are_complete(patterns: Sequence[str], *, checkout: Path, output_dir: Path, run: Run) -> bool:
    """Tell whether every pattern has products and all of them may be taken for data."""
    trusted = _trusted(checkout, output_dir, run)
    each = [find([pattern], checkout) for pattern in patterns]
    return all(
        paths and all(trusted.get(str(path)) == _fingerprint(checkout / path) for path in paths) for paths in each
    )


@contextlib.contextmanager
def exclusive(shared: Sequence[str], *, checkout: Path, warm: bool, name: str) -> Iterator[None]:
    """Keep notebooks that share files from running at once while the files are still to be made.

    Parameters
    ----------
    shared
        Names of what is shared: the patterns of products.
    warm
        The files are there and may be taken for data: any number may run.
    """
    with contextlib.ExitStack() as stack:
        for key in sorted(set(shared)):  # sorted: two notebooks never wait for each other
            lock = checkout / ASIDE / "locks" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.lock"

            def say(key: str = key) -> None:
                log.info("waits", nb=name, reason=f"another notebook is making {key}")

            try:
                stack.enter_context(locked(lock, shared=warm, waiting=say))
            except OSError as error:
                log.warning("lock-unsupported", path=lock, reason=error.strerror)
        yield


def _record_path(output_dir: Path, name: str) -> Path:
    return output_dir / f".{name}.products.json"


def _trusted(checkout: Path, output_dir: Path, run: Run) -> dict[str, Any]:
    """Return path and fingerprint of every product that a succeeded run vouches for."""
    vouched: dict[str, Any] = {}
    for path in sorted(output_dir.glob(".*.products.json")):
        document = _read(path)
        own = document.get("notebook") == run.name
        if document.get("identity") == run.identity if own else _source_unchanged(checkout, document):
            vouched |= document["products"]
    return vouched


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) and isinstance(document.get("products"), dict) else {}


def _source_unchanged(checkout: Path, document: dict[str, Any]) -> bool:
    """Tell whether the notebook that made the products is still the same."""
    source = document.get("source")
    if not isinstance(source, str):
        return False
    try:
        digest = hashlib.sha256((checkout / source).read_bytes()).hexdigest()
    except OSError:
        return False
    return digest == document.get("source_sha256")


def _fingerprint(path: Path) -> dict[str, int]:
    """Return what changes when a file or anything in a folder is written: number, sizes and newest time."""
    count = size = newest = 0
    for file in _files(path):
        status = file.lstat()
        count, size, newest = count + 1, size + status.st_size, max(newest, status.st_mtime_ns)
    return {"files": count, "bytes": size, "modified_ns": newest}


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _folders, names in os.walk(path):
        for name in names:
            yield Path(folder, name)


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
