# SPDX-License-Identifier: Apache-2.0
"""Generate a starter plan for a folder of notebooks: names, kernels, needs, products, small requirements.

Guessed from the sources alone and commented, for people to review and correct.
"""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from runner.core.errors import BrokenInputError, UsageError
from runner.core.files import folded
from runner.core.notebook_document import code_cells, read_notebook
from runner.plan.job import EXECUTED_SUFFIX
from runner.stages.prepare import dataset_urls
from runner.stages.prepare.cell_source import parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nbformat import NotebookNode

SCHEMA_FILE = "plan.schema.json"
MOST = 500
"""Maximum number of notebooks in a folder."""
_GPU_MODULES = ("cudf", "cugraph", "cuml", "cupy", "cuspatial", "dask_cuda", "dask_cudf", "rapids_singlecell", "rmm")
_NAME_BYTES = 120
_NOT_NAME = re.compile(r"[^\w.-]+")
_WRITES = re.compile(r"(to_|write|save|dump|urlretrieve$|wget)", re.IGNORECASE)
_READS = re.compile(r"(read|load|open_|imread|fromfile|genfromtxt|scan_)", re.IGNORECASE)
_FILE = re.compile(r"[^\s:*?<>|]{0,400}[^/\s:*?<>|]\.[A-Za-z][A-Za-z0-9]{0,15}")
"""A path with a suffix that is not a URL."""


@dataclass(frozen=True, slots=True)
class FileUses:
    """Files as spelled in the notebook, by their first use, and imported modules."""

    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    tries: set[str] = field(default_factory=set)
    """Modules imported only conditionally."""


@dataclass(frozen=True, slots=True)
class Found:
    """A notebook, with paths relative to the plan's folder."""

    name: str
    path: str
    kernel: str | None
    uses: FileUses


@dataclass(frozen=True, slots=True)
class Starter:
    """The plan's text, and why notebooks were left out."""

    text: str
    notebooks: int
    left_out: tuple[str, ...]


def starter(folder: Path, root: Path) -> Starter:
    """Return a plan for the notebooks in a folder, with paths relative to the plan's folder.

    Raises
    ------
    UsageError
        The folder has no notebook or more than `MOST`, or is not below the plan's folder.
    """
    if not folder.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"{folder} is not below {root}, the folder of the plan", hint="write the plan above it with --to"
        )
    found: list[Found] = []
    left_out = []
    for path in _notebooks(folder):
        try:
            notebook = read_notebook(path)
        except BrokenInputError as error:
            left_out.append(error.message)
            continue
        kernel = notebook.metadata.get("kernelspec", {}).get("name")
        taken = {folded(one.name) for one in found}
        found.append(
            Found(_name(path, folder, taken), _from(root, path), kernel, _placed(file_uses(notebook), path, root))
        )
    if not found:
        why = f": {left_out[0]}" if left_out else ""
        raise UsageError(f"no notebook found in {folder}{why}", hint="give a folder with .ipynb files with --from")
    return Starter(_text(_ordered(found), root.absolute().name), len(found), tuple(left_out))


def _notebooks(folder: Path) -> list[Path]:
    """Return the notebooks below a folder, without checkpoints, outputs of runs and hidden folders."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith((".", "_")) and one != "attempts")
        found += [Path(place, one) for one in names if one.endswith(".ipynb") and not one.endswith(EXECUTED_SUFFIX)]
        if len(found) > MOST:
            raise UsageError(f"{folder} has more than {MOST} notebooks", hint="give a smaller folder with --from")
    return sorted(found)


def _from(root: Path, path: Path) -> str:
    return PurePosixPath(os.path.relpath(path, root)).as_posix()


def _name(path: Path, folder: Path, taken: set[str]) -> str:
    """Return the file's name, prefixed with its folders if another notebook has that name."""
    parts = [_NOT_NAME.sub("-", part).strip("-.") for part in path.relative_to(folder).with_suffix("").parts]
    own = parts[-1] or "notebook"
    wanted = [own, "-".join([*parts[:-1], own]), *(f"{own}-{number}" for number in range(2, MOST + 2))]
    short = (one.encode()[-_NAME_BYTES:].decode(errors="ignore").lstrip("-.") for one in wanted)
    return next(one for one in short if one and folded(one) not in taken)


def _placed(uses: FileUses, notebook: Path, root: Path) -> FileUses:
    """Return the same with paths relative to the plan's folder, without files outside of it."""

    def inside(paths: Sequence[str]) -> list[str]:
        placed = [_from(root, Path(os.path.normpath(notebook.parent / one))) for one in paths]
        return [one for one in dict.fromkeys(placed) if not one.startswith("..")]

    return dataclasses.replace(uses, reads=inside(uses.reads), writes=inside(uses.writes))


def _needs(notebook: Found, others: Sequence[Found]) -> dict[str, list[str]]:
    """Return the files that a notebook reads, by the name of the notebook that writes them."""
    shared = {one.name: [file for file in notebook.uses.reads if file in one.uses.writes] for one in others}
    return {name: files for name, files in shared.items() if files and name != notebook.name}


