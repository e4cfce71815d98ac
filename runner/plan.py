# SPDX-License-Identifier: Apache-2.0
"""The plan: which notebooks, what each needs, and what it leaves.

`load` reads YAML (or a ConfigMap that holds it), checks it whole and says what is wrong with
file, key path and what is allowed. Nothing here touches a checkout or a machine.
"""

from __future__ import annotations

import difflib
import graphlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from runner.errors import PlanError, UsageError
from runner.files import check_name
from runner.records import Requirements
from runner.units import duration_seconds

SHUTDOWN_CELL = ("do_shutdown(True)", "IPython.Application.instance()")
"""Both texts stand in the cell with which the RAPIDS notebooks stop their own kernel."""


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not path.strip() or "\0" in path:
        raise ValueError(f"{path!r} leaves the folder; use a relative path without '..'")
    return path


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str):
        raise ValueError(f"{value!r} is no duration; write it like 90s, 15m, 2h")  # noqa: TRY004
    try:
        return duration_seconds(value)
    except UsageError as error:
        raise ValueError(str(error)) from error


def _name(value: str) -> str:
    try:
        return check_name(value)
    except UsageError as error:
        raise ValueError(str(error)) from error


def _text(value: Any) -> Any:
    """Give back what YAML made of an unquoted `n`, `1` or `1.5` as the text an environment holds."""
    if isinstance(value, bool):
        raise ValueError("is a boolean to YAML; put it in quotes")  # noqa: TRY004
    return str(value) if isinstance(value, int | float) else value


RelativePath = Annotated[str, AfterValidator(_inside)]
Duration = Annotated[float, BeforeValidator(_seconds)]
Name = Annotated[str, AfterValidator(_name)]
EnvValue = Annotated[str, BeforeValidator(_text)]
Environment = dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], EnvValue]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Requires(_Strict):
    """What the notebook asks of the machine."""

    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    gpu_memory_gb: Annotated[float, Field(gt=0)] | None = None
    cpus: Annotated[float, Field(gt=0)] | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    disk_gb: Annotated[float, Field(gt=0)] | None = None
    shm_gb: Annotated[float, Field(gt=0)] | None = None


class DropCells(_Strict):
    """Take out the code cells that contain every one of these texts."""

    containing: Annotated[list[str], Field(min_length=1)]
    times: Annotated[int, Field(ge=1)] | None = None


class Replace(_Strict):
    """Replace a text in the sources of code cells."""

    find: Annotated[str, Field(min_length=1)]
    with_: Annotated[str, Field(alias="with")]
    times: Annotated[int, Field(ge=1)] = 1


class Insert(_Strict):
    """Add a code cell before or after the one code cell that contains a text."""

    source: str
    before: str | None = None
    after: str | None = None


class Rule(_Strict):
    """One step of preparation: exactly one of its keys."""

    drop_cells: DropCells | None = None
    replace: Replace | None = None
    insert: Insert | None = None

    def model_post_init(self, _context: Any) -> None:
        """Check that the rule does one thing."""
        if sum(value is not None for value in (self.drop_cells, self.replace, self.insert)) != 1:
            raise ValueError("a rule has exactly one of drop_cells, replace, insert")


class Expect(_Strict):
    """What a successful run leaves."""

    files: list[RelativePath] = []
    min_figures: Annotated[int, Field(ge=0)] | None = None
    drift: Literal["off", "warn", "error"] = "warn"


class Place(_Strict):
    """Where a library looks for a dataset whose URL no source shows."""

    path: RelativePath
    env: Environment = {}


class Dataset(_Strict):
    """One file to be staged below the cache folder."""

    url: str
    path: RelativePath
    sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None
    md5: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")] | None = None
    bytes: Annotated[int, Field(ge=0)] | None = None
    place: Place | None = None


class Notebook(_Strict):
    """One notebook of the plan, defaults filled in."""

    name: Name
    path: RelativePath
    stage: str | None = None
    optional: bool = False
    needs: list[str] = []
    requires: Requires = Requires()
    parameters: dict[str, Any] = {}
    env: Environment = {}
    prepare: list[Rule] = []
    datasets: list[str] = []
    products: list[RelativePath] = []
    expect: Expect = Expect()
    timeout: Duration | None = None
    cell_timeout: Duration | None = None
    kernel: str | None = None
    cwd: RelativePath | None = None


