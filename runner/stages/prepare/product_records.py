# SPDX-License-Identifier: Apache-2.0
"""Who made a product: the memory that lets one run take what another left.

A succeeded run writes `.NAME.products.json` into the output folder: of each product that it
wrote itself, how the file looked then and from what it was made (source, parameters, rules). A
file that it only found stays with whoever wrote it, so nobody vouches for the work of another.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.core import files

if TYPE_CHECKING:
    from runner.core.redact import Redactor
    from runner.plan.model import Notebook, Rule

_SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as the maker of products.

    ``source`` is the notebook's path in the checkout. ``identity`` is the same for two runs that
    should make the same products, see `identity`. Products made under one of ``takes`` are data
    to this run: those of notebooks that share files with it, as they would run now.
    """

    name: str
    source: str
    source_sha256: str
    identity: str
    takes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What changes when a file, or anything in a folder, is written: number, sizes and newest time."""

    files: int
    bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One product as it was when its maker had succeeded."""

    fingerprint: Fingerprint
    notebook: str
    source: str
    source_sha256: str
    identity: str


def identity(source_sha256: str, parameters: Mapping[str, Any], rules: Iterable[Rule]) -> str:
    """Return what two runs must share for one to take the other's products: source, parameters, rules."""
    parts = [source_sha256, _ordered(dict(parameters)), [rule.model_dump(mode="json") for rule in rules]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def identity_now(notebook: Notebook, checkout: Path, given: Mapping[str, Any]) -> str | None:
    """Return under which identity a notebook of the plan would run now; None when it cannot be read.

    Parameters
    ----------
    given
        Parameters of the command line. One whose name does not stand in the notebook says nothing of it.
    """
    try:
        source = (checkout / notebook.path).read_bytes()
    except OSError:
        return None
    words = set(re.findall(r"\w+", source.decode("utf-8", "replace")))
    parameters = notebook.parameters | {name: value for name, value in given.items() if name in words}
    return identity(hashlib.sha256(source).hexdigest(), parameters, notebook.prepare)


def fingerprint(path: Path) -> Fingerprint:
    """Return how a file or a folder looks now."""
    count = size = newest = 0
    for file in _files(path):
        status = file.lstat()
        count, size, newest = count + 1, size + status.st_size, max(newest, status.st_mtime_ns)
    return Fingerprint(count, size, newest)


def vouched(output_dir: Path, run: Run) -> dict[str, set[Fingerprint]]:
    """Return the looks under which each product may be taken for data by a run."""
    found: dict[str, set[Fingerprint]] = {}
    for path in sorted(output_dir.glob(".*.products.json")):
        for product, made in _read(path):
            if made.identity == run.identity or made.identity in run.takes:
                found.setdefault(product, set()).add(made.fingerprint)
    return found


def remember(
    output_dir: Path,
    run: Run,
    now: Mapping[str, Fingerprint],
    standing: Mapping[str, Fingerprint],
    redactor: Redactor | None = None,
) -> None:
    """Record the products that a succeeded run wrote; of those it found, only what it recorded earlier.

    Parameters
    ----------
    now
        Every product as the run leaves it.
    standing
        Those that were data before it began, as they were.
    redactor
        A product whose name holds a secret is not recorded: it is made again rather than reported.
    """
    document: dict[str, list[dict[str, Any]]] = {}
    for product, made in _read(_path(output_dir, run.name)):
        if now.get(product) == standing.get(product) == made.fingerprint:
            document.setdefault(product, []).append(asdict(made))
    for product, look in now.items():
        if redactor is not None and redactor.shown(product) != product:
            continue
        if look != standing.get(product):
            made = Made(
                fingerprint=look,
                notebook=run.name,
                source=run.source,
                source_sha256=run.source_sha256,
                identity=run.identity,
            )
            document[product] = [asdict(made)]
    text = json.dumps({"schema_version": _SCHEMA_VERSION, "products": document}, indent=1)
    files.write(_path(output_dir, run.name), text + "\n")


def _path(output_dir: Path, name: str) -> Path:
    return output_dir / f".{name}.products.json"


def _read(path: Path) -> Iterator[tuple[str, Made]]:
    """Yield what a record holds; one that is damaged, or of another version, holds nothing."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] != _SCHEMA_VERSION:
            return
        found = [(product, _made(entry)) for product, entries in document["products"].items() for entry in entries]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return
    yield from found


def _made(entry: Mapping[str, Any]) -> Made:
    look = Fingerprint(**entry["fingerprint"])
    hash(look)  # a list in place of a number is not a fingerprint
    texts = {key: str(entry[key]) for key in ("notebook", "source", "source_sha256", "identity")}
    return Made(fingerprint=look, **texts)


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _folders, names in os.walk(path):
        for name in names:
            yield Path(folder, name)


def _ordered(value: Any) -> Any:
    """Write mappings as sorted pairs: YAML has keys of several kinds, which JSON cannot sort."""
    if isinstance(value, Mapping):
        return sorted(([repr(key), _ordered(item)] for key, item in value.items()), key=lambda pair: pair[0])
    return [_ordered(item) for item in value] if isinstance(value, list | tuple) else value