def _ordered(found: Sequence[Found]) -> list[tuple[Found, dict[str, list[str]]]]:
    """Return the notebooks with their needs in topological order, else by name."""
    needs = {one.name: _needs(one, found) for one in found}
    position = {one.name: number for number, one in enumerate(found)}
    sorter = graphlib.TopologicalSorter(needs)
    try:
        sorter.prepare()
    except graphlib.CycleError:  # notebooks that read each other's files: the first by name needs no other
        needs = {
            name: {other: files for other, files in asked.items() if position[other] < position[name]}
            for name, asked in needs.items()
        }
        sorter = graphlib.TopologicalSorter(needs)
        sorter.prepare()
    order: list[str] = []
    ready = list(sorter.get_ready())
    while ready:
        ready.sort(key=position.__getitem__)
        order.append(ready.pop(0))
        sorter.done(order[-1])
        ready += sorter.get_ready()
    return [(found[position[name]], needs[name]) for name in order]


def _text(notebooks: Sequence[tuple[Found, dict[str, list[str]]]], name: str) -> str:
    kernels = {one.kernel for one, _ in notebooks}
    common = kernels.pop() if len(kernels) == 1 else None
    lines = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        "# Generated by `runner plan init`: needs, products and GPUs are guesses from the sources. Review them, then",
        "#   runner plan check plan.yaml",
        "#   runner run-all plan.yaml                # on this machine",
        "#   runner cluster run --plan plan.yaml     # on a cluster; set --repository-url to the notebooks' repository",
        "version: 1",
        f"name: {_yaml(_NOT_NAME.sub('-', name).strip('-.') or 'plan')}",
        "",
        "defaults:                                 # for each notebook that does not override them",
        *([f"  kernel: {_yaml(common)}"] if common else []),
        "  timeout: 1h                             # after that the notebook is stopped and its results are saved",
        "  requires: {cpus: 1, memory_gb: 4}       # more for big data; gpus: 1, gpu_memory_gb: 24 for a GPU",
        "",
        "notebooks:                                # run from top to bottom",
    ]
    for one, needs in notebooks:
        lines += [f"  - name: {_yaml(one.name)}", f"    path: {_yaml(one.path)}"]
        if one.kernel and not common:
            lines.append(f"    kernel: {_yaml(one.kernel)}")
        for modules, asked in ((one.uses.imports, "gpus: 1"), (one.uses.tries, "gpus: 1, cpu_fallback: true")):
            if used := ", ".join(name for name in _GPU_MODULES if name in modules):
                lines.append(f"    requires: {{{asked}}}  # it imports {used}")
                break
        if needs:
            files = list(dict.fromkeys(file for files in needs.values() for file in files))
            lines.append(f"    needs: {_yaml(list(needs))}  # reads {_yaml(files[:4])}")
        if one.uses.writes:
            lines.append(f"    products: {_yaml(one.uses.writes)}  # files of an earlier run are moved aside")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    """Return a value on one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True)
    text = text.removesuffix("...\n").strip()
    return text if "\n" not in text else json.dumps(value)


def file_uses(notebook: NotebookNode) -> FileUses:
    """Return the files and modules that a notebook uses."""
    found = FileUses()
    known: dict[str, str] = {}
    for cell in code_cells(notebook):
        source = parse(cell.source)
        for statement in source.tree.body if source else ():
            calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call))
            for node in sorted(calls, key=lambda node: (node.end_lineno, node.end_col_offset)):
                for path, writes in _uses(node, known):
                    if path not in found.reads and path not in found.writes:
                        (found.writes if writes else found.reads).append(path)
            _note(statement, known, found)
    return found


def _note(statement: ast.stmt, known: dict[str, str], found: FileUses) -> None:
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        path = _path(statement.value, known)
        if path is None:
            known.pop(statement.targets[0].id, None)
        else:
            known[statement.targets[0].id] = path
    for node in ast.walk(statement):
        modules = found.imports if node is statement else found.tries
        if isinstance(node, ast.Import):
            modules.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])


def _uses(call: ast.Call, known: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield each file of a call, and True if the call writes it."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    arguments = [*call.args[:2], *(one.value for one in call.keywords)]
    if isinstance(call.func, ast.Attribute):
        arguments.append(call.func.value)
    if name == "open":
        modes = [text for one in arguments if (text := dataset_urls.folded(one, known)) and set(text) <= set("rwxab+t")]
        writes = bool(modes) and bool(set(modes[0]) & set("wxa"))
    elif _WRITES.match(name) or _READS.match(name):
        writes = _WRITES.match(name) is not None
    else:
        return
    for one in arguments:
        path = _path(one, known)
        if path is not None and _FILE.fullmatch(path):
            yield path, writes


def _path(node: ast.AST, known: Mapping[str, str]) -> str | None:
    """Return the path of an expression of constants, ``Path`` and ``join``, None if known only at run time."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        parts = [_path(node.left, known), _path(node.right, known)]
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in {"Path", "PurePath", "join"} or not node.args:
            return None
        parts = [_path(one, known) for one in node.args]
    else:
        return dataset_urls.folded(node, known)
    texts = [part for part in parts if part is not None]
    return "/".join(texts) if len(texts) == len(parts) else None