class Plan(_Strict):
    """A whole plan."""

    version: Literal[1]
    name: Annotated[str, AfterValidator(_name)]
    defaults: dict[str, Any] = {}
    notebooks: Annotated[list[Notebook], Field(min_length=1)]
    datasets: dict[str, Dataset] = {}

    def notebook(self, name: str) -> Notebook:
        """Return a notebook by its name.

        Raises
        ------
        PlanError
            There is none; the message lists the names and the nearest one.
        """
        for notebook in self.notebooks:
            if notebook.name == name:
                return notebook
        names = [notebook.name for notebook in self.notebooks]
        near = difflib.get_close_matches(name, names, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise PlanError(f"the plan {self.name!r} has no notebook {name!r}", hint=f"{guess}it has {', '.join(names)}")


def requirements(requires: Requires, free_fraction: float = 0.95) -> Requirements:
    """Return what is asked of a machine: GPUs wanted are 1 when only their memory is given."""
    gpus = requires.gpus if requires.gpus is not None else int(requires.gpu_memory_gb is not None)
    return Requirements(
        gpus=gpus,
        gpu_memory_gb=requires.gpu_memory_gb,
        gpu_free_fraction=free_fraction,
        cpus=requires.cpus,
        memory_gb=requires.memory_gb,
        disk_gb=requires.disk_gb,
        shm_gb=requires.shm_gb,
    )


def load(path: Path) -> Plan:
    """Read and check a plan.

    Parameters
    ----------
    path
        YAML of a plan, or of a ConfigMap that holds one under ``data["plan.yaml"]``.

    Raises
    ------
    PlanError
        Unreadable, unknown keys, unknown needs, cycles, bad paths or units.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"cannot read the plan {path}: {error}", hint="give the path of a YAML file") from error
    return parse(text, str(path))


def is_config_map(path: Path) -> bool:
    """Tell whether the file is a ConfigMap around a plan; paths then start at the current folder."""
    import yaml

    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return isinstance(document, dict) and document.get("kind") == "ConfigMap"


def parse(text: str, where: str) -> Plan:
    """Check the text of a plan; ``where`` names its file in messages."""
    document = _yaml(text, where)
    if isinstance(document, dict) and document.get("kind") == "ConfigMap":
        inner = (document.get("data") or {}).get("plan.yaml")
        if not isinstance(inner, str):
            raise PlanError(f"{where}: the ConfigMap has no data['plan.yaml']", hint="put the plan under that key")
        where = f"{where} data['plan.yaml']"
        document = _yaml(inner, where)
    if not isinstance(document, dict):
        raise PlanError(
            f"{where}: a plan is a mapping, this is {type(document).__name__}", hint="see `runner plan schema`"
        )
    try:
        plan = Plan.model_validate(_with_defaults(document))
    except ValidationError as error:
        raise PlanError(f"{where}: {_explain(error)}", hint="see `runner plan schema`") from error
    _check_graph(plan, where)
    return plan


def _yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PlanError(
            f"{where}: no YAML: {' '.join(str(error).split())}", hint="check the indentation there"
        ) from error


_DEFAULTABLE = {
    "kernel",
    "timeout",
    "cell_timeout",
    "cwd",
    "env",
    "requires",
    "optional",
    "prepare",
    "stage",
    "parameters",
    "expect",
}


def _with_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """Fill each notebook from `defaults`: mappings are merged, lists and values replaced."""
    defaults = document.get("defaults") or {}
    if not isinstance(defaults, dict) or not isinstance(document.get("notebooks"), list):
        return document
    unknown = sorted(set(defaults) - _DEFAULTABLE)
    if unknown:
        raise PlanError(f"defaults: unknown key {unknown[0]!r}", hint=f"allowed: {', '.join(sorted(_DEFAULTABLE))}")
    notebooks = []
    for notebook in document["notebooks"]:
        if not isinstance(notebook, dict):
            notebooks.append(notebook)
            continue
        filled = dict(defaults)
        for key, value in notebook.items():
            base = defaults.get(key)
            filled[key] = {**base, **value} if isinstance(base, dict) and isinstance(value, dict) else value
        notebooks.append(filled)
    return {**document, "notebooks": notebooks}


def _explain(error: ValidationError) -> str:
    """Name key path, value and what is allowed for each fault, the first five of them."""
    lines = []
    for fault in error.errors(include_url=False)[:5]:
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
        if fault["type"] == "extra_forbidden":
            lines.append(f"{path or 'plan'}: unknown key")
        elif fault["type"] == "missing":
            lines.append(f"{path}: is required")
        else:
            lines.append(f"{path}: {fault['msg'].removeprefix('Value error, ')} (found {fault['input']!r:.80})")
    more = error.error_count() - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def _check_graph(plan: Plan, where: str) -> None:
    names = [notebook.name for notebook in plan.notebooks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(f"{where}: notebooks: the name {twice[0]!r} stands twice", hint="names are unique")
    for position, notebook in enumerate(plan.notebooks):
        for need in notebook.needs:
            if need not in names:
                raise PlanError(
                    f"{where}: notebooks[{position}].needs: unknown notebook {need!r}",
                    hint=f"it has {', '.join(names)}",
                )
        for dataset in notebook.datasets:
            if dataset not in plan.datasets:
                known = ", ".join(plan.datasets) or "none"
                raise PlanError(
                    f"{where}: notebooks[{position}].datasets: unknown dataset {dataset!r}", hint=f"it has {known}"
                )
    try:
        order = graphlib.TopologicalSorter({nb.name: nb.needs for nb in plan.notebooks})
        order.prepare()
    except graphlib.CycleError as error:
        raise PlanError(f"{where}: needs go in a circle: {' -> '.join(error.args[1])}", hint="break it") from error
    for position, notebook in enumerate(plan.notebooks):
        late = [need for need in notebook.needs if names.index(need) > position]
        if late:
            raise PlanError(
                f"{where}: notebooks[{position}].needs: {late[0]!r} stands later in the plan",
                hint="a plan is in the order of its run; move it before this one",
            )
