# SPDX-License-Identifier: Apache-2.0
"""Records of the runs that made each product, so that a later run can reuse it.

A succeeded run writes `.NAME.products.json` into the output folder: the fingerprint of each product
that it wrote, and its origin (source, parameters, rules). A file that the run only found stays in
the record of the run that wrote it.
"""

from __future__ import annotations

import contextlib
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
    """A run that makes products.

    ``source`` is the notebook's path in the checkout. ``identity`` is equal for two runs that
    should make the same products, see `identity`. ``takes`` are the current identities of notebooks
    that share files with this one, whose products it may reuse.
    """

    name: str
    source: str
    source_sha256: str
    identity: str
    takes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Number, total size and newest modification time of the files of a product."""

    files: int
    bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A product as its run left it."""

    fingerprint: Fingerprint
    notebook: str
    source: str
    source_sha256: str
    identity: str


def identity(source_sha256: str, parameters: Mapping[str, Any], rules: Iterable[Rule]) -> str:
    """Return a hash of source, parameters and rules, equal for runs that may reuse each other's products."""
    parts = [source_sha256, _ordered(dict(parameters)), [rule.model_dump(mode="json") for rule in rules]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def identity_now(notebook: Notebook, checkout: Path, given: Mapping[str, Any]) -> str | None:
    """Return the identity of a notebook of the plan if run now, None if it cannot be read.

    Parameters
    ----------
    given
        Parameters of the command line. Those whose name does not occur in the notebook are ignored.
    """
    try:
        source = (checkout / notebook.path).read_bytes()
    except OSError:
        return None
    words = set(re.findall(r"\w+", source.decode("utf-8", "replace")))
    parameters = notebook.parameters | {name: value for name, value in given.items() if name in words}
    return identity(hashlib.sha256(source).hexdigest(), parameters, notebook.prepare)


def fingerprint(path: Path) -> Fingerprint:
    """Return the fingerprint of a file or folder."""
    count = size = newest = 0
    for file in _files(path):
        status = file.lstat()
        count, size, newest = count + 1, size + status.st_size, max(newest, status.st_mtime_ns)
    return Fingerprint(count, size, newest)


def reusable(output_dir: Path, run: Run) -> dict[str, set[Fingerprint]]:
    """Return the fingerprints under which a run may reuse each product."""
    found: dict[str, set[Fingerprint]] = {}
    for path in sorted(output_dir.glob(".*.products.json")):
        for product, made in _read(path):
            if made.identity == run.identity or made.identity in run.takes:
                found.setdefault(product, set()).add(made.fingerprint)
    return found


def update(
    output_dir: Path,
    run: Run,
    now: Mapping[str, Fingerprint],
    reused: Mapping[str, Fingerprint],
    redactor: Redactor | None = None,
) -> None:
    """Record the products that a succeeded run wrote, and keep earlier entries of those it reused.

    Parameters
    ----------
    now
        Every product after the run.
    reused
        Products that were valid before the run, with their fingerprints then.
    redactor
        A product whose name contains a secret is not recorded; it is made again.
    """
    document: dict[str, list[dict[str, Any]]] = {}
    for product, made in _read(_path(output_dir, run.name)):
        if now.get(product) == reused.get(product) == made.fingerprint:
            document.setdefault(product, []).append(asdict(made))
    for product, look in now.items():
        if redactor is not None and redactor.shown(product) != product:
            continue
        if look != reused.get(product):
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
    """Yield the entries of a record; none if it is damaged or of another version."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema_version"] == _SCHEMA_VERSION:
            products = document["products"].items()
            yield from [(product, _made(entry)) for product, entries in products for entry in entries]


def _made(entry: Mapping[str, Any]) -> Made:
    look = Fingerprint(**entry["fingerprint"])
    hash(look)  # raises TypeError for a list in place of a number
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
    """Convert mappings to sorted pairs: YAML allows keys of several types, which JSON cannot sort."""
    if isinstance(value, Mapping):
        return sorted(([repr(key), _ordered(item)] for key, item in value.items()), key=lambda pair: pair[0])
    return [_ordered(item) for item in value] if isinstance(value, list | tuple) else value
